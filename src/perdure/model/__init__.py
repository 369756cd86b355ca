"""Frozen values that every layer speaks in. No I/O, no clock, no randomness; imports nothing of ours."""
