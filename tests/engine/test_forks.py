"""A fork: a new run that has what another recorded ahead of a step, and goes on from there by itself."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Retry, RunExistsError, RunFailedError, UsageError, flow


async def test_a_fork_keeps_what_was_ahead_and_does_the_rest_again(make, world):
    app = make()
    calls = []

    @app.step
    async def work(name: str) -> str:
        calls.append(name)
        return name

    a, b, c = (work.options(name=name) for name in "abc")

    @app.workflow
    async def w(n: int) -> list[str]:
        return [await a("a"), await b("b"), await c("c")]

    async with app:
        run = await app.start(w, 1, id="one", tags={"k": "v"})
        await run.result()
        fork = await run.fork(from_step="b", id="two")
        assert await fork.result(timeout=5) == ["a", "b", "c"]
        assert calls == ["a", "b", "c", "b", "c"]
        assert (await fork.get()).tags == {"k": "v"}
        assert (await fork.journal())[:2] == (await run.journal())[:2]
        again = await run.fork(from_step="b", id="two")
        assert await again.result(timeout=5) == ["a", "b", "c"]
        assert len(calls) == 5, "the same fork is the same run"
        with pytest.raises(RunExistsError):
            await run.fork(from_step="c", id="two")
        with pytest.raises(UsageError, match="no record 'd' to fork from; recorded: a, b, c"):
            await run.fork(from_step="d")
        with pytest.raises(UsageError):
            await run.fork(from_step="input")


async def test_a_fork_of_a_failed_run_goes_on_from_where_it_broke(make, world):
    app = make()
    broken = [True]
    calls = []

    @app.step
    async def load() -> int:
        calls.append("load")
        return 7

    @app.step
    async def charge(n: int) -> int:
        calls.append("charge")
        if broken[0]:
            raise UsageError("bad key")
        return n

    @app.workflow
    async def w() -> int:
        return await charge(await load())

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError):
            await run.result()
        broken[0] = False
        fork = await run.fork(from_step="charge")
        assert await fork.result(timeout=5) == 7
    assert calls == ["load", "charge", "charge"]


async def test_a_fork_leaves_attempts_and_children_under_way_to_the_other_run(make, world):
    app = make()

    @app.workflow
    async def child() -> str:
        return await flow.wait_for_event("go", type="go", timeout=None)

    @app.step(retry=Retry(attempts=3, delay="1 hour"))
    async def flaky() -> int:
        if flow.attempt() == 1:
            raise OSError("not now")
        return flow.attempt()

    @app.step
    async def first() -> str:
        return "first"

    @app.step
    async def last() -> str:
        return "last"

    @app.workflow
    async def w() -> tuple[str, int]:
        begun = await flow.start(child)
        tried = asyncio.ensure_future(flaky())
        await first()
        await flow.sleep("1 minute")
        await last()
        return await begun.result(), await tried

    async with app:
        run = await app.start(w, id="one")
        await world.advance(61)
        fork = await run.fork(from_step="last", id="two")
        assert [record.position for record in (await fork.journal())[:3]] == [0, 1, 2]
        await world.advance(7200)
        for parent in ("one", "two"):
            await app.run(f"{parent}/child").send_event("go", parent)
            await world.advance(1)
            assert await app.run(parent, w).result(timeout=5) == (parent, 2)
