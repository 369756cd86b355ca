"""What operators do: pause, resume, end and restart runs, and what retention does. Inside the writer's transaction."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from perdure.model.decision import Action, Control, Controlled, Message
from perdure.model.run import RunStatus
from perdure.store.journal import news_of, untold
from perdure.store.sqlite.arrivals import insert, post

_CAN_PAUSE = frozenset({RunStatus.QUEUED, RunStatus.WAITING, RunStatus.COMPENSATING})


class _Row(msgspec.Struct, array_like=True):
    n: int
    status: RunStatus
    is_pausing: int
    parent_id: str | None
    parent_key: str | None
    epoch: int
    is_leased: int


_FIND = """
SELECT json_array(n, status, is_pausing, parent_id, parent_key, epoch, worker IS NOT NULL) FROM runs WHERE id = ?
"""

_MARK_PAUSING = "UPDATE runs SET is_pausing = 1, updated_at = :now WHERE n = :n"
_PAUSE = "UPDATE runs SET status = 'paused', updated_at = :now WHERE n = :n"
_RESUME = "UPDATE runs SET status = 'queued', due_at = ifnull(due_at, :now), updated_at = :now WHERE n = :n"
_DISCARD = "UPDATE runs SET expires_at = :now, updated_at = :now WHERE n = :n"
_UNMARK_PAUSING = "UPDATE runs SET is_pausing = 0, updated_at = :now WHERE n = :n"

_FAMILY = """
WITH RECURSIVE family (n, id) AS (
    SELECT n, id FROM runs WHERE n = :n
    UNION
    SELECT child.n, child.id FROM family CROSS JOIN runs AS child INDEXED BY runs_parent ON child.parent_id = family.id
    WHERE NOT child.is_detached
)
SELECT json_group_array(json_array(r.n, r.id) ORDER BY r.n) FROM family CROSS JOIN runs AS r ON r.n = family.n
WHERE r.n <> :n AND r.finished_at IS NULL
"""

_END = """
UPDATE runs SET
    status = 'terminated', epoch = epoch + 1, updated_at = :now, finished_at = :now,
    expires_at = :now + keep_terminated, due_at = NULL, worker = NULL, is_admitted = 0, is_pausing = 0,
    wait = NULL, progress = NULL
WHERE n IN (SELECT value->>0 FROM jsonb_each(:runs))
"""

_RESTART = """
UPDATE runs SET
    status = 'queued', due_at = :now, updated_at = :now, epoch = epoch + 1, seq = 0, incarnation = incarnation + 1,
    crashes = 0, journal_length = (SELECT count(*) FROM records WHERE records.n = :n),
    unread = (SELECT count(*) FROM inbox WHERE inbox.n = :n AND NOT is_read),
    worker = NULL, is_admitted = 0, is_pausing = 0, started_at = NULL, finished_at = NULL, expires_at = NULL,
    wait = NULL, state = NULL, progress = NULL
WHERE n = :n
"""

_EXPIRED = """
SELECT json_group_array(n) FROM (
    SELECT n FROM runs INDEXED BY runs_expires WHERE expires_at IS NOT NULL AND expires_at <= ?
    ORDER BY expires_at, n LIMIT ?)
