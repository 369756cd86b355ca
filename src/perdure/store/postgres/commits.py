"""Commits. What keeps to the runs themselves is one statement; what reaches others is a transaction that locks first.

Both end in `_CARRY_OUT`, whose condition is the fence. PostgreSQL asks it again of a row's newest version whenever it
had to wait for somebody else's transaction, so it holds on what is changed, not on what was seen before. It is made of
the row alone: what depends on the inbox, or on an operator who asked for a pause, is left to the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.model.decision import Committed, Decision, Message
from perdure.model.run import RunStatus
from perdure.store.journal import posts_of, require_following
from perdure.store.pieces import independent
from perdure.store.postgres import dedups
from perdure.store.postgres.arrivals import LOCK, create, post
from perdure.store.postgres.connections import Session
from perdure.store.postgres.control import end_child
from perdure.store.postgres.errors import state
from perdure.store.postgres.rows import MESSAGE, RECORD, RECORD_TYPES, arrays, columns, message_of, packed, table

_DECISION = {
    "run_id": "text",
    "epoch": "bigint",
    "seq": "bigint",
    "at": "bigint",
    "status": "text",
    "due_at": "bigint",
    "added": "bigint",
    "first": "bigint",
    "wait": "text",
    "state": "text",
    "seen": "bigint",
    "keeps_lease": "boolean",
    "is_finished": "boolean",
    "is_renewed": "boolean",
    "is_judged": "boolean",
}
_WRITTEN = {"decided": "bigint", **RECORD_TYPES}
_CONSUMED = 2 * (len(_DECISION) + len(_WRITTEN)) - 1

_DIVISION_BY_ZERO = "22012"

_CARRY_OUT = f"""
WITH kept AS (
    UPDATE perdure.runs AS r SET
        seq = d.seq, crashes = 0, updated_at = d.at, status = d.status, wait = d.wait,
        state = coalesce(d.state, r.state),
        due_at = CASE WHEN d.keeps_lease THEN r.due_at ELSE d.due_at END,
        worker = CASE WHEN d.keeps_lease THEN r.worker END,
        is_admitted = r.is_admitted AND (d.keeps_lease OR (d.status = 'queued' AND NOT d.is_renewed)),
        is_pausing = r.is_pausing AND d.keeps_lease,
        finished_at = CASE WHEN d.is_finished THEN d.at END,
        expires_at = d.at + CASE d.status
            WHEN 'complete' THEN r.keep_complete
            WHEN 'errored' THEN r.keep_errored
            WHEN 'compensated' THEN r.keep_errored
            WHEN 'terminated' THEN r.keep_terminated END,
        incarnation = r.incarnation + d.is_renewed::int,
        journal_length = d.added + CASE WHEN d.is_renewed THEN 0 ELSE r.journal_length END,
        progress = CASE WHEN NOT d.is_finished AND NOT d.is_renewed THEN r.progress END
    FROM {table(1, _DECISION)} AS d
    WHERE r.id BETWEEN d.run_id AND d.run_id AND CASE
        WHEN r.worker IS NULL OR r.epoch <> d.epoch OR r.seq <> d.seq - 1 THEN false
        WHEN d.first <> r.journal_length THEN 1 / (d.first - d.first) > 0
        ELSE d.is_judged OR d.keeps_lease OR NOT (r.is_pausing OR (r.inbox_seq > d.seen AND NOT d.is_finished))
        END
    RETURNING r.n, d.place, r.inbox_seq, r.is_pausing
), numbers AS MATERIALIZED (
    SELECT array_agg(n ORDER BY place) AS ns, array_agg(place ORDER BY place) AS places,
        count(*) = cardinality($1::text[]) AS are_all
    FROM kept
), written AS (
    INSERT INTO perdure.records (n, {RECORD})
    SELECT k.ns[CASE WHEN k.are_all THEN w.decided ELSE array_position(k.places, w.decided) END], {RECORD}
    FROM numbers AS k CROSS JOIN {table(2 * len(_DECISION), _WRITTEN)} AS w
    WHERE k.are_all OR w.decided = ANY(k.places)
), consumed AS MATERIALIZED (
    SELECT k.ns[CASE WHEN k.are_all THEN c.place ELSE array_position(k.places, c.place) END] AS n, c.id
    FROM numbers AS k CROSS JOIN unnest({arrays(_CONSUMED, ("bigint[]", "text[]"))}) AS c (place, id)
    WHERE k.are_all OR c.place = ANY(k.places)
), read AS (
    UPDATE perdure.inbox AS m SET is_read = true, payload = NULL
    FROM consumed AS c CROSS JOIN LATERAL (
        SELECT u.ctid FROM perdure.inbox AS u WHERE u.n = c.n AND u.id = c.id AND NOT u.is_read OFFSET 0
    ) AS unread (place)
    WHERE m.ctid = unread.place
)
SELECT place, inbox_seq, is_pausing FROM kept
"""
"""Change the runs whose leases hold, append their records and read what they consumed; all arrays, and so no joins.

