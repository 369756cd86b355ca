"""What workflow code can ask for, and wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeGuard

from perdure.model.codec import Shape
from perdure.model.record import Kind
from perdure.model.retry import Retry
from perdure.model.run import Retention, Run

RunIn = Literal["loop", "thread", "process"]


class Program(Protocol):
    """A workflow, as the core sees it; a task is one that has a `leaf`, the step that is all of it."""

    name: str
    result: Shape
    leaf: StepSpec | None

    def arguments(self, payload: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the positional and keyword arguments of an input payload.

        Raises:
            SerializationError: the payload does not fit the parameters.
        """
        ...

    def begin(self, payload: str, run: Run) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of a run over this input payload.

        Raises:
            SerializationError: the payload does not fit the workflow's parameters.
        """
        ...

    def renew(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> str:
        """Return the input payload of these arguments, for `flow.continue_as_new`."""
        ...


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step as it is to be run.

    Attributes:
        name: its name in the journal.
        function: what it calls; a coroutine function for `loop`.
        run_in: where: on the worker's loop, in a thread or in a process.
        retry: when it is attempted again.
        timeout: of one attempt, in seconds; None for none.
        result: how its result is read back.
        is_native: whether `function` is a coroutine function itself, rather than something that returns an awaitable.
        tx: whether its body works in a transaction of the store, which its record is committed in.
    """

    name: str
    function: Callable[..., Any]
    run_in: RunIn
    retry: Retry
    timeout: float | None
    result: Shape
    is_native: bool
    tx: bool = False


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child workflow to start.

    Attributes:
        workflow, version, queue: what, and where.
        payload: its input.
        fingerprint: of what it is started with.
        result: how its output is read back.
        run_id: the id it is to have; None for one derived from the parent's.
        is_detached: it goes on when its parent ends.
        priority, tags, limit_key: as for a run; a priority of None takes the parent's.
        retention: how long it is kept after it ended; None takes the parent's.
        delay_ms: how long after it was asked for it is due, in milliseconds.
        expires_ms: how long after that it may be begun, in milliseconds; None for ever.
        overrides: what is wanted otherwise for the step of a task, as text (see `perdure.core.overrides`).
    """

    workflow: str
    version: str
    queue: str
    payload: str
    fingerprint: str
    result: Shape
    run_id: str | None = None
    is_detached: bool = False
    priority: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    limit_key: str = ""
    retention: Retention | None = None
    delay_ms: int = 0
    expires_ms: int | None = None
    overrides: str | None = None


@dataclass(slots=True, eq=False)
class Ask:
    """Something asked for under a key and not settled yet; `future` is what workflow code waits on."""

    key: str
    future: asyncio.Future[Any] | None

    kind: ClassVar[Kind]


@dataclass(slots=True, eq=False)
class StepAsk(Ask):
    """A step to run with these arguments.

    `left_at` says since when (milliseconds since the epoch) its attempt under way is its last: it is only waited for
    because it has an undo, or its run is to begin nothing more. None where that is not so.
    """

    spec: StepSpec
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    left_at: int | None = None
    kind: ClassVar[Kind] = "step"


@dataclass(slots=True, eq=False)
class TimerAsk(Ask):
    """A moment to wait for, in milliseconds since the epoch; `fire` runs when it has come.

    A guard is a timer that only bounds something else, as `asyncio.timeout` does: nothing waits for it alone.
    """

    due_at: int
    fire: Callable[[], None]
    is_guard: bool = False
    kind: ClassVar[Kind] = "timer"


@dataclass(slots=True, eq=False)
class EventAsk(Ask):
    """An event of this type, until `due_at` (milliseconds since the epoch; None for ever)."""

    type: str
    due_at: int | None
    shape: Shape
    kind: ClassVar[Kind] = "event"


@dataclass(slots=True, eq=False)
class ChildAsk(Ask):
    """A child run, and its end; `left_at` as for a step."""

    spec: ChildSpec
    run_id: str
    left_at: int | None = None
    kind: ClassVar[Kind] = "child"


Work = StepAsk | ChildAsk
"""What does something, so that it may have to be undone."""


def ends_first(ask: Ask | None) -> TypeGuard[Work]:
    """Return whether something is let come to its end before its run ends: not a child that goes on without it."""
    return isinstance(ask, StepAsk) or (isinstance(ask, ChildAsk) and not ask.spec.is_detached)
