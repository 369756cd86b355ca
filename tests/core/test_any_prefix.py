"""Whatever the order in which things happen: any part of the journal, replayed and finished, gives the whole again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.model.errors import ChildFailedError, EventTimeoutError
from tests.core.driver import DRIVERS, Driver, replayed, step

a, b, c = (step(name) for name in "abc")


async def nothing() -> None: ...


child = Workflow(nothing, name="child")


async def races() -> list[Any]:
    tasks = {asyncio.create_task(each(), name=each.name) for each in (a, b, c)}
    order = []
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        order += sorted((task.get_name(), str(task.exception())) for task in done)
    return order


async def first_wins() -> Any:
    async with asyncio.timeout(90):
        for first in asyncio.as_completed([a(1), b(2), flow.sleep(20)]):
            try:
                return [await first, await c(3)]
            except ValueError:
                continue
    return None


async def groups() -> list[Any]:
    said: list[Any] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(a())
            group.create_task(b())
            said.append(await flow.wait_for_event("e", type="e", timeout=30))
    except* (ValueError, EventTimeoutError) as errors:
        said.append(len(errors.exceptions))
    return [*said, flow.random()]


async def limited() -> list[Any]:
    gate, seen = asyncio.Semaphore(2), []

    async def each(n: int) -> None:
        async with gate:
            try:
                seen.append(await asyncio.wait_for(a(n), 15))
            except (TimeoutError, ValueError) as error:
                seen.append([n, type(error).__name__, flow.now().isoformat()])

    await asyncio.gather(*(each(n) for n in range(4)))
    return seen


async def families() -> list[Any]:
    tasks = [asyncio.create_task(child()) for _ in range(3)]
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=40)
    for task in left:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    flow.patched("p")
    return [len(done), [type(end).__name__ for end in ends if not isinstance(end, ChildFailedError)], str(flow.uuid())]


async def streams() -> list[Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def events() -> AsyncIterator[Any]:
        try:
            while True:
                yield await flow.wait_for_event("e", type="e", timeout=30)
        except EventTimeoutError:
            pass
        finally:
            await queue.put(None)

    async def read() -> None:
        async for event in events():
            await queue.put(event)

    reader, got = asyncio.create_task(read()), []
    while (event := await queue.get()) is not None:
        got.append(await asyncio.gather(b(event), asyncio.sleep(1), return_exceptions=True))
        if len(got) == 2:
            reader.cancel()
    return [len(got), str(got)]


ZOO = [races, first_wins, groups, limited, families, streams]
CHOICE = st.tuples(st.integers(0, 7), st.integers(0, 3))


def happen(run: Driver, choice: tuple[int, int]) -> None:
    """One of the things that can happen now: a step ends, fails or is retried, an event or a child's end comes, …"""
    what, which = choice
    keys = list(run.running)
    key = keys[which % len(keys)] if keys else None
    if what <= 2 and key is not None:
        run.end(key, which)
    elif what == 3 and key is not None:
        run.end(key, error=ValueError(f"{which}"))
    elif what == 4 and key is not None:
        run.fail(key, OSError("again"), retry_in=which * 5)
    elif what == 5:
        run.send("e", which)
    elif what == 6 and run.children:
        new = list(run.children.values())[which % len(run.children)]
        if new.id not in {message.id for message in run.posts} | told(run):
            run.child_ends(str(new.parent_key), error=OSError("x") if which else None)
    else:
        run.wait(1 + which * 10)


def told(run: Driver) -> set[str | None]:
    return {record.ref for record in run.journal if record.state != "open"} | {message.id for message in run.inbox}


@pytest.mark.parametrize("shape", ZOO, ids=lambda shape: shape.__name__)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=st.lists(CHOICE, min_size=1, max_size=25), hold=st.sampled_from([0, 5_000]), crash=st.integers(0, 30))
def test_any_prefix_of_the_journal_gives_the_whole_again(shape: Any, choices: Any, hold: int, crash: int):
    run = Driver(shape)
    run.hold = hold
    for number, choice in enumerate([*choices, *[(0, 0), (7, 3)] * 12]):
        if run.status.is_finished:
            break
        if number == crash and run.turn is not None:
            run.crash()
        happen(run, choice)
    assert run.status.is_finished or shape is families
    for keep in range(1, len(run.journal)):
        again = replayed(run.journal, shape, keep=keep)
        assert again.journal == run.journal
        assert again.status == run.status
        again.drop()
    while DRIVERS:
        DRIVERS.pop().drop()
