"""What control does to runs that are in this process's hands."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from perdure import ChildFailedError, RunFinishedError, flow


@pytest.fixture
def gated(make):
    """An engine whose runs begin a step that waits for a gate."""
    app = make()
    app.gate, app.begun = asyncio.Event(), []

    @app.step
    async def work(name: str) -> str:
        app.begun.append(name)
        await app.gate.wait()
        return name

    @app.step
    async def note(name: str) -> None:
        app.begun.append(name)

    @app.workflow
    async def child() -> None:
        await flow.wait_for_event("go", type="go", timeout=None)

    @app.workflow
    async def works() -> str:
        return await work("works")

    @app.workflow
    async def parent() -> str:
        working = asyncio.create_task(work("works"))
        try:
            await child()
        except ChildFailedError:
            await note("told")
        return await working

    return app, works, parent


async def test_a_restart_leaves_the_turn_that_began_after_it(gated, world):
    app, works, _ = gated
    async with app:
        run = await app.start(works)
        await world.settle()
        before = app.worker.turns[run.id]
        real = app.store.store.control

        async def control(actions, now):
            answers = await real(actions, now)
            app.worker.wake()
            while app.worker.turns.get(run.id) in (None, before):  # it is claimed anew before the answer comes
                await asyncio.sleep(0)
            return [msgspec.structs.replace(answer, epoch=before.epoch + 1) for answer in answers]

        app.store.store.control = control
        await run.restart()
        await world.settle()
        assert run.id in app.worker.turns
        app.gate.set()
        assert await asyncio.wait_for(run.result(), 5) == "works"
        assert app.begun == ["works", "works"]


@pytest.mark.parametrize("verb", ["terminate", "restart"])
async def test_a_turn_of_before_is_over(gated, world, verb):
    app, works, _ = gated
    async with app:
        run = await app.start(works)
        await world.settle()
        before = app.worker.turns[run.id]
        await getattr(run, verb)()
        assert before.is_over
        app.gate.set()


async def test_a_parent_at_work_hears_at_once_of_a_child_that_was_ended(gated, world):
    app, _, parent = gated
    async with app:
        run = await app.start(parent, id="p")
        await world.settle()
        assert app.begun == ["works"]
        await app.run("p/child").terminate()
        await world.settle()
        assert app.begun == ["works", "told"]
        app.gate.set()
        assert await run.result() == "works"


async def test_only_a_restart_moves_what_has_ended(gated, world):
    app, works, _ = gated
    app.gate.set()
    async with app:
        run = await app.start(works)
        await run.result()
        for verb in (run.pause, run.resume, run.terminate):
            with pytest.raises(RunFinishedError, match="only a restart moves it"):
                await verb()
        await run.restart()
