"""Sagas, whatever the order in which things happen: what holds of each, and that any part of its journal says so."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core.saga import CANCEL, DECISION, RECALL
from perdure.core.undos import undos_of
from perdure.model.decision import Message
from perdure.model.errors import ChildFailedError
from perdure.model.run import RunStatus
from tests.core.driver import DRIVERS, Driver, event, replayed, step
from tests.core.test_any_prefix import happen, told


def back(value: Any = None, result: Any = None) -> None: ...


a, b, c = (step(name, undo=back) for name in "abc")
plain = step("plain")


async def nothing(value: Any = None) -> Any: ...


release = Workflow(nothing, name="release")
booking = Workflow(nothing, name="booking", undo=release)


async def parts(kind: int) -> Any:
    """Some of everything: blocks side by side and inside each other, children, pivots, and what fails."""

    async def block(first: Any, then: Any) -> None:
        async with flow.saga():
            await first(1)
            async with flow.saga():
                await then(2)
            await plain(3)

    await a(0)
    ends = await asyncio.gather(block(b, c), block(c, booking), return_exceptions=True)
    if kind == 1:
        flow.pivot()
    async with asyncio.timeout(50), flow.saga():
        await asyncio.gather(a(1), b(2), flow.wait_for_event("e", type="e", timeout=30))
        await booking(4)
    if kind == 2:
        await flow.continue_as_new(0)
    if any(isinstance(end, (ValueError, ChildFailedError)) for end in ends):
        raise KeyError("in the end")
    return len(ends)


def act(run: Driver, choice: tuple[int, int]) -> None:
    what, which = choice
    if what == 6:
        left = [new for new in run.children.values() if new.id not in told(run) | {ended.id for ended in run.posts}]
        if left:
            run.child_ends(str(left[0].parent_key), error=OSError("x") if which == 3 else None)
    elif what < 8:
        happen(run, choice)
    elif what == 8:
        run.send(DECISION, {"key": None if which else "b", "verb": "retry" if which < 2 else "done"})
    else:
        order = CANCEL if which else RECALL_ID
        if order not in {message.id for message in run.inbox} | {record.ref for record in run.journal}:
            run.post(event(CANCEL, id=CANCEL) if which else recall(run))


def recall(run: Driver) -> Message:
    """The message by which the parent of a run has it end."""
    return Message("r", RECALL_ID, "event", RECALL, None, run.now, "ok", "p")


def check(run: Driver) -> None:
    """Nothing is undone that did not complete, nothing twice, and all of a run that was undone is."""
    completed: list[str] = []
    undone: list[str] = []
    for record in run.journal:
        if record.kind in ("step", "child") and record.state == "ok":
            head, _, key = record.key.partition(":")
            if not key:
                completed.append(record.key)
            elif head.startswith("undo"):
                assert key in completed
                assert key not in undone
                undone.append(key)
    states = {info.key: info.state for info in undos_of(run.journal)}
    if run.status is RunStatus.COMPENSATED:
        assert "failed" not in states.values()
    if run.status is RunStatus.COMPENSATION_FAILED:
        assert sorted(wait.key for wait in run.waits) == sorted(key for key in states if states[key] == "failed")


BELOW: Any = {"parent_id": "p", "parent_key": "k"}
RECALL_ID = f"{RECALL}:k"
CHOICE = st.tuples(st.integers(0, 9), st.integers(0, 3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.integers(0, 2),
    choices=st.lists(CHOICE, min_size=1, max_size=40),
    hold=st.sampled_from([0, 5_000]),
    crash=st.integers(0, 40),
)
def test_any_prefix_of_a_sagas_journal_gives_the_whole_again(kind: int, choices: Any, hold: int, crash: int):
    run = Driver(parts, kind, **BELOW)
    run.hold = hold
    for number, choice in enumerate([*choices, *[(0, 0), (6, 0), (7, 3), (8, 2)] * 20]):
        if run.status.is_finished or run.status is RunStatus.PAUSED:
            break
        if number == crash and run.turn is not None:
            run.crash()
        act(run, choice)
        check(run)
    assert run.status.is_finished, run.waits
    for keep in range(1, len(run.journal)):
        if run.run.incarnation:
            break
        again = replayed(run.journal, parts, keep=keep, args=(kind,), **BELOW)
        assert again.journal == run.journal
        assert again.status == run.status
        again.drop()
    while DRIVERS:
        DRIVERS.pop().drop()
