"""What is fast and what is not, measured: `make bench` for this engine, `make bench-peers` for others beside it."""
