"""What works runs: claims, turns, attempts, leases."""
