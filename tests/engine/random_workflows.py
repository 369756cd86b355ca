"""Random programs, and the one workflow that interprets them.

A program is a tree of plain lists, so that it can be an argument of a workflow. Where branches run side by side, the
order of their ends must not depend on how often a worker died in between. So every delay in a program is another power
of four, times ten minutes: no two sums of delays come closer to each other than that, and all deaths together take
less. What ends a race against others ends at once, or at its delay; the others wait for a century, or for an event
that never comes.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from perdure import EventTimeoutError, NonRetryableError, Perdure, Retry, flow

BEGAN = 1_700_000_000_000
UNIT = 600
DELAYS = 10
AGES = "36000 days"

Node = list[Any]


class Generator:
    """Makes one random program. `late` are the types of the events that come late, with their delays."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.names = 0
        self.is_child = False
        self.delays = [UNIT * 4**n for n in range(DELAYS)]
        self.early: list[str] = []
        self.late: list[tuple[str, int]] = []
        self.dice.shuffle(self.delays)

    def program(self) -> Node:
        return ["seq", *(self.node(3) for _ in range(self.dice.randint(2, 4)))]

    def node(self, depth: int) -> Node:
        leaves = [self.step, self.step, self.retried, self.hopeless, self.nested, self.sleep, self.event, self.chance]
        if depth == 0:
            return self.dice.choice(leaves)()
        inner = [self.seq, self.gather, self.branches, self.race, self.bounded, self.late_for, self.child]
        make = self.dice.choice([*leaves, *inner, *inner])
        return make() if make in leaves else make(depth - 1)  # type: ignore[call-arg]

    def step(self) -> Node:
        return ["step", self.name(), self.dice.randint(0, 99)]

    def retried(self) -> Node:
        fails = self.dice.randint(1, 2)
        return ["retried", self.name(), fails, delay] if (delay := self.delay()) else self.step()

    def hopeless(self) -> Node:
        return ["hopeless", self.name()]

    def nested(self) -> Node:
        return ["nested", self.name(), self.dice.randint(1, 3)]

    def sleep(self) -> Node:
        return ["sleep", delay] if (delay := self.delay()) else self.step()

    def event(self) -> Node:
        if self.is_child:  # only the outermost run is sent events
            return self.step()
        kind = f"event-{len(self.early) + len(self.late)}"
        delay = self.delay() if self.dice.random() < 0.5 else None
        if delay:
            self.late.append((kind, delay))
        else:
            self.early.append(kind)
        return ["event", kind]

    def chance(self) -> Node:
        return ["chance"]

    def seq(self, depth: int) -> Node:
        return ["seq", *(self.node(depth) for _ in range(self.dice.randint(1, 3)))]

    def gather(self, depth: int) -> Node:
        leaves = [self.step, self.step, self.retried, self.hopeless]
        return ["gather", *(self.dice.choice(leaves)() for _ in range(self.dice.randint(2, 4)))]

    def branches(self, depth: int) -> Node:
        """Branches side by side; all but one begin with a delay of their own."""
        kind = self.dice.choice(["gathered", "grouped"])
        parts = [self.node(depth)]
        while len(parts) < 3 and (delay := self.delay()):
            parts.append(["seq", ["sleep", delay], self.node(depth)])
        return [kind, *parts]

    def race(self, depth: int) -> Node:
        losers = [self.dice.choice([["sleep", AGES], ["event", f"never-{self.name()}"], ["child", ["sleep", AGES]]])]
        return ["race", self.node(depth), *losers, ["sleep", AGES]]

    def bounded(self, depth: int) -> Node:
        return [self.dice.choice(["wait_for", "timeout"]), self.node(depth)]

    def late_for(self, depth: int) -> Node:
        """Something that never comes, given up on after a delay."""
        delay = self.delay()
        if not delay:
            return self.step()
        kind = self.dice.choice(["no_event", "gave_up"])
        return [kind, f"never-{self.name()}", delay, self.node(depth)]

    def child(self, depth: int) -> Node:
        kind, self.is_child, was_child = self.dice.choice(["child", "started"]), True, self.is_child
        part = self.node(min(depth, 1))
        self.is_child = was_child
        return [kind, part]

    def name(self) -> str:
        if self.names and self.dice.random() < 0.15:
            return f"s{self.dice.randint(1, self.names)}"  # a name that is used again
        self.names += 1
        return f"s{self.names}"

    def delay(self) -> int:
        return self.delays.pop() if self.delays else 0


