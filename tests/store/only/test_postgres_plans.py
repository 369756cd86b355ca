"""The plans of statements that are prepared while the tables are all but empty, and kept while they fill up."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.model.decision import RunFilter
from perdure.store import open_store
from perdure.store.postgres import PostgresStore, arrivals, commits, control, reads, turns
from tests.servers import label, postgres
from tests.store.making import CAPACITY, NOW, event, held, new

DATABASE = "plans"

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]} {name.strip('_').lower()}": text
    for module, names in (
        (arrivals, ("LOCK", "_BOXES", "_KNOWN", "_UNREAD", "_PUT", "_THERE")),
        (commits, ("_CARRY_OUT", "_FENCES", "_UNSEEN", "_FORGET", "_ARRIVED")),
        (turns, ("_CLAIM", "_EXTEND", "_JOURNALS", "_INBOXES")),
        (control, ("_FIND", "_FAMILY", "_PRUNE", "_END", "_RESTART", "_CUT_BACK")),
        (reads, ("_GET", "_JOURNAL", "_INBOX")),
    )
    for name, text in ((name, getattr(module, name)) for name in names)
}

FIRST_OF = {"runs_pkey": "n", "runs_id_key": "id", "runs_due": "queue", "runs_created": "created_at"} | {
    "runs_parent": "parent_id",
    "runs_expires": "expires_at",
    "records_pkey": "n",
    "inbox_pkey": "n",
    "inbox_id": "n",
    "inbox_unread": "n",
}
"""Each index, and the column that it is in the order of."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PostgresStore]:
    opened = open_store(postgres().url(DATABASE, schema=label(tmp_path)))
    assert isinstance(opened, PostgresStore)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize("runs", [0, 1, 3, 100])
async def test_every_row_is_looked_up_by_its_key(store: PostgresStore, tmp_path: Path, runs: int):
    for at in range(min(runs, 3)):
        await held(store, f"r{at}")
        await store.post([event(f"r{at}", "m")], NOW, CAPACITY)
    await store.create([new(f"more{at}", parent_id="r0", parent_key=f"{at}") for at in range(runs - 3)])
    if runs:
        for table in ("runs", "records", "inbox"):
            postgres().sql(f"VACUUM ANALYZE {label(tmp_path)}.{table}", database=DATABASE)
    for name, text in STATEMENTS.items():
        assert not [scan for scan in await scans(store, text) if not is_lookup(scan)], name


async def test_what_is_looked_for_is_planned_for_what_it_is(store: PostgresStore, tmp_path: Path):
    schema = label(tmp_path)
    await store.create([new("r0")])
    postgres().sql(
        f"INSERT INTO {schema}.runs SELECT (jsonb_populate_record(r, jsonb_build_object("
        f"'n', 100 + at, 'id', md5(at::text), 'created_at', at))).* "
        f"FROM {schema}.runs AS r, generate_series(1, 20000) AS at",
        database=DATABASE,
    )
    postgres().sql(f"VACUUM ANALYZE {schema}.runs", database=DATABASE)
    prefix = RunFilter(id_prefix=hashlib.md5(b"7").hexdigest()[:12])

    async def read(session: Any) -> Any:
        page = await reads.find(session, prefix, 10, None)
        return page, await session.value("SELECT pg_stat_get_xact_tuples_fetched($1::text::regclass)", f"{schema}.runs")

    (page, fetched) = await store._connections.search(read)
    assert [run.id for run in page.runs] == [hashlib.md5(b"7").hexdigest()]
    assert fetched < 100, "rows read"
    assert (await store.find(prefix, 10)).runs == page.runs


async def scans(store: PostgresStore, text: str) -> list[Any]:
    """How the tables are read in the plan that the store's own connections would keep."""
    parameters = max(int(number) for number in re.findall(r"\$(\d+)", text))

    async def explain(session: Any) -> Any:
        await session.connection.execute(f"PREPARE asked AS {session.texts[text]}")
        try:
            nulls = ", ".join(["NULL"] * parameters)
            return await session.connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked({nulls})")
        finally:
            await session.connection.execute("DEALLOCATE asked")

    ((explained,),) = [json.loads(await store._connections.once(explain))]
    return list(tables_in(explained["Plan"]))


def tables_in(plan: Any) -> Iterator[Any]:
    if "Relation Name" in plan and plan["Node Type"] not in {"ModifyTable", "LockRows"}:
        yield plan
    for part in plan.get("Plans", ()):
        yield from tables_in(part)


def is_lookup(scan: Any) -> bool:
    """Whether a scan goes to its rows through the first column of an index, or knows where they are."""
    if scan["Node Type"] == "Tid Scan":
        return True
    return re.search(rf"\b{FIRST_OF.get(scan.get('Index Name'))}\b", scan.get("Index Cond", "")) is not None
