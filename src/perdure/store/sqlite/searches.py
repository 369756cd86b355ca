"""Looking for runs: pages of the latest first. See `perdure.store.searching`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw
import msgspec

from perdure.model.decision import RunFilter, RunPage
from perdure.model.run import Run
from perdure.store.searching import Dialect, Picked, Picking, Statement, pick
from perdure.store.sqlite.rows import run_json
from perdure.store.sqlite.turns import CAN_BE_DUE


class _Found(msgspec.Struct, array_like=True):
    n: int
    run: Run


_FOUND = msgspec.json.Decoder(list[_Found])


def find(connection: apsw.Connection, where: RunFilter, limit: int, cursor: str | None) -> RunPage:
    """Return a page of runs, latest created first."""
    picked = _picked(connection, pick(_DIALECT, where, limit, cursor))
    found = connection.execute(
        f"""SELECT json_group_array(json_array(r.n, json({run_json("r")})) ORDER BY r.created_at DESC, r.n DESC)
            FROM ({picked.statement.text}) AS p CROSS JOIN runs AS r ON r.n = p.n""",
        picked.statement.values,
    ).get
    rows = _FOUND.decode(found)
    return picked.page([row.run for row in rows], rows[limit - 1].n if len(rows) > limit else 0, limit)


def _picked(connection: apsw.Connection, picking: Picking[Picked]) -> Picked:
    row = None
    while True:
        try:
            asked = picking.send(row)
        except StopIteration as end:
            picked: Picked = end.value
            return picked
        row = connection.execute(*asked).fetchone()


def _tagged(tags: Mapping[str, str]) -> Iterable[Statement]:
    has = "EXISTS (SELECT 1 FROM json_each(r.tags) AS t WHERE t.key = ? AND t.value = ?)"
    return [Statement(has, tag) for tag in tags.items()]


_DIALECT = Dialect("runs AS r", " INDEXED BY {}", "", "sqlite_autoindex_runs_1", CAN_BE_DUE, _tagged)
