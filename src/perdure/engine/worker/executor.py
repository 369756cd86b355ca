"""Runs the bodies of steps: on the worker's loop, in threads, in processes; and stops them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from perdure.authoring.context import StepContext, current_step, current_trace
from perdure.core.ask import StepSpec
from perdure.engine.env import Env, Timer
from perdure.engine.telemetry import Watchers
from perdure.engine.worker.processes import About, Processes, contained
from perdure.engine.worker.threads import Call, Threads
from perdure.model.errors import StepTimeoutError

ENDS_WITHIN = 0.1
"""Seconds in which a body that was cancelled has to end; after them it is left behind."""

FINISHES_WITHIN = 10.0
"""Seconds for what is left of steps that are over, the ends of their transactions, when the worker stops."""

_log = logging.getLogger("perdure.engine")


class Execution:
    """One attempt of a step, on its way. `task` is done when its body is."""

    __slots__ = ("_env", "_on_done", "is_late", "is_left", "spec", "stop_body", "task", "timer")

    def __init__(self, spec: StepSpec, env: Env) -> None:
        self.spec = spec
        self.task: asyncio.Task[Any]
        self.timer: Timer | None = None
        self.stop_body: Callable[[], None] | None = None
        self.is_late = False
        self.is_left = False
        self._env = env
        self._on_done: Callable[[asyncio.Task[Any]], object] | None = None

    def watch(self, on_done: Callable[[asyncio.Task[Any]], object]) -> None:
        """Call back once the attempt is over: its body has ended, or was left behind when its timeout had passed."""
        self._on_done = on_done
        self.task.add_done_callback(on_done)

    def cancel(self) -> None:
        """Stop the body: at its next `await` on the loop, at its next line in a thread, at once in a process."""
        if self.stop_body is not None:
            self.stop_body()
        task = self.task
        if not task.done():
            task.cancel()
            timer = self._env.call_later(task.get_loop(), ENDS_WITHIN, self._leave)
            task.add_done_callback(lambda _: timer.cancel())

    def expire(self) -> None:
        """Stop the body because it has run for longer than its timeout."""
        self.is_late = True
        self.cancel()

    def _leave(self) -> None:
        """Wait no longer for a body that was cancelled and goes on all the same."""
        if self.task.done() or self.is_left:
            return
        self.is_left = True
        _log.warning(
            "step %r was stopped, but its body goes on: it swallows CancelledError, or cleans up for longer than %g s; "
            "its run goes on without it",
            self.spec.name,
            ENDS_WITHIN,
        )
        if self.is_late and self._on_done is not None:
            self.task.remove_done_callback(self._on_done)
            self.task.add_done_callback(_retrieve)
            self._on_done(self.task)

    def error(self) -> BaseException | None:
        """Return what the attempt failed with, if it did; its body has ended, or was left because it was too late."""
        is_cancelled = self.task.cancelled()
        failed = self.task.exception() if self.task.done() and not is_cancelled else None  # else asyncio would complain
        if self.is_late:
            return StepTimeoutError(f"step {self.spec.name!r} ran longer than its timeout of {self.spec.timeout:g} s")
        return asyncio.CancelledError() if is_cancelled else failed


async def no_begin() -> None:
    """Open nothing: what a step without a transaction begins with."""


class Executor:
    """Where step bodies run.

    Args:
        env: for the timers of timeouts.
        threads: how many plain `def` steps run at once.
        processes: how many `run_in="process"` steps run at once.

    Attributes:
        watchers: who is told that an attempt begins; None for nobody.
    """

    def __init__(self, env: Env, threads: int, processes: int) -> None:
        self._env = env
        self._context = contextvars.copy_context()
        self._threads = Threads(threads)
        self._processes = Processes(processes)
        self._loop = asyncio.get_running_loop()
        self._finishing: set[asyncio.Task[None]] = set()
        self.watchers: Watchers | None = None

    def start(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        step: StepContext,
        begin: Callable[[], Awaitable[None]] = no_begin,
    ) -> Execution:
        """Begin an attempt of a step; `begin` opens the transaction of one that is transactional."""
        context = self._context.copy()
        context.run(current_step.set, step)
        if self.watchers is not None:
            context.run(self.watchers.attempt_begun, step)
        execution = Execution(spec, self._env)
        if spec.tx:
            coroutine = self._in_transaction(execution, begin, args, kwargs, context)
        elif spec.run_in == "loop":
            coroutine = _on_loop(spec.function, args, kwargs)
            self._arm(execution)
        elif spec.run_in == "thread":
            coroutine = self._in_thread(execution, functools.partial(spec.function, *args, **kwargs), context)
        else:
            coroutine = self._in_process(execution, args, kwargs, step)
        execution.task = self._loop.create_task(coroutine, context=context)
        return execution

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Have work done that is left of a step which is over; `finished` waits for it."""
        task = self._loop.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def finished(self) -> None:
        """Wait until nothing is left to do for steps that are over, or it takes too long."""
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=FINISHES_WITHIN)

    def close(self) -> None:
        """Let go of threads and processes without waiting for what runs in them."""
        self._threads.close()
        self._processes.close()

    def _arm(self, execution: Execution) -> None:
        if execution.spec.timeout is not None and execution.timer is None:
            execution.timer = self._env.call_later(self._loop, execution.spec.timeout, execution.expire)

    async def _in_transaction(
        self,
        execution: Execution,
        begin: Callable[[], Awaitable[None]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: contextvars.Context,
    ) -> Any:
        body = functools.partial(execution.spec.function, *args, **kwargs)
        if execution.spec.run_in == "thread":
            return await self._in_thread_and_transaction(execution, begin, body, context)
        await begin()  # which no timeout counts: it waits for others
        self._arm(execution)
        return await _on_loop(body, (), {})

    async def _in_thread_and_transaction(
        self,
        execution: Execution,
        begin: Callable[[], Awaitable[None]],
        body: Callable[[], Any],
        context: contextvars.Context,
    ) -> Any:
        """Find a thread first: a transaction that waited for one would hold up all that wait for the transaction."""
        entered: asyncio.Future[None] = self._loop.create_future()
        gate = threading.Lock()
        gate.acquire()
        has_begun = False

        def enter() -> Any:
            self._loop.call_soon_threadsafe(_resolve, entered)
            gate.acquire()
            if not has_begun:
                return None
            self._loop.call_soon_threadsafe(self._arm, execution)
            return contained(body)

        call = self._threads.call(enter, context.copy())
        execution.stop_body = call.stop
        try:
            await entered
            await begin()
            has_begun = True
        finally:
            gate.release()
        return await self._result(execution, call)

    async def _in_thread(self, execution: Execution, body: Callable[[], Any], context: contextvars.Context) -> Any:
        def begin() -> Any:
            if execution.spec.timeout is not None:  # it counts from here, not from when a thread was asked for
                self._loop.call_soon_threadsafe(self._arm, execution)
            return contained(body)

        call = self._threads.call(begin, context.copy())
        execution.stop_body = call.stop
        return await self._result(execution, call)

    @staticmethod
    async def _result(execution: Execution, call: Call) -> Any:
        result = await call.result
        execution.stop_body = None
        return await _on_loop(_itself, (result,), {}) if inspect.isawaitable(result) else result

    async def _in_process(
        self, execution: Execution, args: tuple[Any, ...], kwargs: Mapping[str, Any], step: StepContext
    ) -> Any:
        async with self._processes.slot() as slot:
            self._arm(execution)
            execution.stop_body = slot.kill
            about = About(
                *(step.run_id, step.key, step.attempt, step.idempotency_key, step.last_progress),
                *(step.workflow, current_trace.get()),
            )
            result = await slot.run(execution.spec, args, kwargs, about, step.heartbeat)
            execution.stop_body = None
            return result


async def _on_loop(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a body and wait for it; see `contained`. Arguments that do not fit are the step's failure."""
    try:
        return await function(*args, **kwargs)
    except SystemExit as error:
        raise RuntimeError(f"the step raised {error!r}") from error


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _itself(result: Any) -> Any:
    return result


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of what a body failed with that nobody waits for, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()
