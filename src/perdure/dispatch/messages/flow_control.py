"""Flow control: keys with bounds of their own, which messages bring along unless an operator has pinned them.

A key bounds the messages without a queue, all together, and those of each queue by themselves. What an operator says of
a key holds for all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from perdure.dispatch.messages.documents import Kept
from perdure.dispatch.messages.message import FLOWS, QUEUES, UNENDED, FlowControl, Message
from perdure.dispatch.messages.options import name
from perdure.engine.app import Perdure
from perdure.engine.limiting import LIMITED_KEYS, change_queue, with_own
from perdure.model.decision import RunFilter
from perdure.model.errors import UsageError
from perdure.model.queue import KeyLimits, QueueState, Rate
from perdure.store.contract import Store

PINS = "messages.pins"
"""The collection of what is pinned; the keys are those of flow control."""

SEEN = 50_000
"""Of how many keys the bounds are remembered that messages brought last."""

LOOKED_AT, PAGE = 100_000, 500
"""How many messages are looked at, and how many at once, to find out which keys are used."""

SEEN_MS = 30_000
"""For how many milliseconds they are taken for what is in the store."""


class UnknownKeyError(UsageError):
    """No message brought bounds for this flow-control key."""


class Pins(msgspec.Struct, frozen=True):
    """Which bounds of a key messages leave alone."""

    parallelism: bool = False
    rate: bool = False


class FlowControls:
    """The flow-control keys of one namespace.

    Args:
        app: the namespace's engine.
    """

    def __init__(self, app: Perdure) -> None:
        self._app = app
        self._pins = Kept(app.store, app.world, PINS, Pins)
        self._seen: OrderedDict[tuple[str, str], tuple[FlowControl, int]] = OrderedDict()

    async def note(self, messages: Iterable[Message]) -> None:
        """Have keys bound what the last messages say; nothing is written where that is what they said before.

        Raises:
            UsageError: too many keys would have bounds.
        """
        now = self._app.world.now()
        news: dict[str, dict[str, FlowControl]] = {}
        for message in messages:
            flow = message.flow_control
            if flow is None:
                continue
            said, at = self._seen.get((message.place, flow.key), (None, 0))
            if said != flow or now - at >= SEEN_MS:
                news.setdefault(message.place, {})[flow.key] = flow
        known = await self._known() if news else {}
        for queue, flows in news.items():
            pins = dict(zip(flows, await self._pins.read(*flows), strict=True))

            def change(state: QueueState, flows=flows, pins=pins) -> QueueState:  # type: ignore[no-untyped-def]
                own = state.limits.own
                return with_own(
                    state, {key: _merged(own.get(key) or known.get(key), flows[key], pins[key]) for key in flows}
                )

            if len(known.keys() | flows.keys()) > LIMITED_KEYS:
                await self._forget_unused(queue)
            await change_queue(self._app.store, queue, change)
            for key, flow in flows.items():
                self._seen[queue, key] = (flow, now)
                self._seen.move_to_end((queue, key))
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    async def _forget_unused(self, queue: str) -> None:
        """Forget what keys bound of which no message is left, unless an operator has said it.

        Where so many messages are left that it cannot be told of all in good time, nothing is.
        """
        used: set[str] = set(await self._pins.all())
        cursor: str | None = None
        for _ in range(LOOKED_AT // PAGE):
            page = await self._app.store.find(RunFilter(UNENDED, queue=queue), PAGE, cursor)
            used.update(run.limit_key for run in page.runs)
            if (cursor := page.cursor) is None:
                break
        else:
            return

        def change(state: QueueState) -> QueueState:
            own = state.limits.own
            return with_own(state, {key: None for key in own if key not in used and not own[key].is_paused})

        await change_queue(self._app.store, queue, change)
        for key in [each for each in self._seen if each[0] == queue and each[1] not in used]:
            del self._seen[key]

    async def all(self) -> dict[str, tuple[KeyLimits, Pins]]:
        """Return what every key bounds, and what is pinned of it."""
        own = await self._known()
        pins = await self._pins.all()
        return {key: (own[key], pins.get(key, Pins())) for key in sorted(own)}

    async def get(self, key: str) -> tuple[KeyLimits, Pins]:
        """Return what a key bounds, and what is pinned of it.

        Raises:
            UnknownKeyError: there is none such.
        """
        limits = (await self._known()).get(name(key, "flow-control key"))
        if limits is None:
            raise UnknownKeyError(f"flow-control key {key!r} is unknown")
        (pins,) = await self._pins.read(key)
        return limits, pins or Pins()

    async def set_paused(self, key: str, paused: bool) -> None:
        """Have no message of a key be begun, or let them be begun again.

        Raises:
            UnknownKeyError: there is none such.
        """
        await self.get(key)
        await self._change(key, lambda was: replace(was, is_paused=paused))

    async def pin(
        self, key: str, *, parallelism: int | None = None, rate: int | None = None, period: int | None = None
    ) -> None:
        """Set bounds of a key that messages leave alone from then on; None leaves one as it is.

        Raises:
            UsageError: a bound is none.
        """
        name(key, "flow-control key")
        if parallelism is None and rate is None:
            raise UsageError("pin: give parallelism, rate or both")
        pace = None if rate is None else Rate.of(rate, 1 if period is None else period)
        if parallelism is not None and parallelism < 1:
            raise UsageError(f"parallelism: {parallelism} must be a whole number, at least 1")
        wanted = Pins(parallelism is not None, rate is not None)
        await self._pins.change(key, lambda was: _or(was or Pins(), wanted))
        await self._change(
            key, lambda was: replace(was, concurrency=parallelism or was.concurrency, rate=pace or was.rate)
        )

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """Let messages say again what a key bounds."""

        def change(was: Pins | None) -> Pins | None:
            left = Pins(bool(was and was.parallelism and not parallelism), bool(was and was.rate and not rate))
            return None if left == Pins() else left

        await self._pins.change(name(key, "flow-control key"), change)
        for seen in [each for each in self._seen if each[1] == key]:
            del self._seen[seen]

    async def _known(self) -> dict[str, KeyLimits]:
        """Return what keys bound, where it differs as for messages without a queue."""
        found: dict[str, KeyLimits] = {}
        for state in await places(self._app.store):
            found = {**state.limits.own, **found}
        return found

    async def _change(self, key: str, change: Callable[[KeyLimits], KeyLimits]) -> None:
        """Change what a key bounds wherever it bounds anything; if that is nowhere, for messages without a queue."""
        names = [state.name for state in await places(self._app.store) if key in state.limits.own]
        for each in names or [FLOWS]:
            await change_queue(
                self._app.store,
                each,
                lambda state: with_own(state, {key: change(state.limits.own.get(key) or KeyLimits())}),
            )


async def places(store: Store) -> list[QueueState]:
    """Return the engine's queues in which flow-control keys may bound something, that of plain messages first."""
    states = [each for each in await store.queues() if each.name == FLOWS or each.name.startswith(QUEUES)]
    return sorted(states, key=lambda state: state.name != FLOWS)


def _merged(was: KeyLimits | None, flow: FlowControl, pins: Pins | None) -> KeyLimits:
    """Return what a key bounds once a message has said so; what is pinned stays, and so does a pause."""
    was = was or KeyLimits()
    concurrency = flow.parallelism or None
    rate = Rate(flow.rate, flow.period * 1000) if flow.rate else None
    return KeyLimits(
        was.concurrency if pins and pins.parallelism else concurrency,
        was.rate if pins and pins.rate else rate,
        was.is_paused,
    )


def _or(one: Pins, other: Pins) -> Pins:
    return Pins(one.parallelism or other.parallelism, one.rate or other.rate)
