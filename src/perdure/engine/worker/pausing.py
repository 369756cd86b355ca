"""What a turn leaves to the store: whether a run is paused."""

from __future__ import annotations

import msgspec

from perdure.core.loop import LATEST
from perdure.core.wait import decode_waits
from perdure.model.decision import Decision
from perdure.model.run import RunStatus


def as_the_store_wishes(decision: Decision, now: int, *, is_compensating: bool) -> Decision:
    """Leave it to the store whether a run is paused: the wish may have been taken back since this turn heard of it.

    One that is handed back as queued, waiting or compensating is paused by the store if that is still wished; see its
    contract.
    """
    if decision.status is not RunStatus.PAUSED or any(
        wait.kind == "parked" for wait in decode_waits(decision.wait).waits
    ):
        return decision
    if is_compensating:  # which keeps its lease where it is never due
        due_at = LATEST if decision.due_at is None else decision.due_at
        return msgspec.structs.replace(decision, status=RunStatus.COMPENSATING, due_at=due_at)
    is_due = decision.due_at is not None and decision.due_at <= now
    return msgspec.structs.replace(decision, status=RunStatus.QUEUED if is_due else RunStatus.WAITING)
