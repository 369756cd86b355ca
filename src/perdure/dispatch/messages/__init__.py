"""Messages: requests that are delivered to URLs, each a run of its own."""
