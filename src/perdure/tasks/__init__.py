"""Tasks that come with Perdure: HTTP calls, e-mail, PDF, data."""
