"""Workers: who is there, what they serve, how they are, and what they have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.model.decision import RunFilter
from perdure.model.run import RunStatus
from perdure.server.access import Access, Viewer
from perdure.server.dashboard.rendering import page, routes

COLLECTION = "workers"
"""The documents in which workers say how they are."""

MOST = 200
LEASES = 50

router = routes()


class WorkerRow(msgspec.Struct):
    """A worker as it is listed: from what it announced, and from what it says of itself where it does."""

    id: str
    seen_at: int
    is_silent: bool
    queues: list[str]
    versions: str
    host: str = ""
    in_hand: str = ""
    lag: str = ""
    started_at: int | None = None


@router.get("/workers")
async def list_workers(access: Viewer, request: Request) -> Response:
    """Show the workers, and which runs they have."""
    running = await access.app.client.find(RunFilter((RunStatus.RUNNING, RunStatus.COMPENSATING)), LEASES, None)
    return page(
        request,
        access,
        "workers.html",
        live="/api/v1/watch",
        every=10,
        workers=await _workers(access),
        leases=[run for run in running.runs if run.worker is not None],
    )


async def _workers(access: Access) -> list[WorkerRow]:
    now = access.app.world.now()
    rows: dict[str, WorkerRow] = {}
    versions: dict[str, list[str]] = {}
    for entry in await access.app.client.announced.entries():
        if not entry.worker:
            continue
        row = rows.setdefault(entry.worker, WorkerRow(entry.worker, entry.seen_at, False, [], ""))
        row.seen_at = max(row.seen_at, entry.seen_at)
        if entry.queue not in row.queues:
            row.queues.append(entry.queue)
        versions.setdefault(entry.worker, []).append(f"{entry.workflow} {entry.version}".strip())
    for document in await access.app.store.documents(COLLECTION, MOST):
        about = msgspec.json.decode(document.text or "{}")
        row = rows.setdefault(document.key, WorkerRow(document.key, document.at, False, [], ""))
        row.seen_at = max(row.seen_at, document.at)
        _add(row, about)
        if told := about.get("versions"):
            pairs = told.items() if isinstance(told, Mapping) else ((each, "") for each in told)
            versions[document.key] = [f"{name} {version}".strip() for name, version in pairs]
    for name, row in rows.items():
        row.is_silent = now - row.seen_at > WORKER_GONE_AFTER
        row.versions = ", ".join(versions.get(name, ()))
    return sorted(rows.values(), key=lambda row: -row.seen_at)[:MOST]


def _add(row: WorkerRow, about: Mapping[str, Any]) -> None:
    row.host = " ".join(str(about[name]) for name in ("host", "pid") if name in about)
    row.queues = [str(queue) for queue in about.get("queues", row.queues)]
    if "in_hand" in about:
        row.in_hand = f"{about['in_hand']}" + (f" of {about['concurrency']}" if "concurrency" in about else "")
    lag = about.get("loop_lag_ms", about.get("loop_lag"))
    row.lag = "" if lag is None else f"{lag} ms"
    row.started_at = _time(about.get("started_at"))


def _time(given: Any) -> int | None:
    """Return a time in milliseconds since the epoch, given so or in RFC 3339; None for none."""
    if isinstance(given, str):
        return round(dt.datetime.fromisoformat(given).timestamp() * 1000)
    return given if isinstance(given, int) else None
