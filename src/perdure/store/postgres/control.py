"""What operators do: pause, resume, end and restart runs, and what retention does. In a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure.model.decision import Action, Control, Controlled, Message
from perdure.model.run import RunStatus
from perdure.store.journal import news_of, untold
from perdure.store.postgres.arrivals import LOCK, create, post
from perdure.store.postgres.connections import Session


class _Row(NamedTuple):
    id: str
    n: int
    status: RunStatus
    is_leased: bool
    is_pausing: bool
    parent_id: str | None
    parent_key: str | None
    epoch: int


_FIND = """
SELECT n, status, worker IS NOT NULL, is_pausing, parent_id, parent_key, epoch
FROM perdure.runs WHERE id = $1 FOR UPDATE
"""

_LOCK_KEYS = """
SELECT FROM (
    SELECT d.key FROM unnest($1::text[]) AS a (run_id) CROSS JOIN LATERAL (
        SELECT u.key FROM perdure.dedups AS u WHERE u.run_id = a.run_id OFFSET 0) AS d
    ORDER BY d.key) AS known
CROSS JOIN LATERAL (SELECT FROM perdure.dedups AS d WHERE d.key = known.key FOR UPDATE) AS locked
"""
"""Lock the dedup keys of runs, before the runs themselves are: in the order of whoever creates runs."""

_MARK_PAUSING = "UPDATE perdure.runs SET is_pausing = true, updated_at = $2 WHERE id = $1"
_PAUSE = "UPDATE perdure.runs SET status = 'paused', updated_at = $2 WHERE id = $1"
_RESUME = """
UPDATE perdure.runs SET status = 'queued', due_at = coalesce(due_at, $2), updated_at = $2 WHERE id = $1
"""
_UNMARK_PAUSING = "UPDATE perdure.runs SET is_pausing = false, updated_at = $2 WHERE id = $1"

_DISCARD = "UPDATE perdure.runs SET expires_at = $2, updated_at = $2 WHERE id = $1"

_FAMILY = """
WITH RECURSIVE family (n, id, is_unfinished) AS (
    SELECT n, id, finished_at IS NULL FROM perdure.runs WHERE id = $1
    UNION
    SELECT child.* FROM family CROSS JOIN LATERAL (
        SELECT r.n, r.id, r.finished_at IS NULL FROM perdure.runs AS r
        WHERE r.parent_id = family.id AND NOT r.is_detached OFFSET 0
    ) AS child
)
SELECT id, is_unfinished FROM family WHERE id <> $1 ORDER BY n
"""

_END = """
UPDATE perdure.runs SET
    status = 'terminated', epoch = epoch + 1, updated_at = $2, finished_at = $2,
    expires_at = $2 + keep_terminated, due_at = NULL, worker = NULL, is_admitted = false, is_pausing = false,
    wait = NULL, progress = NULL
WHERE id = ANY($1::text[])
"""

_CUT_BACK = """
WITH cut AS (
    DELETE FROM perdure.records WHERE n = $1 AND position > 0
), stands AS (
    DELETE FROM perdure.dedups WHERE run_id = $2
)
DELETE FROM perdure.inbox WHERE n = $1 AND (is_read OR kind = 'child')
"""

_RESTART = """
UPDATE perdure.runs SET
    status = 'queued', due_at = $2, updated_at = $2, epoch = epoch + 1, seq = 0, incarnation = incarnation + 1,
    crashes = 0, journal_length = least(journal_length, 1), worker = NULL, is_admitted = false, is_pausing = false,
    started_at = NULL, finished_at = NULL, expires_at = NULL, wait = NULL, state = NULL, progress = NULL
WHERE id = $1
"""

_PRUNE = """
WITH expired AS MATERIALIZED (
    SELECT n, id FROM perdure.runs WHERE expires_at IS NOT NULL AND expires_at <= $1
    ORDER BY expires_at, n LIMIT $2 FOR UPDATE SKIP LOCKED
), keys AS MATERIALIZED (
    SELECT key.key, expired.id FROM expired CROSS JOIN LATERAL (
        SELECT d.key FROM perdure.dedups AS d WHERE d.run_id = expired.id FOR UPDATE SKIP LOCKED) AS key
), unused AS MATERIALIZED (
    SELECT key FROM perdure.dedups WHERE run_id IS NULL LIMIT $2 FOR UPDATE SKIP LOCKED
), held AS MATERIALIZED (
    SELECT d.run_id FROM expired CROSS JOIN LATERAL (
        SELECT u.run_id FROM perdure.dedups AS u WHERE u.run_id = expired.id OFFSET 0) AS d
    WHERE d.run_id <> ALL(ARRAY(SELECT id FROM keys))
), removed AS MATERIALIZED (
    SELECT n, id FROM expired WHERE id <> ALL(ARRAY(SELECT run_id FROM held))
), keys_gone AS (
    DELETE FROM perdure.dedups AS d USING (SELECT key FROM keys UNION ALL SELECT key FROM unused) AS gone
    WHERE d.key BETWEEN gone.key AND gone.key
), records_gone AS (
    DELETE FROM perdure.records AS r USING removed WHERE r.n BETWEEN removed.n AND removed.n
), messages_gone AS (
    DELETE FROM perdure.inbox AS m USING removed WHERE m.n BETWEEN removed.n AND removed.n
), gone AS (
    DELETE FROM perdure.runs AS r USING removed WHERE r.id BETWEEN removed.id AND removed.id RETURNING 1
)
SELECT count(*) FROM gone
"""
"""Remove what has expired, with the dedup keys it stood for, and those that stand for nothing (see `dedups`).

