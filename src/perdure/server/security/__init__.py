"""Who may do what, how they prove who they are, and what is written down of what they did."""
