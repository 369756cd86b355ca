"""Stores that an earlier Perdure wrote, as they stood on its server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.model.decision import RunFilter
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.run import Run
from perdure.store import open_store
from perdure.store.redis.keys import NAMES
from perdure.store.redis.store import RedisStore
from tests.servers import label, valkey
from tests.store.making import DAY, NOW, decide, one, record

KEPT = Path(__file__).parent / "redis_schema_1.json"
"""Every key of a store of schema 1, by its name: fields and values as Latin-1."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RedisStore]:
    """That store, opened."""
    prefix = label(tmp_path)
    for name, content in json.loads(KEPT.read_text()).items():
        key = f"{{{prefix}:0}}:{name}"
        for field, value in content.get("hash", {}).items():
            valkey().call("HSET", key, field.encode("latin-1"), value.encode("latin-1"))
        for member, score in content.get("zset", {}).items():
            valkey().call("ZADD", key, score, member.encode("latin-1"))
    opened = open_store(valkey().url(prefix=prefix))
    assert isinstance(opened, RedisStore)
    await opened.open()
    yield opened
    await opened.close()


async def everything(store: RedisStore) -> dict[str, Run]:
    return {run.id: run for run in (await store.find(RunFilter(), 100)).runs}


async def test_its_runs_are_what_they_were(store: RedisStore) -> None:
    runs = await everything(store)
    assert {run.id: str(run.status) for run in runs.values()} == {
        "running": "running",
        "waiting": "waiting",
        "told": "waiting",
        "complete": "complete",
        "errored": "errored",
        "pausing": "running",
        "paused": "paused",
        "crashed": "running",
        "parent": "waiting",
        "parent/child": "queued",
        "queued": "queued",
        "started": "running",
    }
    run = runs["running"]
    assert (run.tags, run.version, run.fingerprint, run.state) == ({"team": "é"}, "1", "f", '{"a": 1}')
    assert (run.limit_key, run.is_admitted, run.worker, run.due_at) == ("", False, "w", NOW + 60_000)
    assert [message.id for message in await store.inbox("told")] == ["m2"]
    assert [entry.workflow for entry in await store.catalog()] == ["checkout"]
    assert (await one(store, "complete")).output == '"done"'


async def test_it_is_of_the_present_schema_from_then_on(store: RedisStore) -> None:
    shard = store._shards[0]
    assert valkey().call("HGET", shard.meta.decode(), "schema") == "3"
    assert (await store.describe()).schema_version == 3
    assert set(valkey().call("KEYS", f"{{{store._settings.prefix}:*")) >= {shard.key(name).decode() for name in NAMES}


async def test_its_runs_go_on(store: RedisStore) -> None:
    running = await one(store, "running")
    committed = await store.commit([decide(running, "compensating", seq=2, seen=1, records=(record(2),))])
    assert not committed[0].is_lost
    claims = await store.claim(["default", "below"], 100, "w2", NOW + DAY, NOW + 2 * DAY)
    assert {claim.run.id: claim.run.crashes for claim in claims} == {
        "running": 1,
        "pausing": 1,
        "crashed": 1,
        "started": 1,
        "waiting": 0,
        "told": 0,
        "queued": 0,
        "parent/child": 0,
    }
    assert valkey().call("ZCARD", store._shards[0].key("due").decode()) == 9
    output = record(1, "output", kind="output")
    done = [decide(claim, "complete", records=(output,)) for claim in claims if claim.run.id != "running"]
    assert not any(each.is_lost for each in await store.commit(done))
    assert valkey().call("ZCARD", store._shards[0].key("due").decode()) == 2
    assert await store.prune(NOW + 1000 * DAY, 100) == 9


async def test_its_queues_can_have_limits(store: RedisStore) -> None:
    await store.set_queue(QueueState("default", limits=QueueLimits(2)))
    assert await store.claim(["default"], 9, "w2", NOW + 10, NOW + DAY) == []
    view = await store.look_into("default", NOW + 10, 9, 9, None)
    assert view is not None
    assert [candidate.run_id for candidate in view.candidates] == ["told", "queued", "waiting"]
    claims = await store.admit(Admission("default", 0, ("told", "waiting"), {}), "w2", NOW + 10, NOW + DAY)
    assert [claim.run.id for claim in claims or ()] == ["told", "waiting"]
