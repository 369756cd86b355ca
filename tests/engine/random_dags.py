"""Random graphs, each written in three ways: with the builder, as a definition, and as a plain workflow function.

Every step takes another power of four of time (see `random_workflows`), so that which one ends first does not depend on
how its step is run, nor on how often a worker died in between. A step takes time by failing once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from perdure import Dag, ItemFailure, NonRetryableError, Perdure, Retry, flow, workflow

UNIT = 600
NODES = 7
AGES = "36000 days"

Node = dict[str, Any]


def random_dag(seed: int) -> list[Node]:
    """Return the steps of a graph, each behind those that it comes after."""
    dice = random.Random(seed)
    delays = [UNIT * 4**n for n in range(NODES)]
    dice.shuffle(delays)
    nodes: list[Node] = []
    count = dice.randint(2, NODES)
    for number in range(count):
        before = [node["name"] for node in nodes]
        after = dice.sample(
            before, dice.randint(min(1, len(before)) if dice.random() < 0.7 else 0, min(3, len(before)))
        )
        node: Node = {
            "name": f"s{number}",
            "after": after,
            "delay": delays[number],
            "n": dice.randint(0, 9),
            "fate": "hopeless" if dice.random() < (0.5 if number == count - 1 else 0.04) else "ok",
            "undo": dice.choice(["ok", "ok", "ok", "hopeless"]) if dice.random() < 0.7 else None,
            "when": [dice.choice(after), dice.randint(0, 9)] if after and dice.random() < 0.45 else None,
            "unmet": dice.choice(["skip", "skip-cascade"]),
            "items": None,
            "tolerate": 0,
        }
        if dice.random() < 0.2:
            node |= {"items": [0, *(dice.randint(0, 5) for _ in range(dice.randint(0, 5)))], "undo": None}
            node |= {"tolerate": dice.choice([1, 2, "50%", "100%"]), "fate": "ok"}
        nodes.append(node)
    return nodes


def retry_of(node: Node) -> Retry:
    return Retry(attempts=2, delay=node["delay"], backoff="constant", max_delay=AGES, jitter=0)


def saw(node: Node, results: Mapping[str, Any]) -> list[Any]:
    """What a step is told of those before it."""
    return [first_of(results.get(name)) for name in node["after"]]


def first_of(result: Any) -> Any:
    return result[0] if isinstance(result, list) else None if result is None else result["n"]


def holds(node: Node, results: Mapping[str, Any]) -> bool:
    if node["when"] is None:
        return True
    name, bound = node["when"]
    value = results.get(name)
    return isinstance(value, dict) and value["n"] > bound


class Stage:
    """The steps and tasks of all graphs, and the order in which undos were begun."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.undone: list[str] = []

    def take_back(self, name: str, undo: str) -> None:
        if name not in self.undone:  # a worker that died may have begun it before
            self.undone.append(name)
        if undo == "hopeless":
            raise NonRetryableError(f"{name} cannot be undone")

    def register(self, app: Perdure) -> None:
        """Write the graph in the two ways that are code, and what the third one calls."""

        @app.task(name="work")
        async def work(n: int, saw: list[Any], fate: str) -> dict[str, Any]:
            return give(n, saw, fate)

        @app.task(name="item")
        async def item(item: int) -> int:
            return give_item(item)

        @app.task(name="take_back")
        async def take_back(name: str, undo: str) -> None:
            self.take_back(name, undo)

        app.add(self.built())

        @app.step(name="inline")
        async def inline(name: str, n: int, saw: list[Any], fate: str, undo: str | None) -> dict[str, Any]:
            return give(n, saw, fate)

        @app.step(name="inline_item")
        async def inline_item(item: int) -> int:
            return give_item(item)

        async def undo_inline(name: str, undo: str) -> None:
            self.take_back(name, undo)

        @app.workflow(name="plain")
        async def plain() -> dict[str, Any]:
            return await as_function(self.nodes, inline, inline_item, undo_inline)

    def built(self) -> Dag:
        builder = workflow("built")
        for node in self.nodes:
            options: dict[str, Any] = {
                "after": node["after"],
                "retry": retry_of(node),
                "when_unmet": node["unmet"],
                "when": None if node["when"] is None else condition(node),
            }
            if node["items"] is not None:
                builder.map(node["name"], item_body, over=items_of(node), limit=2, tolerate=node["tolerate"], **options)
            else:
                undo = None if node["undo"] is None else self.undo_of(node)
                builder.step(node["name"], body_of(node), compensate=undo, **options)
        return builder.build()

    def undo_of(self, node: Node) -> Any:
        async def undo(ctx: Any) -> None:
            assert ctx.results[node["name"]]["n"] == node["n"]
            self.take_back(node["name"], node["undo"])

        return undo

    def definition(self) -> dict[str, Any]:
        return {"name": "written", "version": 1, "definition": {"steps": [as_data(node) for node in self.nodes]}}


def give(n: int, saw: list[Any], fate: str) -> dict[str, Any]:
    if flow.attempt() == 1:
        raise OSError("takes its time")
    if fate == "hopeless":
        raise NonRetryableError("hopeless")
    return {"n": n, "saw": saw}


def give_item(item: int) -> int:
    if flow.attempt() == 1:
        raise OSError("takes its time")
    if item == 5:
        raise NonRetryableError("five")
    return item


async def item_body(item: int) -> int:
    return give_item(item)


