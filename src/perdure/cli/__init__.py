"""The command line: a thin face on the engine. Nothing else imports it, so the library never pays for it."""
