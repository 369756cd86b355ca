"""The store behind a Perdure server: a client's operations, over HTTP."""

from __future__ import annotations

from perdure.store.http.store import HttpStore

__all__ = ["HttpStore"]