def items_of(node: Node) -> Any:
    return lambda ctx: node["items"]


def condition(node: Node) -> Any:
    return lambda ctx: holds(node, ctx.results)


def body_of(node: Node) -> Any:
    async def body(ctx: Any) -> dict[str, Any]:
        return give(node["n"], saw(node, ctx.results), node["fate"])

    return body


def as_data(node: Node) -> dict[str, Any]:
    retry = {"attempts": 2, "delay": node["delay"], "backoff": "constant", "maxDelay": AGES, "jitter": 0}
    step: dict[str, Any] = {"name": node["name"], "after": node["after"], "retry": retry, "onUnmet": node["unmet"]}
    if node["when"] is not None:
        step["when"] = f"steps.{node['when'][0]}.n > `{node['when'][1]}`"
    if node["items"] is not None:
        return {
            **step,
            "taskName": "item",
            "data": {"item": "${item}"},
            "map": {"over": node["items"], "limit": 2, "tolerate": node["tolerate"]},
        }
    if node["undo"] is not None:
        step["compensate"] = {"task": "take_back", "data": {"name": node["name"], "undo": node["undo"]}}
    told = [f"${{not_null(steps.{name}.n, steps.{name}[0])}}" for name in node["after"]]
    return {**step, "taskName": "work", "data": {"n": node["n"], "saw": told, "fate": node["fate"]}}


async def as_function(nodes: list[Node], inline: Any, inline_item: Any, undo_inline: Any) -> dict[str, Any]:
    """Do what the graph says, with a task for each step."""
    results: dict[str, Any] = {}
    fates: dict[str, asyncio.Task[str]] = {}

    async def one(node: Node) -> str:
        before = [await fates[name] for name in node["after"]]
        if "cascade" in before:
            return "cascade"
        if not holds(node, results):
            return "cascade" if node["unmet"] == "skip-cascade" else "skip"
        step = inline if node["items"] is None else inline_item
        step = step.options(name=node["name"], retry=retry_of(node))
        if node["items"] is not None:
            results[node["name"]] = await flow.map(step, node["items"], limit=2, tolerate=node["tolerate"])
            return "done"
        if node["undo"] is not None:
            step = step.options(undo=undo_inline)
        results[node["name"]] = await step(node["name"], node["n"], saw(node, results), node["fate"], node["undo"])
        return "done"

    for node in nodes:
        fates[node["name"]] = asyncio.create_task(one(node))
    await asyncio.wait(fates.values(), return_when=asyncio.FIRST_EXCEPTION)
    failed = [task for task in fates.values() if task.done() and task.exception() is not None]
    for task in fates.values():
        task.cancel()
    await asyncio.wait(fates.values())
    if failed:
        failed[0].result()
    return {node["name"]: results[node["name"]] for node in nodes if node["name"] in results}


def comparable(value: Any) -> Any:
    """A result without what depends on how its steps are run: how their errors are told."""
    if isinstance(value, ItemFailure):
        return {"failed": value.index}
    if isinstance(value, dict):
        if set(value) == {"index", "error", "message"}:
            return {"failed": value["index"]}
        return {name: comparable(each) for name, each in value.items()}
    return [comparable(each) for each in value] if isinstance(value, list) else value


def expected(nodes: list[Node]) -> dict[str, Any]:
    """What becomes of a graph, said without an engine."""
    ends: dict[str, float] = {}
    fates: dict[str, str] = {}
    results: dict[str, Any] = {}
    failures: list[tuple[float, str]] = []
    for node in nodes:
        name = node["name"]
        begun = max((ends[each] for each in node["after"]), default=0.0)
        ends[name], fates[name] = begun, "done"
        if "cascades" in (fates[each] for each in node["after"]):
            fates[name] = "cascades"
        elif not holds(node, results):
            fates[name] = "cascades" if node["unmet"] == "skip-cascade" else "skipped"
        elif node["items"] is not None:
            ends[name], results[name], failure = mapped(node, begun)
            failures += [(failure, "items failed")] if failure is not None else []
        else:
            ends[name] = begun + node["delay"]
            results[name] = {"n": node["n"], "saw": saw(node, results)}
            failures += [(ends[name], "hopeless")] if node["fate"] == "hopeless" else []
    if not failures:
        return {"status": "complete", "undone": [], "result": results}
    at, told = min(failures)
    undos = {node["name"]: node["undo"] for node in nodes if node["undo"] is not None and node["name"] in results}
    undone = sorted((name for name in undos if ends[name] < at), key=lambda name: -ends[name])
    status = "compensated" if undone else "errored"
    if "hopeless" in (undos[name] for name in undone):
        return {"status": "compensation_failed", "undone": undone, "result": None}
    return {"status": status, "undone": undone, "result": told}


def mapped(node: Node, begun: float) -> tuple[float, list[Any], float | None]:
    """When a map ends, what it gives, and when it fails; two items at a time."""
    items, tolerate = node["items"], node["tolerate"]
    most = int(float(tolerate[:-1]) / 100 * len(items)) if isinstance(tolerate, str) else tolerate
    lost = [index for index, item in enumerate(items) if item == 5]
    results = [{"failed": index} if index in lost else item for index, item in enumerate(items)]
    failure = begun + (lost[most] // 2 + 1) * node["delay"] if len(lost) > most else None
    return begun + -(-len(items) // 2) * node["delay"], results, failure
