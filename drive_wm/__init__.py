"""drive_wm: a driving world model that one can train, question, steer and drive in."""

__version__ = "0.1.0"
