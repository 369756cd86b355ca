"""Starts runs and sends events, all by one seed, and notes what was acknowledged and has to come of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure import Perdure
from perdure.model.errors import RunNotFoundError, StoreUnavailableError
from tests.crash.expected import KINDS, added, children, outcome

T = TypeVar("T")

AT_ONCE = 5


class Load:
    """See the module's text.

    Args:
        client: starts the runs; it is opened by whoever makes this.
        runs: how many.
        per_second: how many of them in a second, about.
        seed: of all that is left to chance.
        goes_back: whether the store may forget what it acknowledged; what it does is started again.

    Attributes:
        expected: what every acknowledged run has to end with, by its id.
        children: the same of the runs that those start.
        events: the ids of the acknowledged events, by run.
        unknown: how often a call had to be made again, here or in the store, because its answer was lost.
    """

    def __init__(self, client: Perdure, runs: int, per_second: float, seed: int, *, goes_back: bool = False) -> None:
        self.client = client
        self.runs = runs
        self.per_second = per_second
        self.goes_back = goes_back
        self.expected: dict[str, int] = {}
        self.children: dict[str, int] = {}
        self.events: dict[str, list[str]] = {}
        self.unknown = 0
        self._dice = random.Random(seed)

    @property
    def in_order(self) -> list[str]:
        """The runs whose steps follow each other."""
        return [run_id for run_id in self.expected if not run_id.startswith(("parallel", "nested"))]

    async def start_all(self) -> None:
        """Start every run and send every event; return once all of it is acknowledged."""
        sending: list[asyncio.Task[None]] = []
        for first in range(0, self.runs, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, self.runs))
            await asyncio.gather(*(self.start(KINDS[number % len(KINDS)], number) for number in numbers))
            sending += [
                asyncio.create_task(self._send_event(number, self._dice.choice((0.0, 0.3, 2.0))))
                for number in numbers
                if KINDS[number % len(KINDS)] == "eventful"
            ]
            await asyncio.sleep(AT_ONCE / self.per_second)
        await asyncio.gather(*sending)

    async def start_again(self, run_id: str) -> None:
        """Start a run and send its event once more, which does nothing where they are."""
        kind, _, text = run_id.partition("-")
        number = int(text)
        run = await self._insist(lambda: self.client.start(kind, input={"number": number}, id=run_id))
        if run_id in self.events:
            await self._insist(lambda: run.send_event("go", {"add": added(number)}, id=f"go-{number}"))

    async def start(self, kind: str, number: int, queue: str = "default") -> None:
        """Start one run; return once it is acknowledged."""
        run_id = f"{kind}-{number}"
        await self._insist(lambda: self.client.start(kind, input={"number": number}, id=run_id, queue=queue))
        self.expected[run_id] = outcome(kind, number)
        self.children.update(children(kind, number))

    async def _send_event(self, number: int, delay: float) -> None:
        """Send an event twice, as a webhook would that did not hear the answer."""
        await asyncio.sleep(delay)
        run = self.client.run(f"eventful-{number}")
        try:
            is_new = await self._insist(lambda: run.send_event("go", {"add": added(number)}, id=f"go-{number}"))
        except RunNotFoundError:
            if not self.goes_back:
                raise
            await self.start("eventful", number)
            return await self._send_event(number, 0.0)
        self.unknown += not is_new
        self.events[run.id] = [f"go-{number}"]
        if not self.goes_back:
            assert not await self._insist(lambda: run.send_event("go", {"add": -1}, id=f"go-{number}"))
        return None

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until the store is there; whether it had an effect, only the repetition says."""
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                self.unknown += 1
                await asyncio.sleep(0.1)
