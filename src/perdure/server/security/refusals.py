"""What was refused, for the audit log: the first few of each principal one by one, the rest as a count.

So nobody fills the log by asking again and again for what they may not do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from perdure.engine.env import Env, Timer
from perdure.server.principal import Principal

ALONE = 20
"""How many refusals of a principal, in a namespace and a span, are entries of their own."""

SPAN = 3_600_000
"""Milliseconds that a span lasts: it begins with a principal's first refusal."""

COUNTED = 10_000
"""How many principals are counted at once; beyond that, whoever began longest ago is told of early."""

KINDS = 50
"""How many kinds of refusals are told apart in a count; the others are `other`."""

FOLDED = "requests.refused"
"""The action of an entry that stands for many."""

_log = logging.getLogger("perdure.server")


@dataclass(slots=True)
class _Span:
    principal: Principal
    namespace: str
    outcome: str
    began: int
    alone: int = 0
    more: Counter[str] = field(default_factory=Counter)
    timer: Timer | None = None


class Refusals:
    """Counts refusals, and has them written down.

    Args:
        write: writes an entry: principal, namespace, action, target, details, outcome.
        world: the clock.
    """

    def __init__(
        self, write: Callable[[Principal, str, str, str, Mapping[str, Any], str], Awaitable[None]], world: Env
    ) -> None:
        self._write = write
        self._world = world
        self._spans: dict[tuple[str, str, str], _Span] = {}
        self._telling: set[asyncio.Task[None]] = set()

    async def add(
        self, principal: Principal, namespace: str, action: str, target: str, outcome: str, details: Mapping[str, Any]
    ) -> None:
        """Write a refusal down, or count it.

        Raises:
            StoreError: it could not be written.
        """
        name = namespace, principal.kind, principal.id or principal.name
        now = self._world.now()
        span = self._spans.get(name)
        if span is None or not 0 <= now - span.began < SPAN:
            await self._tell(name)
            if len(self._spans) >= COUNTED:
                await self._tell(next(iter(self._spans)))
            span = self._spans[name] = _Span(principal, namespace, outcome, now)
        if span.alone < ALONE:
            span.alone += 1
            await self._write(principal, namespace, action, target, details, outcome)
            return
        kind = " ".join((action, *map(str, details.values())))
        span.more[kind if kind in span.more or len(span.more) < KINDS else "other"] += 1
        if span.timer is None:
            left = (span.began + SPAN - now) / 1000
            span.timer = self._world.call_later(asyncio.get_running_loop(), left, lambda: self._begin_telling(name))

    async def close(self) -> None:
        """Write down what was counted."""
        for name in list(self._spans):
            await self._tell(name)
        if self._telling:
            await asyncio.wait(self._telling)

    def _begin_telling(self, name: tuple[str, str, str]) -> None:
        task = asyncio.get_running_loop().create_task(self._tell(name))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, name: tuple[str, str, str]) -> None:
        """End a span, and write down what was counted in it."""
        span = self._spans.pop(name, None)
        if span is None or span.timer is None:
            return
        span.timer.cancel()
        count = span.more.total()
        details = {"count": count, "of": dict(span.more)}
        try:
            await self._write(span.principal, span.namespace, FOLDED, "", details, f"{span.outcome}, {count:,} times")
        except Exception:  # it must not keep anything else from being told
            _log.exception("the audit log does not know of %d refusals of %r", count, span.principal.name)
