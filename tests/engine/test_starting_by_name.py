"""Starting workflows that are registered in other processes, by their names."""

from __future__ import annotations

import logging

import pytest

from perdure import UnknownWorkflowError, UsageError


@pytest.fixture
def worker(make):
    app = make(mode="worker", queues=["default", "mail"])

    @app.workflow(queue="mail", version="7")
    async def letter() -> str:
        return "sent"

    @app.workflow
    async def parcel(number: int) -> int:
        return number

    return app


async def test_a_name_that_nobody_announced_is_a_mistake(make, worker):
    client = make(mode="client")
    async with worker, client:
        with pytest.raises(UnknownWorkflowError, match="'leter'; did you mean 'letter'. .anyway=True starts it"):
            await client.start("leter")
        with pytest.raises(UnknownWorkflowError, match="known: letter, parcel"):
            await client.start("xyzzy")
        assert not (await client.runs()).runs
        run = await client.start("xyzzy", anyway=True)
        assert (await run.get()).workflow == "xyzzy"
        with pytest.raises(UsageError, match="workflow name"):
            await client.start("x" * 5_000)


async def test_before_any_worker_was_there_every_name_is_taken(make):
    client = make(mode="client")
    async with client:
        assert (await (await client.start("leter")).get()).queue == "default"


async def test_the_queue_and_the_version_are_those_that_were_announced(make, worker, world):
    client = make(mode="client")
    async with worker, client:
        run = await client.start("letter")
        assert await run.result(timeout=5) == "sent"
        found = await run.get()
        assert (found.queue, found.version) == ("mail", "7")
        assert (await (await client.start("letter", queue="other")).get()).queue == "other"


async def test_what_was_announced_is_read_now_and_then(make, worker, world):
    client, later = make(mode="client"), make(mode="worker")

    @later.workflow
    async def new() -> None: ...

    async with worker, client:
        for _ in range(3):
            await client.start("letter")
        assert client.store.calls.count("catalog") == 1
        async with later:
            await client.start("new")
        assert client.store.calls.count("catalog") == 2
        world.at += 6_000
        await client.start("letter")
        assert client.store.calls.count("catalog") == 3


async def test_a_queue_that_nobody_serves_is_explained(make, worker, world):
    client = make(mode="client")
    async with worker, client:
        run = await client.start("letter", queue="post")
        text = str(await run.explain())
        assert "no worker has announced queue 'post', and runs of 'letter' usually go to 'mail'" in text
        worker.worker.claiming.places.room = lambda queue=None: 0
        run = await client.start("letter")
        assert "workers that know 'letter' are there, and busy, unless" in str(await run.explain())


async def test_a_worker_says_whose_runs_it_leaves_to_others(make, worker, caplog):
    both = make(queues=["slow"])
    for name, queue in (("letter", "mail"), ("crunch", "slow"), ("parcel", "default"), ("perdure.own", "own")):

        @both.workflow(name=name, queue=queue)
        async def w() -> None: ...

    with caplog.at_level(logging.WARNING):
        async with worker:
            await worker.publish(
                {"name": "letters", "definition": {"queue": "post", "steps": [{"task": "letter"}]}}, anyway=True
            )
            assert caplog.text == ""
        async with both:
            assert "serves queues 'slow': runs of letter, parcel wait for others, in 'default', 'mail'" in caplog.text
