"""A turn's messages, and who waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from perdure.core.ask import Ask, ChildAsk, EventAsk
from perdure.core.child import is_recalled
from perdure.core.saga import CANCEL, RECALL
from perdure.model.decision import Message
from perdure.model.run import Run


class Inbox:
    """Matches messages with asks: events by type, first come first served; ends of children by key.

    Args:
        run: whose they are.
        asks: what is waited for, by key; the replay's own.

    Attributes:
        seen: the greatest `Message.seq` that was taken in.
        children: the children that run, by key.
        order: the message that has the run end early, terminated or else recalled; None for none.
    """

    def __init__(self, run: Run, asks: Mapping[str, Ask]) -> None:
        self.seen = 0
        self.children: dict[str, ChildAsk] = {}
        self.order: Message | None = None
        self._run = run
        self._asks = asks
        self._orders: list[str] = []
        self._events: dict[str, deque[Message]] = {}
        self._waits: dict[str, deque[EventAsk]] = {}
        self._ends: dict[str, Message] = {}

    def take_in(self, messages: Iterable[Message]) -> None:
        """Take in messages; those taken in before are passed over."""
        for message in messages:
            if message.seq <= self.seen:
                continue
            self.seen = message.seq
            if message.kind == "child":
                self._ends[message.id] = message
            elif message.type in (CANCEL, RECALL):
                self._orders.append(message.id)
                if message.type == CANCEL or (self.order is None and is_recalled(self._run, message)):
                    self.order = message
            else:
                self._events.setdefault(message.type, deque()).append(message)

    def take_orders(self) -> list[str]:
        """Return the ids of all messages that would have the run end early, and be done with them."""
        orders, self._orders, self.order = self._orders, [], None
        return orders

    def wait(self, ask: EventAsk) -> None:
        """Have an ask wait for its event."""
        self._waits.setdefault(ask.type, deque()).append(ask)

    def match(self) -> tuple[Ask, Message] | None:
        """Return an ask and its message, both no longer waiting; None when nothing fits."""
        if not self._events and not self._ends:
            return None
        for end in self._ends.values():
            child = self.children.get(end.type)
            if child is not None and child.run_id == end.ref:  # not one of an earlier incarnation under the same key
                del self._ends[end.id], self.children[end.type]
                return child, end
        for kind, messages in self._events.items():
            waits = self._waits.get(kind)
            while waits and self._asks.get(waits[0].key) is not waits[0]:
                waits.popleft()
            if waits:
                message = messages.popleft()
                if not messages:
                    del self._events[kind]
                return waits.popleft(), message
        return None
