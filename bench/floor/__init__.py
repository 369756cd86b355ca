"""The floor: the same rows, written by a bare batched client with no engine behind it."""
