"""``world@1.0``: is the world model any good? Starts, futures, the probe that reads them, and its numbers."""
