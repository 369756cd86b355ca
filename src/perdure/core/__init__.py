"""Decisions, without I/O, clock or chance.

`loop` is the private event loop that workflow code runs on; `replay` runs a workflow over its journal; `turn` adds
what is waited for and yields the decision to commit. Everything that happens comes in as a call with its time.
"""
