"""What users write workflows with: decorators, `flow`, the class entrypoint, and the registry they fill."""
