"""The sequence, its transformer, the heads and the decoding."""
