"""Perdure on each store; `engine` describes it, the other modules are its programs, which load nothing else."""
