"""An engine that works until a signal comes."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from perdure import UsageError


@pytest.fixture
def holding(make):
    """An engine with a workflow whose step waits for a gate, and signals that only note that they came."""
    app = make()
    app.gate = asyncio.Event()

    @app.step
    async def hold() -> None:
        await app.gate.wait()

    @app.step
    async def after() -> None: ...

    @app.workflow
    async def w() -> None:
        await hold()
        await after()

    return app


@pytest.fixture
def reached():
    """Which signals reached the handlers that were there before."""
    got = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in kept:
        signal.signal(number, lambda number, frame: got.append(number))
    yield got
    for number, handler in kept.items():
        signal.signal(number, handler)


async def at_work(app, world):
    forever = asyncio.create_task(app.run_forever())
    while app._client is None:
        await asyncio.sleep(0)
    run = await app.start("w")
    await world.settle()
    return forever, run


async def test_a_signal_lets_running_steps_finish(holding, world, reached):
    forever, run = await at_work(holding, world)
    signal.raise_signal(signal.SIGTERM)
    await world.settle()
    assert not forever.done()
    holding.gate.set()
    assert await asyncio.wait_for(forever, 5) == 0
    async with holding:
        assert [record.key for record in await holding.run(run.id).journal()][:2] == ["input", "hold"]
    assert reached == []
    signal.raise_signal(signal.SIGTERM)
    assert reached == [signal.SIGTERM], "the handlers were put back"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_second_signal_waits_for_nothing(holding, world, reached, number, code):
    forever, _ = await at_work(holding, world)
    signal.raise_signal(signal.SIGTERM)
    await world.settle()
    signal.raise_signal(number)
    assert await asyncio.wait_for(forever, 5) == code
    assert reached == []


async def test_a_third_signal_is_not_ours(holding, world, reached):
    forever, _ = await at_work(holding, world)
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)
    assert await asyncio.wait_for(forever, 5) == 130
    assert reached == [signal.SIGINT]


async def test_a_worker_that_breaks_ends_it(holding, world, reached):
    forever, _ = await at_work(holding, world)
    holding.gate.set()
    holding.worker.broken.set()
    assert await asyncio.wait_for(forever, 5) == 1


async def test_an_engine_that_cannot_open_gives_the_signals_back(holding, reached):
    async def fail(name):
        if name == "open":
            raise OSError("no")

    before = signal.getsignal(signal.SIGTERM)
    holding.store.before = fail
    with pytest.raises(OSError, match="no"):
        await holding.run_forever()
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_client_has_nothing_to_run(make):
    with pytest.raises(UsageError, match="mode='client'"):
        await make(mode="client").run_forever()


def test_only_the_main_thread_hears_signals(holding):
    said = []

    def elsewhere():
        try:
            asyncio.run(holding.run_forever())
        except UsageError as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert "only the main thread" in said[0]
