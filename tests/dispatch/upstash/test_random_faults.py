"""Random workflows under random faults: answers lost, endpoints that fail ahead of their work, engines that crash."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from perdure import RunStatus
from perdure.dispatch.messages.message import Answer
from perdure.model.decision import RunFilter
from tests.dispatch.upstash.endpoint import Endpoint

OFTEN = {"Upstash-Retries": "0"}


def plan(dice: random.Random, depth: int = 0) -> list[Any]:
    found: list[Any] = []
    for number in range(dice.randint(1, 6)):
        name = f"s{number}"
        kinds: list[Any] = [
            ("run", name, number),
            ("sleep", name, f"{dice.randint(1, 30)}s"),
            ("call", name, OFTEN),
            ("wait", name, f"e{number}", f"{dice.randint(1, 60)}s"),
            [("run", f"{name}{branch}", branch) for branch in range(dice.randint(2, 4))],
        ]
        if depth == 0:
            kinds.append(("invoke", name, "child"))
        found.append(dice.choice(kinds))
    return found


def size(steps: list[Any]) -> int:
    return sum(len(each) if isinstance(each, list) else 1 for each in steps)


@pytest.mark.parametrize("seed", range(20))
async def test_every_run_ends_once_with_each_step_once(world, memory, seed):
    dice = random.Random(seed)
    endpoint = Endpoint(world)
    endpoint.plans = {"w": plan(dice), "child": plan(dice, 1)}
    endpoint.before = lambda message: Answer(500) if dice.random() < 0.15 else None
    endpoint.spoil = lambda message, answer: Answer(0, error="lost") if dice.random() < 0.3 else answer
    app = endpoint.app(memory)
    await app.open()
    await endpoint.trigger("w", Retries="90", Retry_Delay="500")
    for _ in range(60):
        await world.advance(dice.choice([1, 5, 20]))
        if dice.random() < 0.3:
            await endpoint.workflows.waiting.notify(f"e{dice.randint(0, 5)}", b"x")
        if dice.random() < 0.15:
            await world.crash(app)
            app = endpoint.app(memory)
            await app.open()
    await world.advance(2_000)
    shown = await endpoint.workflows.reading.one("wfr_1")
    assert shown.run.status is RunStatus.COMPLETE, (endpoint.plans, shown.logged())
    results = [noted.fields.step_id for noted in shown.ledger.entries[1:] if noted.fields.target_step is None]
    assert sorted(results) == list(range(1, size(endpoint.plans["w"]) + 1))
    children = await app.store.find(RunFilter(workflow="perdure.upstash", id_prefix="wfr_child"), 100)
    invokes = sum(each[0] == "invoke" for each in endpoint.plans["w"])
    assert len(children.runs) == invokes
    for run in children.runs:
        assert run.status is RunStatus.COMPLETE
    calls = Counter(kind for _, kind, _ in endpoint.got)["third"]
    assert calls >= sum(each[0] == "call" for each in endpoint.plans["w"])
    await app.close()