"""


def control(connection: apsw.Connection, actions: Sequence[Control], now: int) -> list[Controlled]:
    """Do each action where it is allowed."""
    return [_control(connection, action, now) for action in actions]


def _control(connection: apsw.Connection, control: Control, now: int) -> Controlled:
    run = _find(connection, control.run_id)
    if run is None:
        return Controlled(control.run_id)
    if control.told is not None and (left := untold(control, _ending(connection, run, control))):
        return Controlled(control.run_id, run.status, run.status, (), run.epoch, left)
    ended: tuple[str, ...] = ()
    match control.action:
        case Action.PAUSE if run.is_leased:
            connection.execute(_MARK_PAUSING, {"n": run.n, "now": now})
        case Action.PAUSE if run.status in _CAN_PAUSE:
            connection.execute(_PAUSE, {"n": run.n, "now": now})
        case Action.RESUME if run.status is RunStatus.PAUSED:
            connection.execute(_RESUME, {"n": run.n, "now": now})
        case Action.RESUME if run.is_pausing:
            connection.execute(_UNMARK_PAUSING, {"n": run.n, "now": now})
        case Action.TERMINATE:
            ended = terminate(connection, control.run_id, now, control.notice)
        case Action.RESTART:
            ended = _restart(connection, run, now)
        case Action.DISCARD if run.status.is_finished:
            connection.execute(_DISCARD, {"n": run.n, "now": now})
        case _:
            pass
    if news := news_of(control, ended):
        insert(connection, news)
    after = _find(connection, control.run_id)
    if after is None:
        raise AssertionError("control removes no run")
    return Controlled(control.run_id, run.status, after.status, ended, after.epoch)


def _ending(connection: apsw.Connection, run: _Row, control: Control) -> list[str]:
    """Return the runs that an action would end."""
    if control.action is Action.RESTART:
        return [run_id for _, run_id in _unfinished_below(connection, run)]
    if control.action is Action.TERMINATE and not run.status.is_finished:
        return [control.run_id, *(run_id for _, run_id in _unfinished_below(connection, run))]
    return []


def terminate(connection: apsw.Connection, run_id: str, now: int, notice: str | None) -> tuple[str, ...]:
    """End a run and its descendants, and tell a parent that waits for it.

    Args:
        connection: in a transaction.
        run_id: the run; one that is gone or has ended is left alone.
        now: in milliseconds since the epoch.
        notice: what the parent is told, as JSON text.
    """
    run = _find(connection, run_id)
    if run is None or run.status.is_finished:
        return ()
    below = _end(connection, run, now, including=[(run.n, run_id)])
    if run.parent_id is not None and run.parent_key is not None:
        message = Message(run.parent_id, run_id, "child", run.parent_key, notice, now, "error", ref=run_id)
        post(connection, [(message, now)])
    return below


def end_child(connection: apsw.Connection, parent_id: str, run_id: str, now: int, *, is_unclaimed: bool) -> None:
    """End a run as `terminate` does, with no notice, if this is its parent, and, if so asked, it was never claimed."""
    run = _find(connection, run_id)
    if run is not None and run.parent_id == parent_id and not (is_unclaimed and run.epoch):
        terminate(connection, run_id, now, None)


def _restart(connection: apsw.Connection, run: _Row, now: int) -> tuple[str, ...]:
    ended = _end(connection, run, now, including=[])
    connection.execute("DELETE FROM records WHERE n = ? AND position > 0", (run.n,))
    connection.execute("DELETE FROM inbox WHERE n = ? AND (is_read OR kind = 'child')", (run.n,))
    connection.execute("DELETE FROM dedups WHERE n = ?", (run.n,))
    connection.execute(_RESTART, {"n": run.n, "now": now})
    return ended


def _end(connection: apsw.Connection, run: _Row, now: int, including: list[tuple[int, str]]) -> tuple[str, ...]:
    """End the unfinished descendants of a run, and these runs too; return their ids."""
    ended = including + _unfinished_below(connection, run)
    if ended:
        connection.execute(_END, {"runs": msgspec.json.encode(ended).decode(), "now": now})
    return tuple(run_id for _, run_id in ended)


def _unfinished_below(connection: apsw.Connection, run: _Row) -> list[tuple[int, str]]:
    return msgspec.json.decode(connection.execute(_FAMILY, {"n": run.n}).get, type=list[tuple[int, str]])


def _find(connection: apsw.Connection, run_id: str) -> _Row | None:
    found = connection.execute(_FIND, (run_id,)).get
    return None if found is None else msgspec.json.decode(found, type=_Row)


def has_expired(connection: apsw.Connection, before: int) -> bool:
    """Return whether there is anything to prune."""
    return bool(connection.execute(_EXPIRED, (before, 1)).get != "[]")


def prune(connection: apsw.Connection, before: int, limit: int) -> int:
    """Remove expired runs whole."""
    expired = connection.execute(_EXPIRED, (before, limit)).get
    for table in ("records", "inbox", "dedups", "runs"):
        connection.execute(f"DELETE FROM {table} WHERE n IN (SELECT value FROM jsonb_each(?))", (expired,))
    return int(connection.changes())
