"""Why a queue keeps a run back."""

from __future__ import annotations

import asyncio

from perdure import KeyLimits, Rate, flow


def blocked(app):
    @app.task(limit_key=lambda key: key)
    async def work(key: str) -> None:
        await asyncio.Event().wait()

    return work


async def why(run) -> str:
    return str(await run.explain())


async def done(app):
    for run in (await app.runs()).runs:
        if not run.status.is_finished:
            await app.run(run.id).terminate()


async def test_a_paused_queue_says_so(make, world):
    app = make()
    work = blocked(app)
    async with app:
        await app.queue("default").pause()
        run = await work.enqueue("a")
        await world.settle()
        assert "queue 'default' is paused: resume it to go on" in await why(run)


async def test_a_queue_at_its_limit_says_so(make, world):
    app = make()
    work = blocked(app)
    app.limit("default", concurrency=2)
    async with app:
        *_, last = await work.enqueue_many([("a",), ("b",), ("c",)])
        await world.settle()
        assert "queue 'default' is at its limit: workers have 2 of its runs, of 2" in await why(last)
        await done(app)


async def test_a_key_at_its_limit_says_so(make, world):
    app = make()
    work = blocked(app)
    app.limit("default", per_key=1)
    async with app:
        _, last = await work.enqueue_many([("a",), ("a",)])
        await world.settle()
        assert "limit key 'a' is at its limit in queue 'default': 1 runs, of 1" in await why(last)
        await done(app)


async def test_a_key_that_is_paused_says_so_and_goes_on_when_it_is_resumed(make, world):
    app = make()
    work = blocked(app)
    async with app:
        await app.queue("default").set_key_limits({"a": KeyLimits(is_paused=True)})
        run = await work.enqueue("a")
        await work.enqueue("b")
        await world.settle()
        assert "limit key 'a' is paused in queue 'default': resume it to go on" in await why(run)
        assert (await app.queue("default").stats()).leased == 1
        await app.queue("default").set_key_limits({"a": None})
        await world.advance(2)
        assert (await app.queue("default").stats()).leased == 2
        await done(app)


async def test_a_rate_says_when_it_goes_on(make, world):
    app = make()
    work = blocked(app)
    app.limit("default", rate=Rate.of(1, per="1m"))
    async with app:
        _, last = await work.enqueue_many([("a",), ("a",)])
        nobody = await work.options(limit_key="").enqueue_many([("b",), ("b",)])
        await world.advance(15)
        assert "queue 'default' begins 1 per 1 min for limit key 'a', and the next one in 45 s" in await why(last)
        assert "queue 'default' begins 1 per 1 min, and the next one in 45 s" in await why(nobody[1])
        await done(app)


async def test_a_run_that_waits_is_kept_back_when_it_is_due(make, world):
    app = make()

    @app.workflow
    async def nap() -> None:
        await flow.sleep(60)

    async with app:
        run = await app.start(nap)
        await world.advance(5)
        await app.queue("default").pause()
        assert "is paused" not in await why(run)
        await world.advance(60)
        assert "queue 'default' is paused" in await why(run)
        assert "nobody" not in await why(run)
        await done(app)


async def test_a_queue_without_limits_keeps_nobody_back(make, world):
    app = make(mode="client")
    async with app:
        await app.queue("default").set_limits()
        run = await app.start("later", anyway=True)
        assert "no worker has ever announced workflow 'later'" in await why(run)
