"""What workflow code and step bodies say to the engine, as in `await flow.sleep("3 days")`.

In workflow code plain asyncio works too: `gather`, `wait`, `TaskGroup`, `timeout`, and `asyncio.sleep`, which is a
durable timer as well.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random as _random
import uuid as _uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, NoReturn, ParamSpec, TypeAlias, TypeVar, cast, overload

from perdure.authoring.context import replay_or_raise, step_or_raise
from perdure.authoring.emitting import emit_event
from perdure.authoring.mapping import map_items
from perdure.authoring.saga import SagaBlock
from perdure.authoring.step import Step, perform, step_spec, undoing
from perdure.authoring.undo import signature_of
from perdure.authoring.workflow import Workflow
from perdure.core.ask import ChildAsk, RunIn
from perdure.core.loop import running
from perdure.core.replay import Replay
from perdure.core.saga import RESERVED
from perdure.model.codec import Shape
from perdure.model.duration import Duration, instant, milliseconds
from perdure.model.errors import UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.retry import Retry

P = ParamSpec("P")
T = TypeVar("T")
Undo: TypeAlias = Callable[..., Any]

emit = emit_event
map = map_items  # noqa: A001  # `flow.map` is the word for it

EVENT_TIMEOUT: Duration = "2 minutes"
"""How long an event is waited for by default, as in Cloudflare-style engines."""

_SHAPES: dict[Any, Shape] = {}


# Without options the arguments are checked; with one (a type checker cannot tell options from the callable's own
# keywords) only the result is.
@overload
async def do(
    name: str, function: Callable[..., Awaitable[T]], /, *args: Any, retry: Retry | None,
    timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool = ..., undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., T], /, *args: Any, retry: Retry | None, timeout: Duration | None = ...,
    run_in: RunIn | None = ..., tx: bool = ..., undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., Awaitable[T]], /, *args: Any, retry: Retry | None = ...,
    timeout: Duration | None, run_in: RunIn | None = ..., tx: bool = ..., undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., T], /, *args: Any, retry: Retry | None = ..., timeout: Duration | None,
    run_in: RunIn | None = ..., tx: bool = ..., undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., T], /, *args: Any, retry: Retry | None = ..., timeout: Duration | None = ...,
    run_in: RunIn | None, tx: bool = ..., undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., Awaitable[T]], /, *args: Any, retry: Retry | None = ...,
    timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool, undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., T], /, *args: Any, retry: Retry | None = ..., timeout: Duration | None = ...,
    run_in: RunIn | None = ..., tx: bool, undo: Undo | None = ..., **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., Awaitable[T]], /, *args: Any, retry: Retry | None = ...,
    timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool = ..., undo: Undo | None, **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(
    name: str, function: Callable[..., T], /, *args: Any, retry: Retry | None = ..., timeout: Duration | None = ...,
    run_in: RunIn | None = ..., tx: bool = ..., undo: Undo | None, **kwargs: Any,
) -> T: ...  # fmt: skip
@overload
async def do(name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
async def do(name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
async def do(  # type: ignore[misc]  # mypy does not match ParamSpec overloads with their implementation
    name: str,
    function: Callable[..., Any],
    /,
    *args: Any,
    retry: Retry | None = None,
    timeout: Duration | None = None,  # stops the step, not the waiting
    run_in: RunIn | None = None,
    tx: bool = False,
    undo: Undo | None = None,
    **kwargs: Any,
) -> Any:
    """Run any callable as a step.

    Args:
        name: the step's name in the journal.
        function: what to call with `args` and `kwargs`.
        retry: when it is attempted again; three attempts by default.
        timeout: of one attempt (a duration); None for none.
        run_in: `loop`, `thread` or `process`; by default the loop for async functions, a thread for others.
        tx: its own SQL, on the connection that `flow.transaction()` returns, is committed together with its record.
        undo: what undoes it if the run, or its `flow.saga()` block, fails later: a function or a step that takes the
            same arguments, or fewer, and `result=` if it has such a parameter.

    Returns:
        The result, rebuilt as the callable's return annotation says.

    Raises:
        StepError: the step failed for good.
    """
    plain = function.function if isinstance(function, Step) else function
    spec = step_spec(plain, name=name, retry=retry, timeout=timeout, run_in=run_in, tx=tx)
    undoable = None if undo is None else undoing(undo, signature_of(plain), f"step {name!r}")
    return await perform(spec, args, kwargs, undoable)


def saga() -> SagaBlock:
    """Return a block that undoes what completed in it if an exception leaves it: `async with flow.saga(): ...`.

    The exception then goes on. What is undone here is not undone again if the run fails; an undo that failed stays
    with the run, and is one of its failed ones if that fails too.
    """
    return SagaBlock()


def pivot() -> None:
    """Say that there is no way back from here: nothing that completed is undone any more, nor what comes later.

    In a `flow.saga()` block that holds for the block and those around it; one that is begun later is undone by itself.
    """
    replay_or_raise("flow.pivot").begin_saga().pivot()


async def sleep(duration: Duration, *, name: str = "sleep") -> None:
    """Wait durably; a sleeping run takes no memory and no worker.

    Args:
        duration: seconds, a `timedelta` or text such as `"24 hours"`.
        name: the timer's name in the journal.
    """
    replay = replay_or_raise("flow.sleep")
    await _sleep(replay, name, replay.loop.at + milliseconds(duration))


async def sleep_until(moment: dt.datetime | float, *, name: str = "sleep") -> None:
    """Wait durably for a moment.

    Args:
        moment: an aware `datetime`, or seconds since the epoch.
        name: the timer's name in the journal.
    """
    await _sleep(replay_or_raise("flow.sleep_until"), name, instant(moment))


@overload
async def wait_for_event(name: str, *, type: str, timeout: Duration | None = ..., into: type[T]) -> T: ...
@overload
async def wait_for_event(name: str, *, type: str, timeout: Duration | None = ...) -> Any: ...
async def wait_for_event(
    name: str,
    *,
    type: str,  # the field's word for it
    timeout: Duration | None = EVENT_TIMEOUT,  # durable: it survives the process
    into: Any = Any,
) -> Any:
    """Wait for an event that is sent to this run; one that was sent before is taken at once.

    Args:
        name: the wait's name in the journal.
        type: the event's type.
        timeout: how long to wait (a duration; two minutes by default); None waits for ever.
        into: the type to read the payload as; plain JSON values by default.

    Raises:
        EventTimeoutError: none came in time.
    """
    replay = replay_or_raise("flow.wait_for_event")
    check_name(name, "event wait name")
    if not type or len(type) > NAME_LENGTH:
        raise UsageError(f"event type {type!r} must be text of 1 to {NAME_LENGTH} characters")
    if type.startswith(RESERVED):
        raise UsageError(f"event type {type!r} begins with {RESERVED!r}, which is kept for Perdure; choose another")
    if into not in _SHAPES:
        _SHAPES[into] = Shape(into, "the event's payload")  # of whichever type: types are without number
    due_at = None if timeout is None else replay.loop.at + milliseconds(timeout, field="timeout")
    return await replay.wait_for(replay.ask_event(name, type, due_at, _SHAPES[into]))


class Child(Generic[T]):
    """A child run that workflow code started with `flow.start`. `id` is its run id."""

    def __init__(self, replay: Replay, ask: ChildAsk) -> None:
        self.id = ask.run_id
        self._replay = replay
        self._ask = ask

    async def result(self) -> T:
        """Wait for the child's result; a cancelled wait leaves the child alone.

        Raises:
            ChildFailedError: the child errored or was terminated.
        """
        assert self._ask.future is not None
        return cast(T, await asyncio.shield(self._ask.future))


@overload
async def start(
    workflow: Workflow[..., T], /, *args: Any, id: str, is_detached: bool = ..., priority: int = ...,
    tags: Mapping[str, str] | None = ..., **kwargs: Any,
) -> Child[T]: ...  # fmt: skip
@overload
async def start(
    workflow: Workflow[..., T], /, *args: Any, id: str | None = ..., is_detached: bool, priority: int = ...,
    tags: Mapping[str, str] | None = ..., **kwargs: Any,
) -> Child[T]: ...  # fmt: skip
@overload
async def start(
    workflow: Workflow[..., T], /, *args: Any, id: str | None = ..., is_detached: bool = ..., priority: int,
    tags: Mapping[str, str] | None = ..., **kwargs: Any,
) -> Child[T]: ...  # fmt: skip
@overload
async def start(
    workflow: Workflow[..., T], /, *args: Any, id: str | None = ..., is_detached: bool = ..., priority: int = ...,
    tags: Mapping[str, str], **kwargs: Any,
) -> Child[T]: ...  # fmt: skip
@overload
async def start(workflow: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Child[T]: ...
async def start(  # type: ignore[misc]  # see do
    workflow: Workflow[..., T],
    /,
    *args: Any,
    id: str | None = None,  # the field's word for it
    is_detached: bool = False,
    priority: int | None = None,
    tags: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Child[T]:
    """Start another workflow as a child and go on without waiting for it.

    A child ends with its parent when that fails or is terminated, and goes on when the parent completes.

    Args:
        workflow: what to start, with `args` and `kwargs`.
        id: the child's run id; by default it is derived from this run's.
        is_detached: it goes on whatever becomes of the parent.
        priority: higher is claimed first; the parent's by default.
        tags: labels to find it by.
    """
    replay = replay_or_raise("flow.start")
    limit = replay.limits.payload_bytes
    spec = workflow.child(
        args, kwargs, limit, run_id=id, is_detached=is_detached, priority=priority, tags=dict(tags or {})
    )
    undo = None if workflow.undoing is None else workflow.undoing.of(args, kwargs)
    return Child(replay, replay.ask_child(spec, undo=undo))


def now() -> dt.datetime:
    """Return the present, in UTC, to the millisecond; recorded, so that a replay sees the same."""
    replay = replay_or_raise("flow.now")
    milliseconds_now = replay.value("now", lambda: replay.now)
    return dt.datetime.fromtimestamp(milliseconds_now / 1000, dt.UTC)


def random() -> float:
    """Return a random number from 0 up to 1; recorded, so that a replay sees the same."""
    replay = replay_or_raise("flow.random")
    return float(replay.value("random", lambda: _random.Random(replay.entropy(16)).random()))  # noqa: S311


def uuid() -> _uuid.UUID:
    """Return a random UUID (version 4); recorded, so that a replay sees the same."""
    replay = replay_or_raise("flow.uuid")
    return _uuid.UUID(replay.value("uuid", lambda: str(_uuid.UUID(bytes=replay.entropy(16), version=4))))


def set(name: str, value: object) -> None:  # noqa: A001  # read with run.state(name)
    """Make a value readable from outside, as `run.state(name)`.

    Args:
        name: under which name.
        value: anything that can be stored.
    """
    replay_or_raise("flow.set").set(check_name(name, "state name"), value)


def patched(patch: str) -> bool:
    """Return True in a run that has the change `patch`, False in one that passed this place before the change.

    ```
    if flow.patched("new-tax"):
        await new_tax(order)
    else:
        await old_tax(order)
    ```
    """
    return replay_or_raise("flow.patched").patched(check_name(patch, "patch id"))


async def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this execution and begin anew under the same run id, with these arguments and an empty journal.

    Unread events are kept. Code behind the call is not reached, and `finally` blocks cannot change that. What was done
    so far cannot be undone from there, so where something has an undo, a `flow.pivot()` comes first.
    """
    await replay_or_raise("flow.continue_as_new").renew(args, kwargs)
    raise AssertionError("a renewed run goes on")


