"""How many runs there are, per status and per queue: now, and in the last hour."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from perdure.model.decision import QueueStats
from perdure.model.run import RunStatus
from perdure.server.access import Viewer
from perdure.server.api.answers import Moment, Told
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.sampling import KEPT, Sample
from perdure.server.shown import moment

router = routes("stats")


class QueueCounts(Told):
    """Runs of a queue that can become due, and those that ended."""

    queue: str
    due: int
    later: int
    leased: int
    oldest_due_at: Moment | None
    ended: int = Field(description="How many workers have ended since this server began to count, as they told.")


class Counts(Told):
    """Counts of one moment."""

    at: Moment
    status: dict[str, int] = Field(description="Runs per status; those without any are 0.")
    queues: list[QueueCounts]


class StatsDocument(Counts):
    """The latest counts, and earlier ones."""

    samples: list[Counts] = Field(description="Earlier counts, oldest first.")


@router.get("/api/v1/stats", operation_id="get_stats", response_model=StatsDocument)
async def get_stats(
    access: Viewer,
    samples: Annotated[int, Query(ge=0, le=KEPT, description="How many earlier counts, of one every few seconds.")] = 0,
) -> Response:
    """Return how many runs there are, as counted a few seconds ago, or longer where there are many."""
    sampler = access.server.sampler(access.namespace)
    latest = await sampler.latest()
    earlier = sampler.samples[:-1][-samples:] if samples else ()
    return reply({**_document(latest), "samples": [_document(each) for each in earlier]})


def _document(sample: Sample) -> dict[str, Any]:
    counts = {each.queue: each for each in sample.queues}
    return {
        "at": moment(sample.at),
        "status": {status.value: sample.status.get(status, 0) for status in RunStatus},
        "queues": [
            _queue(counts.get(name) or QueueStats(name, 0, 0, 0, None), sample.ended_by_queue.get(name, 0))
            for name in sorted({*counts, *sample.ended_by_queue})
        ],
    }


def _queue(count: QueueStats, ended: int) -> dict[str, Any]:
    return {
        "queue": count.queue,
        "due": count.due,
        "later": count.later,
        "leased": count.leased,
        "oldest_due_at": moment(count.oldest_due_at),
        "ended": ended,
    }
