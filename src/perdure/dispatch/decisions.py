"""Whether a decision that was made elsewhere may be committed: an endpoint decides about its own run, and no other."""

from __future__ import annotations

from perdure.authoring.enqueuing import check_limit_key, check_priority, check_tags
from perdure.core.saga import RECALL
from perdure.model.decision import Decision, Message
from perdure.model.errors import FanOutTooWideError, JournalTooLongError, PayloadTooLargeError, UsageError
from perdure.model.limits import Limits
from perdure.model.name import check_name
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus

APART_MS = 600_000
"""By how many milliseconds the time of a decision may differ from the server's."""

FURTHEST_MS = 101 * 366 * 86_400_000
"""How many milliseconds ahead a run may be due."""

TEXT_BYTES = 1_048_576
"""How long what a run waits for, and what it makes known of itself, may be."""


def require_fitting(decision: Decision, run: Run, limits: Limits, now: int) -> None:
    """Refuse a decision that a worker would not have made.

    Args:
        decision: as it came.
        run: as it was claimed.
        limits: the bounds to keep.
        now: the present, in milliseconds since the epoch.

    Raises:
        UsageError: something of it is wrong; the message begins with its path.
    """
    if (decision.run_id, decision.epoch) != (run.id, run.epoch):
        raise UsageError("decision.run_id: it is about another run, or another turn of it")
    if decision.status is RunStatus.TERMINATED:
        raise UsageError("decision.status: terminated is what others make of a run")
    if abs(decision.at - now) > APART_MS:
        raise UsageError("decision.at: it is too far from the server's time: see to the clock of the endpoint")
    if decision.due_at is not None and not 0 <= decision.due_at <= max(now + FURTHEST_MS, 2**62):
        raise UsageError("decision.due_at: it is no time that a run can be due at")
    for field in ("wait", "state"):
        if len(getattr(decision, field) or "") > TEXT_BYTES:
            raise PayloadTooLargeError(f"decision.{field}: it is longer than {TEXT_BYTES:,} characters")
    _records(decision, run, limits)
    if len(decision.children) > limits.fan_out:
        raise FanOutTooWideError(
            f"decision.children: {len(decision.children):,} are over Limits.fan_out = {limits.fan_out:,}"
        )
    for number, child in enumerate(decision.children):
        _child(child, f"decision.children[{number}]", run)
    for number, message in enumerate(decision.posts):
        _post(message, f"decision.posts[{number}]", run)


def _records(decision: Decision, run: Run, limits: Limits) -> None:
    records = (*(decision.renew or ()), *decision.records)
    if decision.status.is_finished and (not records or records[-1].kind != "output"):
        raise UsageError("decision.records: a run that has ended has its output as its last record")
    if len(records) > limits.journal_records:
        raise JournalTooLongError(
            f"decision.records: {len(records):,} are over Limits.journal_records = {limits.journal_records:,}"
        )
    for number, record in enumerate(records):
        _record(record, f"decision.records[{number}]", limits)
        if record.kind == "input" and decision.renew is None:
            raise UsageError(f"decision.records[{number}].kind: a run has one input")


def _record(record: Record, path: str, limits: Limits) -> None:
    size = len((record.payload or "").encode())
    if size > limits.payload_bytes:
        raise PayloadTooLargeError(f"{path}.payload: it is longer than Limits.payload_bytes = {limits.payload_bytes:,}")


def _child(child: NewRun, path: str, run: Run) -> None:
    check_name(child.workflow, f"{path}.workflow")
    check_tags(child.tags, f"{path}.tags")
    check_priority(child.priority, f"{path}.priority")
    check_limit_key(child.limit_key, f"{path}.limit_key")
    if child.worker is not None:
        raise UsageError(f"{path}.worker: workers claim children by themselves")
    is_told_of = child.parent_id is None and child.id.startswith(f"{run.id}/")
    if child.parent_id != run.id and not is_told_of:
        raise UsageError(f"{path}.parent_id: a run has children of its own alone")
    if not child.records or child.records[0].kind != "input":
        raise UsageError(f"{path}.records: the first one must be the input")


def _post(message: Message, path: str, run: Run) -> None:
    is_end = message.kind == "child" and message.id == run.id
    if is_end and (message.run_id, message.type) == (run.parent_id, run.parent_key):
        return
    if message.kind == "event" and message.type == RECALL and message.ref == run.id:
        return
    raise UsageError(f"{path}: a run tells its parent of its end, and recalls its children")
