"""The dashboard: pages made by the server, with scripts and a style of its own, and nothing of anybody else's."""

from __future__ import annotations

from fastapi import APIRouter

from perdure.server.dashboard import assets
from perdure.server.dashboard.pages import (
    audit,
    definitions,
    endpoints,
    failures,
    keys,
    overview,
    queues,
    run,
    runs,
    schedules,
    undos,
    workers,
)

ROUTERS: tuple[APIRouter, ...] = (
    overview.router,
    runs.router,
    run.router,
    failures.router,
    queues.router,
    schedules.router,
    definitions.router,
    workers.router,
    endpoints.router,
    undos.router,
    audit.router,
    keys.router,
    assets.router(),
)
"""The pages, and their files."""