def run_id() -> str:
    """Return the id of the running run, in workflow code or in a step."""
    loop = running()
    return loop.replay.run.id if loop is not None else step_or_raise("flow.run_id").run_id


def is_replaying() -> bool:
    """Return whether workflow code is being replayed, so that what it logs was logged before."""
    return replay_or_raise("flow.is_replaying").is_replaying


def idempotency_key() -> str:
    """Return, in a step, a key that is the same on every attempt of it and different for every other step.

    A run that goes on as new has new keys; one that an operator restarts has the keys it had, so that a receiver that
    knows them does nothing twice.
    """
    return step_or_raise("flow.idempotency_key").idempotency_key


def attempt() -> int:
    """Return, in a step, the number of this attempt, from 1."""
    return step_or_raise("flow.attempt").attempt


def transaction() -> Any:
    """Return, in a step with `tx=True`, the connection whose transaction the step's record is committed in.

    It is an `asyncpg.Connection` on PostgreSQL and an `apsw.Connection` on SQLite. Do not commit, and do not keep it:
    the transaction ends with the step's body, and is undone if that raises.
    """
    return step_or_raise("flow.transaction").transaction()


def heartbeat(progress: object = None) -> None:
    """Keep, in a step, how far it has come; the next attempt reads it with `flow.last_heartbeat()`.

    Args:
        progress: anything that can be stored. It is written within a second, and never slows the step down.
    """
    step_or_raise("flow.heartbeat").heartbeat(progress)


def last_heartbeat() -> Any:
    """Return, in a step, what the attempt before this one last gave to `flow.heartbeat`; None for nothing."""
    return step_or_raise("flow.last_heartbeat").last_progress


async def _sleep(replay: Replay, name: str, due_at: int) -> None:
    await replay.wait_for(replay.ask_sleep(check_name(name, "sleep name"), due_at))
