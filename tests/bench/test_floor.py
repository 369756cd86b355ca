"""The floor writes what the stores write: a store that opens what a bare client wrote finds whole runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from bench.floor.clients import connected
from bench.stores import STORES
from perdure import RunStatus
from perdure.model.decision import RunFilter
from perdure.store import open_store


@pytest.mark.parametrize("name", [name for name in STORES if name != "redis-fsync"])
async def test_the_rows_are_those_of_the_store(name):
    # Not the test's own folder: a server that runs as somebody else could not enter it.
    with STORES[name].serving(Path(tempfile.gettempdir())) as served:
        bare = await connected(served.url)
        await bare.create([1, 2, 3])
        await bare.keep([1, 2], [1, 2])
        await bare.end([1], [3])
        await bare.close()
        store = open_store(served.url)
        await store.open()
        now = 1_795_000_000_000
        page = await store.find(RunFilter(), 10)
        last, second, first = (run.id for run in page.runs)
        ended, running, fresh = await store.get([first, second, last])
        journal = await store.journal(first)
        stats = await store.stats(now)
        claims = await store.claim(["default"], 10, "w", now + 20_000, now + 40_000)
        pruned = await store.prune(now + 10**12, 10)
        await store.close()
    assert [record.kind for record in journal] == ["input", "step", "step", "step", "output"]
    assert (ended.status, ended.journal_length, ended.output) == (RunStatus.COMPLETE, 5, '{"n":1}')
    assert (running.status, running.journal_length) == (RunStatus.RUNNING, 3)
    assert (fresh.status, fresh.journal_length) == (RunStatus.RUNNING, 1)
    assert stats.status == {RunStatus.COMPLETE: 1, RunStatus.RUNNING: 2}
    assert [(len(claim.journal), claim.run.epoch) for claim in claims] == [(3, 2), (1, 2)]
    assert pruned == 1
