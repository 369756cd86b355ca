"""The first page, and the one to log in."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.model.decision import RunFilter
from perdure.model.run import RunStatus
from perdure.server.access import Viewer
from perdure.server.dashboard.charts import chart
from perdure.server.dashboard.rendering import COUNTED_WITHIN, login_page, page, routes
from perdure.server.sampling import throughput
from perdure.server.shown import FAILED

LATEST = 10

router = routes()


@router.get("/")
async def overview(access: Viewer, request: Request) -> Response:
    """Show how much there is of everything, what is new, and what failed last."""
    sampler = access.server.sampler(access.namespace)
    sample = await sampler.latest_within(COUNTED_WITHIN)
    samples = sampler.samples
    client = access.app.client
    failed = await client.find(RunFilter((*FAILED, RunStatus.COMPENSATION_FAILED)), LATEST, None)
    return page(
        request,
        access,
        "overview.html",
        live="/api/v1/watch",
        every=10 if sample else 1,
        statuses=tuple(RunStatus),
        sample=sample,
        throughput=chart(throughput(samples)),
        due=chart([(each.at, sum(queue.due for queue in each.queues)) for each in samples]),
        latest=(await client.find(RunFilter(), LATEST, None)).runs,
        failures=failed.runs,
        are_all_failures=failed.cursor is None,
    )


@router.get("/login")
async def login() -> Response:
    """Show the page to log in."""
    return login_page()