Nobody is waited for: a run of which somebody holds the row or the key is left for another time.
"""

PRUNED_AT_ONCE = 500
"""Runs that one transaction removes at most."""


async def control(session: Session, actions: Sequence[Control], now: int) -> list[Controlled]:
    """Do each action where it is allowed."""
    if restarted := [action.run_id for action in actions if action.action is Action.RESTART]:
        await session.fetch(_LOCK_KEYS, restarted)
    await session.fetch(LOCK, list({action.run_id for action in actions}))
    return [await _control(session, action, now) for action in actions]


def as_first_found(first: Sequence[Controlled], again: Sequence[Controlled]) -> list[Controlled]:
    """Return the answers of a call that was repeated, with what its first attempt changed, where that is still so."""
    return [
        before if now.before is now.after is before.after and now.epoch == before.epoch else now
        for before, now in zip(first, again, strict=True)
    ]


async def _control(session: Session, control: Control, now: int) -> Controlled:
    run = await _find(session, control.run_id)
    if run is None:
        return Controlled(control.run_id)
    if control.told is not None and (left := untold(control, await _ending(session, run, control.action))):
        return Controlled(control.run_id, run.status, run.status, (), run.epoch, left)
    ended: tuple[str, ...] = ()
    match control.action:
        case Action.PAUSE if run.is_leased:
            await session.fetch(_MARK_PAUSING, run.id, now)
        case Action.PAUSE if run.status in {RunStatus.QUEUED, RunStatus.WAITING, RunStatus.COMPENSATING}:
            await session.fetch(_PAUSE, run.id, now)
        case Action.RESUME if run.status is RunStatus.PAUSED:
            await session.fetch(_RESUME, run.id, now)
        case Action.RESUME if run.is_pausing:
            await session.fetch(_UNMARK_PAUSING, run.id, now)
        case Action.TERMINATE:
            ended = await terminate(session, control.run_id, now, control.notice)
        case Action.RESTART:
            ended = await _restart(session, run, now)
        case Action.DISCARD if run.status.is_finished:
            await session.fetch(_DISCARD, run.id, now)
        case _:
            pass
    if news := news_of(control, ended):
        await create(session, news)
    after = await _find(session, control.run_id)
    if after is None:
        raise AssertionError("control removes no run")
    return Controlled(control.run_id, run.status, after.status, ended, after.epoch)


async def _ending(session: Session, run: _Row, action: Action) -> tuple[str, ...]:
    """Return the runs that an action would end, all of them locked."""
    if action is Action.RESTART:
        return await _unfinished_below(session, run.id)
    if action is Action.TERMINATE and not run.status.is_finished:
        return (run.id, *await _unfinished_below(session, run.id))
    return ()


async def terminate(session: Session, run_id: str, now: int, notice: str | None) -> tuple[str, ...]:
    """End a run and its descendants, and tell a parent that waits for it.

    Args:
        session: in a transaction.
        run_id: the run; one that is gone or has ended is left alone.
        now: in milliseconds since the epoch.
        notice: what the parent is told, as JSON text.
    """
    run = await _find(session, run_id)
    if run is None or run.status.is_finished:
        return ()
    below = await _end(session, run, now, including=(run_id,))
    if run.parent_id is not None and run.parent_key is not None:
        message = Message(run.parent_id, run_id, "child", run.parent_key, notice, now, "error", ref=run_id)
        await post(session, [(message, now)])
    return below


async def end_child(session: Session, parent_id: str, run_id: str, now: int, *, is_unclaimed: bool) -> None:
    """End a run as `terminate` does, with no notice, if this is its parent, and, if so asked, it was never claimed."""
    run = await _find(session, run_id)
    if run is not None and run.parent_id == parent_id and not (is_unclaimed and run.epoch):
        await terminate(session, run_id, now, None)


async def _restart(session: Session, run: _Row, now: int) -> tuple[str, ...]:
    ended = await _end(session, run, now, including=())
    await session.fetch(_CUT_BACK, run.n, run.id)
    await session.fetch(_RESTART, run.id, now)
    return ended


async def _end(session: Session, run: _Row, now: int, including: tuple[str, ...]) -> tuple[str, ...]:
    """End the unfinished descendants of a run, and these runs too; return their ids."""
    ended = including + await _unfinished_below(session, run.id)
    if ended:
        await session.fetch(_END, ended, now)
    return ended


async def _unfinished_below(session: Session, run_id: str) -> tuple[str, ...]:
    """Return the unfinished descendants of a run, all of them locked: none can end, nor start another, meanwhile."""
    locked: set[str] = set()
    while True:
        family = await session.fetch(_FAMILY, run_id)
        fresh = {below for below, _ in family} - locked
        if not fresh:
            return tuple(below for below, is_unfinished in family if is_unfinished)
        await session.fetch(LOCK, list(fresh))
        locked |= fresh


async def _find(session: Session, run_id: str) -> _Row | None:
    found = await session.fetch(_FIND, run_id)
    if not found:
        return None
    n, status, *rest = found[0]
    return _Row(run_id, n, RunStatus(status), *rest)


async def prune(session: Session, before: int, limit: int) -> int:
    """Remove up to `limit` expired runs whole, in one statement."""
    gone: int = await session.value(_PRUNE, before, limit)
    return gone
