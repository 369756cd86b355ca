"""A run that waits for children may be kept in memory for a while."""

from __future__ import annotations

import asyncio

from perdure import flow
from perdure.authoring.workflow import Workflow
from perdure.model.run import RunStatus
from tests.core.driver import Driver


async def nothing() -> None: ...


CHILD = Workflow(nothing, name="child")


async def family() -> None:
    await asyncio.gather(CHILD(), flow.sleep(60))


def lingering(function: object) -> Driver:
    run = Driver(function)
    run.drop()
    run.lingers = True
    run.claim()
    return run


def test_a_run_with_children_lingers_until_it_is_let_go():
    run = lingering(family)
    assert run.status is RunStatus.RUNNING
    count = len(run.decisions)
    run.go()
    assert len(run.decisions) == count
    run.lingers = False
    run.go()
    assert run.status is RunStatus.WAITING
    assert "child" in str(run.run.wait)


def test_a_run_without_children_does_not_linger():
    async def nap() -> None:
        await flow.sleep(60)

    assert lingering(nap).status is RunStatus.WAITING


def test_a_stopping_worker_gives_a_lingering_run_back():
    run = lingering(family)
    assert run.turn is not None
    run.turn.hand_back()
    run.go()
    assert run.status is RunStatus.WAITING


def test_a_lingering_run_is_paused():
    run = lingering(family)
    assert run.turn is not None
    run.turn.is_pausing = True
    run.go()
    assert run.status is RunStatus.PAUSED
