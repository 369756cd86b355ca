"""QStash's HTTP API, version 2, over the messages of the dispatcher: what its own clients ask, unmodified."""

from fastapi import APIRouter

from perdure.server.qstash import (
    dlq,
    flow_control,
    groups,
    keys,
    logs,
    messages,
    missing,
    publishing,
    queues,
    schedules,
    workflows,
)

ROUTERS: tuple[APIRouter, ...] = (
    publishing.router,
    messages.router,
    dlq.router,
    logs.router,
    groups.router,
    queues.router,
    schedules.router,
    flow_control.router,
    keys.router,
    workflows.router,
    missing.router,
)
"""Every part, in the order in which paths are looked up: what is asked most stands first."""
