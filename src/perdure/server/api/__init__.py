"""The REST API: one module for each part of it, each with a `router` whose routes give their whole path."""

from __future__ import annotations

from fastapi import APIRouter

from perdure.server.api import (
    actions,
    audit,
    definitions,
    docs,
    endpoints,
    events,
    failures,
    health,
    keys,
    queues,
    runs,
    schedules,
    seeds,
    sessions,
    starts,
    stats,
    store,
    turns,
    undos,
    watching,
    workers,
    workflows,
)
from perdure.server.metrics import router as metrics

ROUTERS: tuple[APIRouter, ...] = (
    starts.router,
    actions.router,
    runs.router,
    watching.router,
    events.router,
    store.router,
    turns.router,
    workflows.router,
    definitions.router,
    queues.router,
    schedules.router,
    undos.router,
    workers.router,
    failures.router,
    stats.router,
    seeds.router,
    keys.router,
    endpoints.router,
    sessions.router,
    audit.router,
    health.router,
    metrics,
    docs.router,
)
"""Every part, in the order in which paths are looked up: what is asked most stands first."""
