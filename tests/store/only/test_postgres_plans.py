"""The plans of statements that are prepared while the tables are all but empty, and kept while they fill up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.model.decision import Action, Control, RunFilter
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.run import Dedup, RunStatus
from perdure.store.postgres import PostgresStore, arrivals, commits, control, dedups, queues, reads, searches, turns
from perdure.store.searching import pick
from tests.servers import label, postgres
from tests.store.making import CAPACITY, NOW, decide, event, held, new, record

DATABASE = "plans"

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]} {name.strip('_').lower()}": text
    for module, names in (
        (arrivals, ("LOCK", "_CREATE", "_BOXES", "_KNOWN", "_UNREAD", "_PUT", "_THERE")),
        (dedups, ("_LOCK_KEYS", "_STANDING", "_THERE", "_REPLACE", "_CREATE")),
        (commits, ("_CARRY_OUT", "_FENCES", "_UNSEEN", "_FORGET", "_ARRIVED")),
        (turns, ("_CLAIM", "_EXTEND", "_JOURNALS", "_INBOXES")),
        (queues, ("_ONE", "_BEGIN", "_CHANGE", "_SEEN", "_VIEW", "_ADMIT")),
        (control, ("_LOCK_KEYS", "_FIND", "_FAMILY", "_PRUNE", "_END", "_RESTART", "_CUT_BACK")),
        (reads, ("_GET", "_JOURNAL", "_INBOX", "_NEXT_DUE", "_DEFINED")),
    )
    for name, text in ((name, getattr(module, name)) for name in names)
}

FIRST_OF = {"runs_pkey": "n", "runs_id_key": "id", "runs_due": "queue", "runs_created": "created_at"} | {
    "runs_parent": "parent_id",
    "runs_status": "status",
    "runs_expires": "expires_at",
    "records_pkey": "n",
    "inbox_pkey": "n",
    "inbox_id": "n",
    "inbox_unread": "n",
    "runs_keyed": "queue",
    "runs_admitted": "queue",
    "queues_pkey": "name",
    "queues_gated": "name",
    "paces_pkey": "queue",
    "paces_at": "queue",
    "dedups_pkey": "key",
    "dedups_run": "run_id",
    "definitions_pkey": "name",
}
"""Each index, and the column that it is in the order of."""


@pytest.mark.parametrize("runs", [0, 1, 3, 100])
async def test_every_row_is_looked_up_by_its_key(store: PostgresStore, tmp_path: Path, runs: int):
    for at in range(min(runs, 3)):
        await held(store, f"r{at}")
        await store.post([event(f"r{at}", "m")], NOW, CAPACITY)
    more = range(runs - 3)
    await store.create([new(f"more{at}", parent_id="r0", parent_key=f"{at}", dedup=Dedup(f"{at}")) for at in more])
    if runs:
        await store.set_queue(QueueState("few", limits=QueueLimits(concurrency=9)))
        await store.create([new(f"few{at}", queue="few", limit_key=f"{at % 9}") for at in range(runs)])
        await store.admit(Admission("few", 0, ("few0", "few1"), {"1": NOW + 1}), "w", NOW, NOW + 9)
        for table in ("runs", "records", "inbox", "queues", "paces", "dedups"):
            postgres().sql(f"VACUUM ANALYZE {label(tmp_path)}.{table}", database=DATABASE)
    for name, text in STATEMENTS.items():
        assert not [scan for scan in await scans(store, text) if not is_lookup(scan)], name


async def test_a_look_into_a_queue_passes_by_whatever_it_does_not_show(store: PostgresStore):
    found = await scans(store, queues._VIEW)
    keyed = [scan for scan in found if scan["Index Name"] == "runs_keyed"]
    assert keyed
    assert all("limit_key" in scan["Index Cond"] for scan in keyed)
    shown = [scan for scan in found if scan["Index Name"] == "runs_due" and "due_at" in scan["Index Cond"]]
    assert shown
    assert all("limit_key <> ''::text) = " in scan["Index Cond"] for scan in shown)


async def test_queues_without_limits_do_without_their_indexes(store: PostgresStore, tmp_path: Path):
    names = ("runs_keyed", "runs_admitted", "queues_pkey", "paces_pkey", "dedups_pkey", "dedups_run")
    sizes = [f"pg_relation_size('{label(tmp_path)}.{name}')" for name in names]
    empty = postgres().sql(f"SELECT {', '.join(sizes)}", database=DATABASE)
    run = await held(store, "a")
    await store.post([event("a", "m")], NOW, CAPACITY)
    await store.commit([decide(run, records=(record(1),)), decide(run, "waiting", seq=2, seen=1, consumed=("m",))])
    assert postgres().sql(f"SELECT {', '.join(sizes)}", database=DATABASE) == empty


@pytest.mark.parametrize("runs", [0, 3, 300])
async def test_pages_are_found_by_going_through_the_index_that_is_meant(
    store: PostgresStore, tmp_path: Path, runs: int
):
    await store.create([new(f"r{at}", created_at=NOW + at, parent_id="r0" if at % 2 else None) for at in range(runs)])
    if runs:
        await store.control([Control(f"r{at}", Action.PAUSE) for at in range(0, runs, 3)], NOW)
        postgres().sql(f"VACUUM ANALYZE {label(tmp_path)}.runs", database=DATABASE)
    meant = [
        (RunFilter(), {"runs_created"}),
        (RunFilter(workflow="w", queue="q", created_from=NOW), {"runs_created"}),
        (RunFilter((RunStatus.COMPLETE, RunStatus.ERRORED), tags={"a": "b"}), {"runs_created"}),
        (RunFilter((RunStatus.PAUSED,), "w"), {"runs_status"}),
        (RunFilter((RunStatus.PAUSED, RunStatus.ERRORED), created_until=NOW + 9), {"runs_status"}),
        (RunFilter((RunStatus.RUNNING, RunStatus.WAITING)), {"runs_due", "runs_status"}),
        (RunFilter(id_prefix="r1", queue="q"), {"runs_id_key"}),
        (RunFilter(parent_id="r0", workflow="w"), {"runs_parent"}),
    ]
    for where, indices in meant:
        *looks, page = statements(where)
        assert {scan.get("Index Name") for text in looks for scan in await scans(store, text)} <= indices, where
        assert {scan.get("Index Name") for scan in await scans(store, page)} == indices, where


def statements(where: RunFilter) -> list[str]:
    """What is asked to find a page behind another, as it is sent."""
    picking, texts = pick(searches._DIALECT, where, 50, f"{NOW}:1"), []
    answer = None
    while True:
        try:
            asked = picking.send(answer)
        except StopIteration as end:
            return [searches.numbered(text) for text in (*texts, end.value.statement.text)]
        texts.append(asked.text)
        answer = (0,) if "AS alike" in asked.text else (0, 0)


async def scans(store: PostgresStore, text: str) -> list[Any]:
    """How the tables are read in the plan that the store's own connections would keep."""
    text = text.replace("{given}", "$1")
    parameters = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)

    async def explain(session: Any) -> Any:
        await session.connection.execute(f"PREPARE asked AS {session.texts[text]}")
        try:
            nulls = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
            return await session.connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked{nulls}")
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
    """Whether a scan goes to its rows through the first column of an index, knows where they are, or wants them all."""
    if scan["Node Type"] == "Tid Scan" or scan.get("Index Name") == "queues_gated":
        return True
    return re.search(rf"\b{FIRST_OF.get(scan.get('Index Name'))}\b", scan.get("Index Cond", "")) is not None
