"""Long lives: continue_as_new, patched, code that changed, and runs that are parked."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    JournalTooLongError,
    Limits,
    RunFailedError,
    RunParkedError,
    flow,
)


async def test_a_long_loop_keeps_a_short_journal(make, world):
    app = make()
    lengths = []

    @app.step
    async def work(n: int) -> int:
        return n + 1

    @app.workflow
    async def w(n: int, total: int) -> int:
        for _ in range(10):
            total += await work(n)
        lengths.append(n)
        if n < 50:
            await flow.continue_as_new(n + 1, total=total)
        return total

    async with app:
        run = await app.start(w, 0, 0)
        assert await run.result(timeout=20) == sum(10 * (n + 1) for n in range(51))
        found = await run.get()
        assert found.incarnation == 50
        assert found.journal_length == 12
        assert (await run.journal())[0].payload == '{"n":50,"total":12750}'


async def test_unread_events_come_along(make, world):
    app = make()

    @app.workflow
    async def w(seen: list[str]) -> list[str]:
        seen.append(await flow.wait_for_event("e", type="e", timeout=None))
        if len(seen) < 3:
            await flow.continue_as_new(seen)
        return seen

    async with app:
        run = await app.start(w, [])
        for text in "abc":
            await run.send_event("e", text)
        assert await run.result(timeout=5) == ["a", "b", "c"]


async def test_children_end_when_their_parent_begins_anew(make, world):
    app = make()

    @app.workflow
    async def child():
        await flow.sleep("1 day")

    @app.workflow
    async def w(n: int) -> int:
        if n == 0:
            await flow.start(child)
            await flow.start(child, id="free", is_detached=True)
            await flow.sleep(1)
            await flow.continue_as_new(1)
        return n

    async with app:
        run = await app.start(w, 0, id="p")
        await world.advance(2)
        assert await run.result(timeout=5) == 1
        assert str((await app.run("p/child").get()).status) == "terminated"
        assert str((await app.run("free").get()).status) == "waiting"


async def test_code_behind_a_renewal_is_not_reached(app):
    reached = []

    @app.step
    async def note(what: str):
        reached.append(what)

    @app.workflow
    async def w(n: int) -> int:
        try:
            if n == 0:
                await flow.continue_as_new(1)
                reached.append("behind")
        finally:
            if n == 0:
                await note("finally")
        return n

    async with app:
        assert await (await app.start(w, 0)).result(timeout=5) == 1
    assert reached == []


async def test_arguments_of_a_renewal_are_checked(app):
    @app.workflow
    async def w(n: int) -> int:
        await flow.continue_as_new("one")

    async with app:
        with pytest.raises(RunFailedError, match="does not fit its parameters"):
            await (await app.start(w, 0)).result(timeout=5)


async def test_a_journal_is_bounded(world, memory):
    app = world.app(memory, limits=Limits(journal_records=20))

    @app.step
    async def work(): ...

    @app.workflow
    async def w():
        while True:
            await work()

    async with app:
        with pytest.raises(RunFailedError, match="flow.continue_as_new") as failed:
            await (await app.start(w)).result(timeout=5)
    assert isinstance(failed.value.__cause__, JournalTooLongError)


def deploy(make, register):
    app = make()
    return app, register(app)


async def redeployed(make, world, old, new, *, between=None, id="r"):
    """Start a run on old code, then open an engine with new code on the same store."""
    first, w = deploy(make, old)
    async with first:
        run = await first.start(w, id=id)
        await world.settle()
        if between is not None:
            await between(run)
    return deploy(make, new)


def steps(app, calls):
    def step(name):
        @app.step(name=name)
        async def body() -> str:
            calls.append(name)
            return name

        return body

    return step


async def test_a_patch_keeps_old_runs_on_the_old_side(make, world):
    calls = []

    def old(app):
        step = steps(app, calls)
        load, tax = step("load"), step("old tax")

        @app.workflow(name="w")
        async def w() -> str:
            await load()
            await flow.sleep(60)
            return await tax()

        return w

    def new(app):
        step = steps(app, calls)
        load, tax, new_tax = step("load"), step("old tax"), step("new tax")

        @app.workflow(name="w")
        async def w() -> str:
            is_new = flow.patched("new-tax")
            await load()
            await flow.sleep(60)
            return await (new_tax() if is_new else tax())

        return w

    app, w = await redeployed(make, world, old, new)
    async with app:
        fresh = await app.start(w)
        await world.advance(120)
        assert await app.run("r").result() == "old tax"
        assert await fresh.result() == "new tax"
        assert "patch:new-tax" in [record.key for record in await fresh.journal()]
    assert calls == ["load", "load", "old tax", "new tax"]


async def test_an_added_step_does_not_break_running_work(make, world):
    calls = []

    def old(app):
        step = steps(app, calls)
        a, b = step("a"), step("b")

        @app.workflow(name="w")
        async def w() -> str:
            await a()
            await flow.sleep(60)
            return await b()

        return w

    def new(app):
        step = steps(app, calls)
        a, b, extra = step("a"), step("b"), step("extra")

        @app.workflow(name="w")
        async def w() -> str:
            await extra()
            await a()
            await flow.sleep(60)
            return await b()

        return w

    app, _ = await redeployed(make, world, old, new)
    async with app:
        await world.advance(120)
        assert await app.run("r").result() == "b"
    assert calls == ["a", "extra", "b"]


def sleeper(names, *, naps=True):
    def register(app):
        step = steps(app, [])
        bodies = [step(name) for name in names]

        @app.workflow(name="w")
        async def w() -> list[str]:
            done = [await body() for body in bodies]
            if naps:
                await flow.sleep(60)
            return done

        return w

    return register


async def test_code_that_no_longer_fits_parks_the_run_and_a_fix_frees_it(make, world, caplog):
    app, _ = await redeployed(make, world, sleeper(["load", "charge"]), sleeper(["load"], naps=False))
    async with app:
        run = app.run("r")
        await world.advance(61)
        with pytest.raises(RunParkedError, match=r"step 'charge'.*mend it, then resume it"):
            await run.result(timeout=5)
        assert str((await run.get()).status) == "paused"
        text = str(await run.explain())
        assert "it is parked: its code and its journal differ" in text
        assert "record 2 is step 'charge', but the code came to its end without asking for it" in text
        assert "deploy code that fits and resume it" in text
        journal = await run.journal()
        await run.resume()
        await world.settle()
        assert str((await run.get()).status) == "paused", "the same code parks it again"
        assert await run.journal() == journal, "and changes nothing"
        with pytest.raises(RunParkedError):
            await run.result(timeout=5)
    assert "is parked" in caplog.text
    mended, _ = deploy(make, sleeper(["load", "charge"]))
    async with mended:
        await mended.run("r").resume()
        await world.advance(61)
        assert await mended.run("r").result(timeout=5) == ["load", "charge"]


async def test_whoever_waits_is_told_when_a_run_is_parked(make, world):
    app, _ = await redeployed(make, world, sleeper(["load", "charge"]), sleeper(["load"], naps=False))
    async with app:
        waiting = asyncio.create_task(app.run("r").result(timeout=5))
        await world.advance(61)
        with pytest.raises(RunParkedError):
            await waiting


async def test_a_parked_run_can_be_restarted_or_ended(make, world):
    for move in ("restart", "terminate"):
        app, _ = await redeployed(make, world, sleeper(["a", "b"]), sleeper(["a", "c"]), id=move)
        async with app:
            run = app.run(move)
            await world.advance(130)
            assert str((await run.get()).status) == "paused"
            await getattr(run, move)()
            await world.advance(130)
            assert str((await run.get()).status) == {"restart": "complete", "terminate": "terminated"}[move]


async def test_a_run_that_takes_its_workers_down_is_parked(make, world, url):
    """Each worker dies with the run in hand, before it could commit anything."""
    begun, is_deadly = [], [True]

    def register(app):
        @app.workflow(name="w")
        async def w() -> str:
            begun.append(1)
            return "well" if not is_deadly[0] else await flow.wait_for_event("never", type="never", timeout=None)

        return w

    client = world.app(url, mode="client")
    w = register(client)
    await client.open()
    await client.start(w, id="r")
    for n in range(2):
        worker = world.app(url, mode="worker", limits=Limits(crashes=2))
        register(worker)
        release = worker.store.hold("commit")
        await worker.open()
        await world.settle()
        assert len(begun) == n + 1
        await world.crash(worker)
        release.set()
        world.at += 16_000
    worker = world.app(url, mode="worker", limits=Limits(crashes=2))
    register(worker)
    async with worker:
        await world.settle()
        assert len(begun) == 2, "it is not begun a third time"
    run = client.run("r")
    with pytest.raises(RunParkedError, match="took its worker down 2 times in a row"):
        await run.result(timeout=5)
    is_deadly[0] = False
    await run.resume()
    worker = world.app(url, mode="worker", limits=Limits(crashes=2))
    register(worker)
    async with worker:
        await world.settle()
        assert await run.result(timeout=5) == "well"
    await client.close()
