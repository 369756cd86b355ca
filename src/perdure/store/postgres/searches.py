"""Looking for runs: pages of the latest first. See `perdure.store.searching`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from perdure.model.decision import RunFilter, RunPage
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import WIDTH, run_columns, run_of
from perdure.store.postgres.turns import CAN_BE_DUE
from perdure.store.searching import Dialect, Picked, Picking, Statement, pick


async def find(session: Session, where: RunFilter, limit: int, cursor: str | None) -> RunPage:
    """Return a page of runs, latest created first."""
    picked = await _picked(session, pick(_DIALECT, where, limit, cursor))
    rows = await _fetch(
        session,
        Statement(
            f"""SELECT {run_columns("r")}, r.n FROM ({picked.statement.text}) AS p
                CROSS JOIN LATERAL (SELECT * FROM perdure.runs AS r WHERE r.n = p.n OFFSET 0) AS r
                ORDER BY r.created_at DESC, r.n DESC""",
            picked.statement.values,
        ),
    )
    last = rows[limit - 1][WIDTH] if len(rows) > limit else 0
    return picked.page([run_of(row) for row in rows], last, limit)


async def _picked(session: Session, picking: Picking[Picked]) -> Picked:
    row = None
    while True:
        try:
            asked = picking.send(row)
        except StopIteration as end:
            picked: Picked = end.value
            return picked
        rows = await _fetch(session, asked)
        row = rows[0] if rows else None


async def _fetch(session: Session, asked: Statement) -> list[Any]:
    return await session.fetch(numbered(asked.text), *asked.values)


def numbered(text: str) -> str:
    """Return a statement with a number in the place of each `?`."""
    numbers = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", text)


def _tagged(tags: Mapping[str, str]) -> Iterable[Statement]:
    return [Statement("tags @> CAST(? AS jsonb)", (msgspec.json.encode(tags).decode(),))] if tags else []


_DIALECT = Dialect("perdure.runs AS r", "", "OFFSET 0", "runs_id_key", CAN_BE_DUE, _tagged)
