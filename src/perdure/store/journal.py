"""The one thing every store checks about a decision, so that a mistake above cannot leave a journal with gaps."""

from __future__ import annotations

from perdure.model.decision import Decision
from perdure.model.errors import UsageError


def require_following(decision: Decision, journal_length: int) -> None:
    """Refuse a decision whose records would not continue a journal of this length without gaps.

    Raises:
        UsageError: a position is not the next one.
    """
    renewed = decision.renew is not None
    records = (decision.renew or ()) + decision.records
    for expected, record in enumerate(records, 0 if renewed else journal_length):
        if record.position != expected:
            raise UsageError(
                f"decision {decision.seq} of run {decision.run_id!r}: record {record.key!r} has position "
                f"{record.position}, but {expected} is next"
            )
