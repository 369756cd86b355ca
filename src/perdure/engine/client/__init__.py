"""What a program asks of runs: start them, follow them, tell them things."""
