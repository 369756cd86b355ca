"""Graphs of steps, by code and as data: one kind of draft, checked and compiled in one place."""
