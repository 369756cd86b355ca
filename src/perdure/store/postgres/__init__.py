"""The store in PostgreSQL, for programs on many machines."""

from perdure.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
