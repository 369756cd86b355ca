"""The board of queues, and the page of one."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.engine.queues import QueueOverview
from perdure.engine.settings import whose_workers
from perdure.server.access import Viewer
from perdure.server.api.models import Name
from perdure.server.dashboard.charts import chart
from perdure.server.dashboard.pages.runs import remark
from perdure.server.dashboard.rendering import COUNTED_WITHIN, page, routes
from perdure.server.portions import with_errors
from perdure.server.sampling import depths, overviews, rates, throughput

DEAD = 50
BOARD = 200
"""How many queues stand on the board."""

router = routes()


@router.get("/queues")
async def show_board(access: Viewer, request: Request) -> Response:
    """Show how full the queues are, and were."""
    sampler = access.server.sampler(access.namespace)
    sample = await sampler.latest_within(COUNTED_WITHIN)
    queues = await overviews(access.app, sample)
    samples = sampler.samples
    names = [queue.name for queue in queues[:BOARD]]
    due, ended = depths(samples, names), rates(samples, names)
    board = [(queue, chart(due[queue.name]), chart(ended[queue.name])) for queue in queues[:BOARD]]
    return page(
        request,
        access,
        "queues.html",
        live="/api/v1/watch",
        every=5 if sample else 1,
        sample=sample,
        throughput=chart(throughput(samples)),
        queues=[each for each in board if whose_workers(each[0].name) == each[0].name],
        schedules=[each for each in board if whose_workers(each[0].name) != each[0].name],
    )


@router.get("/queues/{name}")
async def show_queue(
    access: Viewer, request: Request, name: Name, cursor: Annotated[str, StringConstraints(max_length=200)] = ""
) -> Response:
    """Show a queue: how full it is, what it bounds, and what failed in it for good."""
    sampler = access.server.sampler(access.namespace)
    sample = await sampler.latest_within(COUNTED_WITHIN)
    queues = await overviews(access.app, sample)
    dead = await access.app.queue(name).dead(DEAD, cursor or None)
    now = access.app.world.now()
    return page(
        request,
        access,
        "queue.html",
        live="/api/v1/watch",
        every=5 if sample else 1,
        sample=sample,
        whose=whose_workers(name),
        queue=next((queue for queue in queues if queue.name == name), QueueOverview(name)),
        due=chart(depths(sampler.samples, [name])[name]),
        ended=chart(rates(sampler.samples, [name])[name]),
        dead=[(run, remark(run, now)) for run in await with_errors(access.app.store, dead.runs, access.redaction)],
        next=dead.cursor,
    )
