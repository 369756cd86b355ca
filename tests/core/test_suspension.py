"""A run that leaves its worker is dropped: no code of it reaches the journal, hangs, or leaves a warning behind.

The fixture in `conftest.py` drops every run of every test here, and finds what was left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core import loop
from perdure.model.run import RunStatus
from tests.core.driver import Driver, steps

a, b, c = steps("a", "b", "c")
said: list[str] = []


@pytest.fixture(autouse=True)
def nothing_said_yet() -> None:
    said.clear()


async def catches_exception() -> None:
    try:
        await a()
    except Exception:
        said.append("caught")


async def catches_everything() -> None:
    try:
        await a()
    except:  # noqa: E722  # as users write it
        await b()


async def goes_on_whatever_happens() -> None:
    while True:
        try:
            await a()
        except BaseException:
            said.append("again")
            continue


async def spins_on_what_it_makes_up() -> None:
    while True:
        try:
            await a()
            break
        except BaseException:
            while True:
                try:
                    flow.now()
                    break
                except BaseException:
                    continue


async def awaits_in_finally() -> None:
    try:
        await a()
    finally:
        await asyncio.sleep(1)
        said.append("slept")


async def takes_steps_in_finally() -> None:
    try:
        await a()
    finally:
        await b()
        said.append("stepped")


async def asks_in_finally() -> None:
    child = Workflow(catches_exception, name="child")
    try:
        await a()
    finally:
        for call in (
            flow.now,
            flow.uuid,
            flow.random,
            lambda: flow.set("at", "end"),
            lambda: flow.patched("p"),
            lambda: flow.start(child).send(None),
            lambda: flow.sleep(1).send(None),
            lambda: flow.wait_for_event("e", type="e").send(None),
            lambda: flow.continue_as_new().send(None),
            lambda: flow.do("d", said.append, "done").send(None),
        ):
            try:
                call()
                said.append("reached")
            except GeneratorExit:
                pass


async def waits_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(takes_steps_in_finally())
        group.create_task(catches_everything())
        await c()


async def waits_in_a_timeout() -> None:
    async with asyncio.timeout(60), asyncio.Lock():
        try:
            await a()
        finally:
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
                said.append("stepped")


async def numbers() -> AsyncIterator[int]:
    try:
        while True:
            yield await a()
    finally:
        said.append("closing")
        await b()
        said.append("closed")


async def waits_inside_a_generator() -> None:
    async for _ in numbers():
        pass


async def holds_a_generator() -> None:
    source = numbers()
    await anext(source)
    await c()
    await source.aclose()


async def cleans_up_a_generator() -> None:
    async with contextlib.aclosing(numbers()) as source:
        async for _ in source:
            await c()


async def raises_in_finally() -> None:
    try:
        await a()
    finally:
        raise RuntimeError("in finally")


async def raises_another_in_finally() -> None:
    try:
        await a()
    finally:
        raise ValueError("in finally")


async def schedules_in_finally() -> None:
    running = asyncio.get_running_loop()
    other = asyncio.create_task(b())
    try:
        await a()
    finally:
        running.call_soon(said.append, "called")
        assert running.call_later(1, said.append, "timed").cancelled()
        assert running.is_closed()
        other.cancel()
        asyncio.get_running_loop().create_future().set_exception(ValueError("nobody looks"))
        gc.collect()


SHAPES = [
    catches_exception,
    catches_everything,
    goes_on_whatever_happens,
    spins_on_what_it_makes_up,
    awaits_in_finally,
    takes_steps_in_finally,
    asks_in_finally,
    waits_in_a_group,
    waits_in_a_timeout,
    waits_inside_a_generator,
    holds_a_generator,
    cleans_up_a_generator,
    raises_in_finally,
    raises_another_in_finally,
    schedules_in_finally,
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_nothing_of_a_dropped_run_reaches_the_journal(shape: Any):
    run = Driver(shape)
    if "a" in run.running and shape is holds_a_generator:
        run.end("a")
    turn = run.turn
    assert turn is not None
    journal, decided, asked = list(run.journal), len(run.decisions), set(turn.replay.asks)
    run.drop()
    gc.collect()
    loop._UNCLOSABLE.clear()
    assert turn.replay.records == [] or shape is spins_on_what_it_makes_up
    assert turn.replay.renewal is None
    assert turn.replay.asks == {}
    assert turn.decide(run.now, 0) is None
    assert turn.launches() == []
    assert (run.journal, len(run.decisions)) == (journal, decided)
    assert not {"slept", "stepped", "reached", "closed", "called", "timed", "done", "caught"} & set(said)
    run.claim()
    assert run.turn is not None
    assert set(run.turn.replay.asks) == asked
    run.drop()
    loop._UNCLOSABLE.clear()


def test_code_that_catches_everything_for_ever_is_kept_suspended():
    run = Driver(goes_on_whatever_happens)
    run.drop()
    assert len(loop._UNCLOSABLE) == 1
    assert len(said) < 1_000
    loop._UNCLOSABLE.clear()


def test_a_generator_that_is_still_held_when_the_run_leaves_runs_none_of_its_code():
    run = Driver(holds_a_generator)
    run.end("a")
    run.drop()
    gc.collect()
    assert said == []


def test_nothing_that_happens_after_the_drop_matters():
    run = Driver(catches_exception)
    turn = run.turn
    assert turn is not None
    run.is_manual = True
    run.drop()
    turn.step_ended("a", "ok", "1", run.now, attempt=1, started_at=run.now)
    turn.step_failed("a", "{}", run.now, attempt=1, started_at=run.now, due_at=run.now)
    turn.nested_ended("a/b", "ok", "1", run.now, attempt=1, started_at=run.now)
    turn.arrive([], run.now)
    turn.tick(run.now)
    assert turn.decide(run.now, 0) is None


def test_an_evicted_run_comes_back_where_it_was():
    async def work() -> list[str]:
        done = []
        try:
            done.append(await a())
            await asyncio.sleep(3600)
            done.append(await b())
        finally:
            said.append("finally")
        return done

    run = Driver(work)
    run.end("a", "x")
    assert run.status is RunStatus.WAITING
    assert said == ["finally"]
    run.wait(3600)
    run.end("b", "y")
    assert run.result == ["x", "y"]


def test_beginning_anew_cannot_be_swallowed():
    async def work(n: int) -> int:
        if n == 2:
            return n
        while True:
            try:
                await flow.continue_as_new(n + 1)
            except BaseException:
                await a()
                continue
            finally:
                said.append("finally")

    run = Driver(work, 1)
    assert run.status is RunStatus.QUEUED
    assert [record.payload for record in run.journal] == ['{"n":2}']
    assert run.running == {}
    loop._UNCLOSABLE.clear()
    run.claim()
    assert run.result == 2


def test_a_task_that_is_never_awaited_is_dropped_with_its_run():
    async def work() -> str:
        asyncio.create_task(takes_steps_in_finally())  # noqa: RUF006  # as users write it
        return await b("x")

    run = Driver(work)
    run.end("b", "x")
    assert run.result == "x"
    assert said == []
