"""What stores do alike: check that a decision leaves no gaps, say who stands for whom, and what they cannot do."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.model.decision import Control, Decision, Message
from perdure.model.errors import UsageError
from perdure.model.record import Record
from perdure.model.run import Created, Dedup, NewRun, Run, RunStatus


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


def queued_due_at(new: NewRun) -> int:
    """Return when a new run is due if it is left for anyone; one that was meant for a worker, at once."""
    return new.due_at if new.worker is None else new.created_at


def is_unclaimed(run: Run) -> bool:
    """Return whether a run is queued as it was created, so that it can still take over another input."""
    return run.status is RunStatus.QUEUED and run.epoch == 0


def stands(run: Run, dedup: Dedup, new: NewRun, first: Record | None) -> bool:
    """Return whether a run stands for one that is to be created with its dedup key.

    Args:
        run: the last one that was created with that key.
        dedup: how it was.
        new: what is to be created.
        first: the first record of the run's journal; needed only if the new dedup is replacing.
    """
    if new.dedup is not None and new.dedup.is_replacing and new.records[:1] == (first,):
        return True
    if dedup.is_replacing:
        return is_unclaimed(run)
    return not run.status.is_finished if dedup.until is None else new.created_at < dedup.until


def untold(control: Control, ending: Sequence[str]) -> tuple[str, ...]:
    """Return the runs that an action would end, and that it must not, because it has nothing to tell of them."""
    return () if control.told is None else tuple(run_id for run_id in ending if run_id not in control.told)


def news_of(control: Control, ended: Sequence[str]) -> list[NewRun]:
    """Return what an action creates for the runs that it ended."""
    told = control.told or {}
    return [new for run_id in ended for new in told.get(run_id, ())]


def refusal(run_id: str, child: NewRun, now: int) -> Message:
    """Return the message that tells a run that the id of a child it wants is taken."""
    # An id of its own: under the child's id, the end of the run that has it may have been sent before, or come later.
    return Message(
        run_id, f"{child.id}!{child.parent_key}", "child", child.parent_key or "", child.refusal, now, "error", child.id
    )


def posts_of(
    decisions: Sequence[Decision], children: Sequence[tuple[Decision, NewRun]], created: Sequence[Created]
) -> list[tuple[Message, int]]:
    """Return what decisions tell others: first of children that are refused, then what they post themselves.

    Args:
        decisions: that were carried out, in their order.
        children: all of theirs, each with its decision.
        created: what became of each child.

    Returns:
        Each message with the time at which its run becomes due, in milliseconds since the epoch.
    """
    refused = [
        (refusal(decision.run_id, child, decision.at), decision.at)
        for (decision, child), made in zip(children, created, strict=True)
        if not made.is_new
    ]
    return refused + [(message, decision.at) for decision in decisions for message in decision.posts]


def no_transactions(store: str) -> UsageError:
    """Return the error of a store in whose database nobody else's SQL can run."""
    return UsageError(
        f"tx: {store} has no transactions for a program's own SQL; use sqlite:// or postgresql://, or leave tx out"
    )
