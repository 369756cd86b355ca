"""The private event loop of one run: a ready queue and the journal's time, and no way to the outside.

The interpreter's own `Task` and `Future` run on it, so `gather`, `wait`, `TaskGroup`, `timeout`, locks, queues and
events work and replay. It is driven synchronously by `drain`. Whatever a replay could not repeat (sockets, executors,
signals, subprocesses) raises `NotDurableError` with the line that did it.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import sys
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.model.errors import NotDurableError

if TYPE_CHECKING:
    from perdure.core.replay import Replay

SPIN_LIMIT = 1_000_000
"""Callbacks between two idle moments; more means that workflow code spins without waiting for anything."""

LATEST = 253_402_300_799_000
"""The greatest moment a timer may be due at, in milliseconds: the end of the year 9999, before which it never comes."""

Outer = tuple[asyncio.AbstractEventLoop | None, Any]
"""The loop that was running, and what closed its asynchronous generators."""

_WAKE_SLEEPER = getattr(asyncio.futures, "_set_result_unless_cancelled", None)
"""What `asyncio.sleep` has called; without it, a sleep only has another name in the journal."""

_CLOSE_ATTEMPTS = 8
_UNCLOSABLE: list[Coroutine[Any, Any, Any]] = []
_STDLIB = str(Path(asyncio.__file__).parent.parent)
_PACKAGE = str(Path(__file__).parent.parent)


class Handle:
    """A callback in the ready queue."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False

    def cancel(self) -> None:
        """Keep the callback from running."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self.is_cancelled


class TimerHandle(Handle):
    """A callback that waits for a durable timer."""

    __slots__ = ("key", "loop", "moment")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context, loop: ReplayLoop
    ) -> None:
        super().__init__(callback, args, context)
        self.loop = loop
        self.key = ""
        self.moment = 0.0

    def when(self) -> float:
        """Return the moment it waits for, in the loop's time."""
        return self.moment

    def cancel(self) -> None:
        """Drop the timer."""
        if not self.is_cancelled:
            self.is_cancelled = True
            self.loop.replay.cancel(self.key)


class ReplayLoop(asyncio.AbstractEventLoop):
    """See the module's text. `replay` is the run it belongs to; `at` its time, in milliseconds since the epoch."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.at = 0
        self._ready: deque[Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._tidy_at = 64
        self._is_closed = False

    def drain(self) -> None:
        """Run callbacks until none is ready."""
        ready, left = self._ready, SPIN_LIMIT
        outer = self._enter()
        try:
            while ready:
                handle = ready.popleft()
                if not handle.is_cancelled:
                    try:
                        handle.context.run(handle.callback, *handle.args)
                    except Exception as error:  # of a bare callback; a task keeps its own
                        self.call_exception_handler({"message": f"error in {handle.callback!r}", "exception": error})
                left -= 1
                if not left:
                    raise NotDurableError(
                        f"workflow {self.replay.program.name!r} ran {SPIN_LIMIT:,} callbacks without waiting for "
                        "anything; await a step, a sleep or an event inside its loop"
                    )
        finally:
            _leave(outer)

    def dispose(self) -> None:
        """Drop everything that is suspended; code in `finally` blocks runs, and finds every durable call closed."""
        self._is_closed = True
        if left := [task for task in self._tasks if not task.done()]:
            outer = self._enter()
            try:
                for task in left:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
            finally:
                _leave(outer)
        self._ready.clear()
        self._tasks.clear()

    def clear(self) -> None:
        """Drop everything, as `dispose` does, and stay open for what comes then."""
        self.dispose()
        self._is_closed = False

    def _enter(self) -> Outer:
        """Make this the thread's running loop; return what was, for `_leave`."""
        outer = events._get_running_loop(), sys.get_asyncgen_hooks().finalizer
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        return outer

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Called when workflow code lets go of a generator that it has not exhausted. In a drain it is closed here and
        # now; later, when the run has left, it is dropped as it is, which runs none of its code.
        if self.is_running() and not self._is_closed:
            self.create_task(generator.aclose())

    # What asyncio itself needs.

    def time(self) -> float:
        """Return the journal's time, in seconds since the epoch."""
        return self.at / 1000

    def call_soon(  # type: ignore[override]  # a handle of our own, lighter than asyncio's
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Run a callback before the loop is idle again."""
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        if not self._is_closed:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]  # see call_soon
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Run a callback after a durable timer of this many seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # see call_soon
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Run a callback when a durable timer reaches this moment."""
        handle = TimerHandle(callback, args, contextvars.copy_context() if context is None else context, self)
        handle.moment = when
        if self._is_closed:
            handle.is_cancelled = True
        else:
            is_sleep = callback is _WAKE_SLEEPER
            handle.key = self.replay.ask_timer(
                "sleep" if is_sleep else "timeout",
                round(min(when, LATEST / 1000) * 1000),
                lambda: self._ready.append(handle),
                is_guard=not is_sleep,
            ).key
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Run a coroutine on this loop."""
        options.pop("eager_start", None)  # the same order on every version of Python
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context, **options)
        self._tasks.append(task)
        if len(self._tasks) > self._tidy_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tidy_at = max(64, 2 * len(self._tasks))
        return task

    def get_debug(self) -> bool:
        """Return False: asyncio's debug mode looks at the wall clock."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignore the wish for asyncio's debug mode."""

    def is_running(self) -> bool:
        """Return whether workflow code is running right now."""
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        """Return whether the run left this worker."""
        return self._is_closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand what asyncio reports (an exception nobody retrieved) to the replay."""
        if not self._is_closed:
            self.replay.report(context)


def running() -> ReplayLoop | None:
    """Return the private loop whose workflow code is running in this thread; None outside."""
    loop = events._get_running_loop()
    return loop if type(loop) is ReplayLoop else None


def caller() -> str:
    """Return `file:line` of the nearest frame that belongs to neither Perdure nor the standard library."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        is_foreign = "site-packages" in path or not path.startswith((_STDLIB, "<frozen"))
        if is_foreign and not path.startswith(_PACKAGE):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _leave(outer: Outer) -> None:
    loop, finalizer = outer
    events._set_running_loop(loop)
    sys.set_asyncgen_hooks(finalizer=finalizer)


def _close(coroutine: Any) -> None:
    # A task group waits for its tasks when it is closed, so one close is not always enough; code that catches
    # everything for ever is kept, suspended, rather than argued with.
    for _ in range(_CLOSE_ATTEMPTS):
        try:
            coroutine.close()
        except RuntimeError:
            continue
        except BaseException:  # raised by a `finally` block of the user's; the run has left, nobody can be told
            return
        return
    _UNCLOSABLE.append(coroutine)
    # Not even the end of the interpreter may finalize it: that would run the code again, outside of any loop.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _refuse(name: str) -> Callable[..., Any]:
    def refused(self: ReplayLoop, *args: Any, **kwargs: Any) -> Any:
        raise NotDurableError(
            f"{caller()}: workflow {self.replay.program.name!r} called loop.{name}, which a replay cannot repeat; "
            "move that code into a step"
        )

    refused.__name__ = name
    return refused


for _name, _method in inspect.getmembers(asyncio.AbstractEventLoop, inspect.isfunction):
    if not _name.startswith("__") and _name not in vars(ReplayLoop):
        setattr(ReplayLoop, _name, _refuse(_name))