A decision whose records do not follow the journal divides by zero, and so the whole statement leaves nothing behind.
One that lets a run go which is pausing, or has messages that it had not seen, is carried out only once it is judged.
"""

_FENCES = """
SELECT id, n, worker IS NOT NULL, epoch, seq, journal_length, inbox_seq, is_pausing
FROM perdure.runs WHERE id = ANY($1::text[])
"""

_UNSEEN = """
SELECT a.place, m.id FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS a (n, seen, place)
CROSS JOIN LATERAL (
    SELECT u.id FROM perdure.inbox AS u WHERE u.n = a.n AND u.seq > a.seen AND NOT u.is_read OFFSET 0
) AS m
"""

_FORGET = """
WITH journals AS (
    DELETE FROM perdure.records WHERE n = ANY($1::bigint[])
)
DELETE FROM perdure.inbox WHERE kind = 'child' AND n = ANY($1::bigint[])
"""
"""What runs that begin anew leave behind: their journals, and the messages of their children."""

_ARRIVED = f"""
SELECT a.place, {MESSAGE} FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS a (run_id, seen, place)
CROSS JOIN LATERAL (SELECT n FROM perdure.runs WHERE id = a.run_id OFFSET 0) AS r
CROSS JOIN LATERAL (
    SELECT u.* FROM perdure.inbox AS u WHERE u.n = r.n AND u.seq > a.seen AND NOT u.is_read OFFSET 0
) AS m
ORDER BY a.place, m.seq
"""


_PAUSABLE = {RunStatus.QUEUED, RunStatus.WAITING, RunStatus.COMPENSATING}


class _Fence(NamedTuple):
    """A run, as far as it decides about decisions."""

    n: int
    is_leased: bool
    epoch: int
    seq: int
    journal_length: int
    inbox_seq: int
    is_pausing: bool

    def holds(self, decision: Decision) -> bool:
        return self.is_leased and self.epoch == decision.epoch and self.seq == decision.seq - 1

    def was_done(self, decision: Decision) -> bool:
        return self.epoch == decision.epoch and self.seq >= decision.seq


class NotFollowingError(Exception):
    """The records of a decision do not follow its journal; nothing of the statement was carried out."""


class Outcome(NamedTuple):
    """What one statement made of a decision: carried out or repeated, or lost; and what the run has been sent."""

    is_lost: bool
    inbox_seq: int = 0
    is_pausing: bool = False


LOST = Outcome(is_lost=True)


def is_alone(decisions: Sequence[Decision]) -> bool:
    """Return whether these decisions are about different runs, and nothing of them reaches others."""
    return len({decision.run_id for decision in decisions}) == len(decisions) and not any(
        decision.reaches_others or decision.renew is not None for decision in decisions
    )


async def commit_alone(session: Session, decisions: Sequence[Decision]) -> list[Committed | None]:
    """Carry out decisions that `is_alone` is true of, in one statement; None for one that must be judged first.

    Raises:
        NotFollowingError: one has records that do not follow its journal.
    """
    try:
        rows = await session.fetch(_CARRY_OUT, *_arguments([_Part(decision) for decision in decisions]))
    except Exception as error:
        if state(error) != _DIVISION_BY_ZERO:
            raise
        raise NotFollowingError from error
    outcomes: list[Outcome | None] = [None] * len(decisions)
    for place, inbox_seq, is_pausing in rows:
        outcomes[place - 1] = Outcome(False, inbox_seq, is_pausing)
    if len(rows) < len(decisions):
        rest = [decision for decision, outcome in zip(decisions, outcomes, strict=True) if outcome is None]
        fences = await _fences(session, _FENCES, rest)
        for at, decision in enumerate(decisions):
            fence = fences.get(decision.run_id)
            if outcomes[at] is None and not (fence and fence.holds(decision)):
                outcomes[at] = _repeated(fence, decision)
    told = [(decision, outcome) for decision, outcome in zip(decisions, outcomes, strict=True) if outcome is not None]
    answers = iter(await _answers(session, told))
    return [None if outcome is None else next(answers) for outcome in outcomes]


async def commit(session: Session, decisions: Sequence[Decision]) -> list[Committed]:
    """Carry decisions out, whatever they are, those that do not touch each other in one go; in a transaction."""
    committed: list[Committed] = []
    reached = {run_id for decision in decisions for run_id in _reached(decision)}
    await dedups.lock_keys(dedups.asking(session), [child for decision in decisions for child in decision.children])
    await session.fetch(LOCK, list(reached))
    for piece in independent(decisions):
        committed += await _commit(session, piece)
    return committed


def _reached(decision: Decision) -> set[str]:
    posted = {message.run_id for message in decision.posts}
    return {
        decision.run_id,
        *decision.terminate,
        *decision.unclaimed,
        *posted,
        *(child.id for child in decision.children),
    }


async def _commit(session: Session, decisions: Sequence[Decision]) -> list[Committed]:
    fences = await _fences(session, _FENCES, decisions)
    kept: list[tuple[_Fence, Decision]] = []
    outcomes: list[tuple[Decision, Outcome]] = []
    for decision in decisions:
        fence = fences.get(decision.run_id)
        if fence is not None and fence.holds(decision):
            if decision.records or decision.renew is not None:
                require_following(decision, fence.journal_length)
            kept.append((fence, decision))
            outcomes.append((decision, Outcome(False, fence.inbox_seq, fence.is_pausing)))
        else:
            outcomes.append((decision, _repeated(fence, decision)))
    if kept:
        await _carry_out(session, kept)
    return await _answers(session, outcomes)


async def _fences(session: Session, text: str, decisions: Sequence[Decision]) -> dict[str, _Fence]:
    rows = await session.fetch(text, [decision.run_id for decision in decisions])
    return {run_id: _Fence(*rest) for run_id, *rest in rows}


def _repeated(fence: _Fence | None, decision: Decision) -> Outcome:
    """Return what becomes of a decision that is not to be carried out."""
    if fence is None or not fence.was_done(decision):
        return LOST
    return Outcome(False, fence.inbox_seq, fence.is_pausing)


class _Part(NamedTuple):
    """A decision as it goes into the statement; `status` and `due_at` instead of its own, where it was judged."""

    decision: Decision
    status: RunStatus | None = None
    due_at: int | None = None


def _arguments(parts: Sequence[_Part]) -> list[Any]:
    rows, records, consumed = [], [], []
    for place, (decision, judged, judged_due_at) in enumerate(parts, 1):
        status, is_renewed = decision.status, decision.renew is not None
        written = (*decision.renew, *decision.records) if decision.renew is not None else decision.records
        due_at = None if status.is_finished else decision.due_at if judged is None else judged_due_at
        first = written[0].position if written and not is_renewed else None
        if first is not None:
            # Gaps among them show here, where they are compared with the journal there.
            is_whole = all(record.position == first + at for at, record in enumerate(written))
            first = first if is_whole else -1
        rows.append(
            (
                *(decision.run_id, decision.epoch, decision.seq, decision.at, judged or status),
                *(due_at, len(written), first, decision.wait, decision.state),
                *(decision.seen, decision.keeps_lease, status.is_finished, is_renewed, judged is not None),
            )
        )
        records += [(place, *msgspec.structs.astuple(record)) for record in written]
        consumed += [(place, message_id) for message_id in decision.consumed]
    return [*packed(rows, len(_DECISION)), *packed(records, len(_WRITTEN)), *columns(consumed, 2)]


async def _carry_out(session: Session, kept: Sequence[tuple[_Fence, Decision]]) -> None:
    renewed = [fence.n for fence, decision in kept if decision.renew is not None]
    if renewed:
        await session.fetch(_FORGET, renewed)
    unseen = await _unseen(session, kept)
    await session.fetch(_CARRY_OUT, *_arguments([_judged(fence, decision, unseen) for fence, decision in kept]))
    for _, decision in kept:
        for run_id in decision.unclaimed:
            await end_child(session, decision.run_id, run_id, decision.at, is_unclaimed=True)
    children = [(decision, child) for _, decision in kept for child in decision.children]
    created = await create(session, [child for _, child in children]) if children else []
    posts = posts_of([decision for _, decision in kept], children, created)
    if posts:
        await post(session, posts)
    for _, decision in kept:
        for run_id in decision.terminate:
            await end_child(session, decision.run_id, run_id, decision.at, is_unclaimed=False)


def _judged(fence: _Fence, decision: Decision, unseen: set[int]) -> _Part:
    status, due_at = decision.status, decision.due_at
    if fence.is_pausing and not decision.keeps_lease and status in _PAUSABLE:
        status = RunStatus.PAUSED
    if fence.n in unseen:
        due_at = decision.at if due_at is None else min(due_at, decision.at)
    return _Part(decision, status, due_at)


async def _unseen(session: Session, kept: Sequence[tuple[_Fence, Decision]]) -> set[int]:
    """Return the runs, by number, that leave behind messages which their turns had not seen; they are locked."""
    asked = [(fence, decision) for fence, decision in kept if fence.inbox_seq > decision.seen]
    if not asked:
        return set()
    rows = await session.fetch(_UNSEEN, [fence.n for fence, _ in asked], [decision.seen for _, decision in asked])
    return {asked[row[0] - 1][0].n for row in rows if row[1] not in asked[row[0] - 1][1].consumed}


async def _answers(session: Session, outcomes: Sequence[tuple[Decision, Outcome]]) -> list[Committed]:
    """Return the answers to decisions, each with the unread messages that it had not seen."""
    asked = [
        (decision.run_id, decision.seen)
        for decision, outcome in outcomes
        if not outcome.is_lost and (outcome.inbox_seq > decision.seen or decision.reaches_others)
    ]
    arrived: dict[str, list[Message]] = {}
    if asked:
        for row in await session.fetch(_ARRIVED, *zip(*asked, strict=True)):
            run_id = asked[row[0] - 1][0]
            arrived.setdefault(run_id, []).append(message_of(run_id, row, 1))
    return [
        Committed(decision.run_id, is_lost=True)
        if outcome.is_lost
        else Committed(decision.run_id, arrived=tuple(arrived.get(decision.run_id, ())), is_pausing=outcome.is_pausing)
        for decision, outcome in outcomes
    ]
