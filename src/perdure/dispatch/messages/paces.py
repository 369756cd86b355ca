"""How a flow-control key stands: what waits, what is under way, and how much of its rate is used."""

from __future__ import annotations

import math

import msgspec

from perdure.dispatch.messages.message import DELIVERY, FLOWS
from perdure.engine.app import Perdure
from perdure.model.decision import RunFilter
from perdure.model.errors import StoreConflictError
from perdure.model.queue import Admission, QueueView
from perdure.model.run import RunStatus

COUNTED = 1_000
"""How many waiting messages are counted; where there are more, it is so many."""

TRIES = 20
PAGE = 100


class FlowStanding(msgspec.Struct, frozen=True):
    """How a key stands.

    Attributes:
        waiting: how many messages wait to be begun, up to `COUNTED`.
        under_way: how many are delivered at this moment.
        used: how many of the rate's are used of the period that begins at `since`.
        since: in milliseconds since the epoch.
    """

    waiting: int
    under_way: int
    used: int
    since: int


async def flow_standing(app: Perdure, key: str) -> FlowStanding:
    """Return how a flow-control key stands; what is used of its rate is known as long as messages wait."""
    now = app.world.now()
    view = await _view(app, key, now)
    waiting, cursor = 0, None
    while waiting < COUNTED:
        where = RunFilter((RunStatus.QUEUED,), workflow=DELIVERY, queue=FLOWS, tags={"flow": key})
        page = await app.store.find(where, PAGE, cursor)
        waiting += sum(run.due_at is not None and run.due_at <= now for run in page.runs)
        if (cursor := page.cursor) is None:
            break
    if view is None:
        return FlowStanding(waiting, 0, 0, now)
    rate, pace = view.state.limits.of(key).rate, view.paces.get(key, now)
    apart = 0.0 if rate is None else rate.period_ms / rate.count
    used = 0 if rate is None else min(rate.count, max(0, math.ceil((pace - now) / apart)))
    return FlowStanding(waiting, view.admitted.get(key, 0), used, now)


async def reset_rate(app: Perdure, key: str) -> None:
    """Have the rate of a flow-control key begin anew.

    Raises:
        StoreConflictError: others began messages all the time.
    """
    for _ in range(TRIES):
        now = app.world.now()
        view = await _view(app, key, now)
        if view is None or view.state.is_paused:
            return
        nothing = Admission(FLOWS, view.state.turns, (), {key: now})
        if await app.store.admit(nothing, "", now, now) is not None:
            return
    raise StoreConflictError(f"flow-control key {key!r}: others were faster {TRIES} times; try again")


async def _view(app: Perdure, key: str, now: int) -> QueueView | None:
    """Return what there is to choose from of a key, and of none before it in the order of keys."""
    before = key[:-1] + chr(ord(key[-1]) - 1) + "\U0010ffff"
    return await app.store.look_into(FLOWS, now, 1, 1, before)