class Play:
    """The workflow, its steps, and how often each step body was called."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def register(self, app: Perdure) -> None:
        calls = self.calls

        def called() -> str:
            key = flow.idempotency_key()
            calls[key] = calls.get(key, 0) + 1
            return key

        @app.step
        async def give(value: int) -> int:
            called()
            return value

        @app.step
        async def stumble(fails: int) -> str:
            called()
            if flow.attempt() <= fails:
                raise OSError(f"attempt {flow.attempt()}")
            return f"attempt {flow.attempt()}"

        @app.step
        async def despair(name: str) -> None:
            called()
            raise NonRetryableError(f"{name} is hopeless")

        @app.step
        async def descend(depth: int) -> int:
            called()
            return 1 + (await descend(depth - 1) if depth else 0)

        @app.workflow
        async def play(program: Node) -> Any:
            return await perform(program)

        async def perform(node: Node) -> Any:
            match node:
                case ["step", name, value]:
                    return await give.options(name=name)(value)
                case ["retried", name, fails, delay]:
                    retry = Retry(attempts=4, delay=delay, backoff="constant", max_delay=AGES, jitter=0)
                    return await stumble.options(name=name, retry=retry)(fails)
                case ["hopeless", name]:
                    try:
                        return await despair.options(name=name)(name)
                    except NonRetryableError as error:
                        return str(error)
                case ["nested", name, depth]:
                    return await descend.options(name=name)(depth)
                case ["sleep", delay]:
                    await asyncio.sleep(delay) if isinstance(delay, int) else await flow.sleep(delay)
                    return "slept"
                case ["event", kind]:
                    return await flow.wait_for_event(kind, type=kind, timeout=None)
                case ["chance"]:
                    return [flow.random(), str(flow.uuid()), flow.patched("p")]
                case ["seq", *parts]:
                    return [await perform(part) for part in parts]
                case ["gather" | "gathered", *parts]:
                    return await asyncio.gather(*map(perform, parts))
                case ["grouped", *parts]:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(perform(part)) for part in parts]
                    return [task.result() for task in tasks]
                case ["race", *parts]:
                    return await race([asyncio.create_task(perform(part)) for part in parts])
                case ["wait_for", part]:
                    return await asyncio.wait_for(perform(part), 90 * 366 * 86_400)
                case ["timeout", part]:
                    async with asyncio.timeout(90 * 366 * 86_400):
                        return await perform(part)
                case ["no_event", kind, delay, part]:
                    try:
                        return await flow.wait_for_event(kind, type=kind, timeout=delay)
                    except EventTimeoutError:
                        return await perform(part)
                case ["gave_up", kind, delay, part]:
                    try:
                        return await asyncio.wait_for(perform(["event", kind]), delay)
                    except TimeoutError:
                        return await perform(part)
                case ["child", part]:
                    return await play(part)
                case ["started", part]:
                    return await (await flow.start(play, part)).result()
            raise AssertionError(node)

        async def race(tasks: list[asyncio.Task[Any]]) -> Any:
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            return [tasks.index(next(iter(done))), next(iter(done)).result()]


def expected(node: Node) -> Any:
    """What a program gives, said without an engine."""
    match node:
        case ["step", _, value]:
            return value
        case ["retried", _, fails, _]:
            return f"attempt {fails + 1}"
        case ["hopeless", name]:
            return f"{name} is hopeless"
        case ["nested", _, depth]:
            return depth + 1
        case ["sleep", _]:
            return "slept"
        case ["event", kind]:
            return kind
        case ["chance"]:
            return CHANCE
        case ["race", first, *_]:
            return [0, expected(first)]
        case ["seq" | "gather" | "gathered" | "grouped", *parts]:
            return [expected(part) for part in parts]
        case [*_, part]:
            return expected(part)
    raise AssertionError(node)


CHANCE = [random.Random(bytes(16)).random(), "00000000-0000-4000-8000-000000000000", True]
