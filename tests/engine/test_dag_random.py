"""Random graphs, built in code, written as data and as a plain function: they all do the same, whoever dies meanwhile.

`PERDURE_TEST_DAGS=500` plays more of them than the suite does.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from perdure import RunStatus
from perdure.authoring import chunks, mapping
from perdure.model import codec, failure
from perdure.store import open_store
from tests.engine.random_dags import Stage, comparable, expected, random_dag
from tests.engine.test_random_workflows import LEASE, PATIENCE, Theatre, World

GRAPHS = int(os.environ.get("PERDURE_TEST_DAGS", "30"))
BATCH = 10
WAYS = ("built", "written", "plain")
ENDS = {RunStatus.COMPLETE, RunStatus.ERRORED, RunStatus.COMPENSATED, RunStatus.COMPENSATION_FAILED}


@pytest.fixture(autouse=True)
def let_them_die_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "perdure")


class DagTheatre(Theatre):
    """One graph in one of its ways, played to its end."""

    def __init__(self, store: Any, seed: int, way: str, *, dies: bool) -> None:
        self.store = store
        self.run_id = f"run-{seed}"
        self.way = way
        self.dies = dies
        self.world = World()
        self.play: Any = Stage(random_dag(seed))
        self.events = []
        self.deaths = self.commits = 0

    async def outcome(self) -> dict[str, Any]:
        app = await self.engage()
        stage: Any = app.store
        stage.dies = False
        if self.way == "written":
            await app.publish(self.play.definition())
        await app.start(self.way, input={}, id=self.run_id)
        stage.dies = self.dies
        for _ in range(PATIENCE):
            stage = app.store
            await self.settle(stage)
            (run,) = await self.store.get([self.run_id])
            if run.status in ENDS:
                self.bury(app)
                return await self.told(run)
            if stage.is_dead:
                self.bury(app)
                self.world.at += round(LEASE * 1000) + 1
                app = await self.engage()
            else:
                await self.go_on(app)
        raise AssertionError(f"it does not come to an end: {run}")

    async def told(self, run: Any) -> dict[str, Any]:
        result = None
        if run.status is RunStatus.COMPLETE:
            result = comparable(codec.decode_any(run.output))
        elif run.output is not None:
            info = failure.decode_error(run.output)
            while info.cause is not None and "items failed" not in info.message:  # a task's error is told by its run
                info = info.cause
            result = info.message if "items failed" not in info.message else "items failed"
        return {"status": str(run.status), "undone": self.play.undone, "result": result}


async def play(seed: int, way: str, *, dies: bool) -> dict[str, Any]:
    store = open_store("memory://")
    await store.open()
    try:
        return await DagTheatre(store, seed, way, dies=dies).outcome()
    finally:
        await store.close()


seen: list[str] = []


@pytest.mark.parametrize("first", range(0, GRAPHS, BATCH))
async def test_all_ways_of_writing_a_graph_do_the_same_whoever_dies(first: int):
    for seed in range(first, first + BATCH):
        nodes = random_dag(seed)
        wanted = expected(nodes)
        seen.append(wanted["status"])
        for way in WAYS:
            for dies in (False, True):
                found = await play(seed, way, dies=dies)
                assert found == wanted, f"seed {seed}, {way}, {'dying' if dies else 'straight'}: {nodes}"


@pytest.mark.parametrize("first", range(0, GRAPHS, BATCH))
async def test_maps_in_chunks_do_the_same_whoever_dies(first: int, monkeypatch: pytest.MonkeyPatch):
    for module in (chunks, mapping):
        monkeypatch.setattr(module, "CHUNK", 2)
    for seed in range(first, first + BATCH):
        if any(node["items"] and len(node["items"]) > 2 for node in random_dag(seed)):
            straight = await play(seed, "written", dies=False)
            assert await play(seed, "written", dies=True) == straight, f"seed {seed}: {random_dag(seed)}"


def test_graphs_of_all_ends_were_played():
    assert set(seen) == {str(end) for end in ENDS} or len(seen) < GRAPHS
