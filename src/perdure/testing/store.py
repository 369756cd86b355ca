"""A store that counts what is written to it, and can have the worker die at a chosen commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from perdure.model.decision import Claim, Committed, Decision
from perdure.store.contract import Store

_COUNTED = ("create", "post", "control", "extend", "set_queue")
"""What each call of counts as something written, beside what is counted below."""


class Moment(str, Enum):
    """When, around a commit, a worker dies."""

    BEFORE = "before"
    STORED = "stored"
    ACKNOWLEDGED = "acknowledged"

    def __str__(self) -> str:
        return _TOLD[self]


_TOLD = {
    Moment.BEFORE: "just before it was stored: what its steps did is done, and not recorded",
    Moment.STORED: "after it was stored, just before it was acknowledged",
    Moment.ACKNOWLEDGED: "right after it was acknowledged, with the next steps begun",
}


class CrashPoint(NamedTuple):
    """Where a worker dies: around its `commit`-th commit, counted from 1."""

    commit: int
    moment: Moment


class CrashPlan:
    """Where a worker is to die, if anywhere, and what became of that.

    Args:
        point: where; None only counts.

    Attributes:
        commits: what each commit so far recorded, in words.
        is_reached: the worker has died.
    """

    def __init__(self, point: CrashPoint | None = None) -> None:
        self.point = point
        self.commits: list[str] = []
        self.is_reached = False

    def __str__(self) -> str:
        if self.point is None:
            return "without a crash"
        what = self.commits[self.point.commit - 1] if len(self.commits) >= self.point.commit else "which did not come"
        return f"with a crash at commit {self.point.commit} ({what}), {self.point.moment}"

    def next(self, decisions: Sequence[Decision]) -> Moment | None:
        """Count a commit; return when around it the worker dies, if it does."""
        self.commits.append("; ".join(_told(decision) for decision in decisions))
        if self.point is None or self.is_reached or len(self.commits) != self.point.commit:
            return None
        self.is_reached = True
        return self.point.moment


class WatchedStore:
    """A store behind which one thing is counted and one is planned; everything else passes through.

    Args:
        store: what stores.
        plan: where the worker dies.

    Attributes:
        writes: how much was written: while that grows, something is going on.
        on_crash: has the worker die.
    """

    def __init__(self, store: Store, plan: CrashPlan) -> None:
        self.writes = 0
        self.on_crash: Callable[[], object] = lambda: None
        self._store = store
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if name not in _COUNTED:
            return operation

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.writes += 1
            return await operation(*args, **kwargs)

        return counted

    async def claim(self, *args: Any, **options: Any) -> list[Claim]:
        """See the contract."""
        claims = await self._store.claim(*args, **options)
        self.writes += len(claims)
        return claims

    async def admit(self, *args: Any, **options: Any) -> list[Claim] | None:
        """See the contract."""
        claims = await self._store.admit(*args, **options)
        self.writes += len(claims or ())
        return claims

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the contract."""
        self.writes += 1
        moment = self._plan.next(decisions)
        loop = asyncio.get_running_loop()
        if moment is Moment.BEFORE:
            self.on_crash()
            await loop.create_future()
        answers = await self._store.commit(decisions)
        if moment is Moment.STORED:
            self.on_crash()
            await loop.create_future()
        if moment is Moment.ACKNOWLEDGED:  # rounds of the loop later: one to be told, one in which the next steps begin
            loop.call_soon(loop.call_soon, loop.call_soon, self.on_crash)
        return answers


def _told(decision: Decision) -> str:
    keys = ", ".join(repr(record.key) for record in decision.records) or str(decision.status)
    return f"{keys} of run {decision.run_id!r}"
