"""Tokens, and what else is known of a step, to its pictures."""
