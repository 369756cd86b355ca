"""The server: REST, dashboard and metrics over one engine for each namespace. It works no runs itself."""

from __future__ import annotations

from perdure.server.app import create_server
from perdure.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_server"]
