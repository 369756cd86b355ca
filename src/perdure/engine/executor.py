"""Runs the bodies of steps: on the worker's loop, in threads, in processes; and stops them."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import importlib
import inspect
import multiprocessing
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from perdure.authoring.context import StepContext, current_step
from perdure.authoring.step import Step
from perdure.core.ask import StepSpec
from perdure.engine.env import Env, Timer
from perdure.model.errors import DefinitionError, StepTimeoutError


class Execution:
    """One attempt of a step, on its way. `task` is done when its body is."""

    __slots__ = ("is_late", "spec", "stop_body", "task", "timer")

    def __init__(self, spec: StepSpec) -> None:
        self.spec = spec
        self.task: asyncio.Task[Any]
        self.timer: Timer | None = None
        self.stop_body: Callable[[], None] | None = None
        self.is_late = False

    def cancel(self) -> None:
        """Stop the body: at its next `await` on the loop, at its next line in a thread, at once in a process."""
        if self.stop_body is not None:
            self.stop_body()
        self.task.cancel()

    def expire(self) -> None:
        """Stop the body because it has run for longer than its timeout."""
        self.is_late = True
        self.cancel()

    def error(self) -> BaseException | None:
        """Return what the done body failed with, if it did."""
        if self.is_late:
            return StepTimeoutError(f"step {self.spec.name!r} ran longer than its timeout of {self.spec.timeout:g} s")
        if self.task.cancelled():
            return asyncio.CancelledError()
        return self.task.exception()


class Executor:
    """Where step bodies run.

    Args:
        env: for the timers of timeouts.
        threads: how many plain `def` steps run at once.
        processes: how many `run_in="process"` steps run at once.
    """

    def __init__(self, env: Env, threads: int, processes: int) -> None:
        self._env = env
        self._context = contextvars.copy_context()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="perdure-step")
        self._processes = Processes(processes)
        self._loop = asyncio.get_running_loop()

    def start(self, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], step: StepContext) -> Execution:
        """Begin an attempt of a step."""
        context = self._context.copy()
        context.run(current_step.set, step)
        execution = Execution(spec)
        if spec.run_in == "loop":
            body = spec.function if spec.is_native else functools.partial(_wait, spec.function)
            try:
                coroutine = body(*args, **kwargs)
            except Exception as error:  # arguments that do not fit: the step's failure, not the worker's
                coroutine = _raise(error)
            coroutine = _contained(coroutine)
            self._arm(execution)
        elif spec.run_in == "thread":
            coroutine = self._in_thread(execution, functools.partial(spec.function, *args, **kwargs), context)
        else:
            coroutine = self._in_process(execution, args, kwargs)
        execution.task = self._loop.create_task(coroutine, context=context)
        return execution

    def close(self) -> None:
        """Let go of threads and processes without waiting for what runs in them."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.close()

    def _arm(self, execution: Execution) -> None:
        if execution.spec.timeout is not None and execution.timer is None:
            execution.timer = self._env.call_later(self._loop, execution.spec.timeout, execution.expire)

    async def _in_thread(self, execution: Execution, call: Callable[[], Any], context: contextvars.Context) -> Any:
        body = ThreadBody(call, context.copy(), lambda: self._loop.call_soon_threadsafe(self._arm, execution))
        execution.stop_body = body.stop
        result = await self._loop.run_in_executor(self._threads, body)
        execution.stop_body = None
        return await _contained(result) if inspect.isawaitable(result) else result

    async def _in_process(self, execution: Execution, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        async with self._processes.slot() as slot:
            self._arm(execution)
            execution.stop_body = slot.kill
            name = _importable(execution.spec)
            try:
                result = await asyncio.wrap_future(slot.submit(_call_by_name, name, args, dict(kwargs)))
            except BrokenProcessPool:  # the process died: the next step gets a new one
                slot.kill()
                raise
            execution.stop_body = None
            return result


class ThreadBody:
    """A call in a thread that can be stopped: an exception is raised in the thread at its next line of Python."""

    def __init__(self, call: Callable[[], Any], context: contextvars.Context, on_start: Callable[[], object]) -> None:
        self._call = call
        self._context = context
        self._on_start = on_start
        self._lock = threading.Lock()
        self._thread: int | None = None

    def __call__(self) -> Any:
        """Run the call."""
        try:
            with self._lock:
                self._thread = threading.get_ident()
            self._on_start()
            try:
                return self._context.run(_call, self._call)
            finally:
                with self._lock:
                    self._thread = None
        except _StopThread:
            return None  # nobody waits for it any more

    def stop(self) -> None:
        """Raise in the thread, if the call is still running in it."""
        with self._lock:
            if self._thread is not None:
                set_error = ctypes.pythonapi.PyThreadState_SetAsyncExc
                set_error(ctypes.c_ulong(self._thread), ctypes.py_object(_StopThread))


class _StopThread(BaseException):
    """Raised in a thread whose step was stopped; no `except Exception` holds it up."""


class Slot:
    """One worker process, started when it is first used, killed and replaced when its step is stopped."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the process and return its future."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return self._pool.submit(function, *args)

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


class Processes:
    """A few slots that steps take turns in."""

    def __init__(self, count: int) -> None:
        self._free = [Slot() for _ in range(count)]
        self._all = list(self._free)
        self._room = asyncio.Semaphore(count)

    def slot(self) -> _Lease:
        """Return a context manager that waits for a slot and gives it back."""
        return _Lease(self)

    async def take(self) -> Slot:
        """Wait for a free slot and take it."""
        await self._room.acquire()
        return self._free.pop()

    def give(self, slot: Slot) -> None:
        """Give a slot back."""
        self._free.append(slot)
        self._room.release()

    def close(self) -> None:
        """End all processes."""
        for slot in self._all:
            slot.kill()


class _Lease:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._slot: Slot | None = None

    async def __aenter__(self) -> Slot:
        self._slot = await self._processes.take()
        return self._slot

    async def __aexit__(self, *error: object) -> None:
        assert self._slot is not None
        self._processes.give(self._slot)


def _importable(spec: StepSpec) -> str:
    module, name = getattr(spec.function, "__module__", None), getattr(spec.function, "__qualname__", "")
    if module is None or "<" in name:
        raise DefinitionError(f"step {spec.name!r} runs in a process, so its function must stand at module level")
    return f"{module}:{name}"


def _call_by_name(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return _call(functools.partial(found.function if isinstance(found, Step) else found, *args, **kwargs))


def _call(body: Callable[[], Any]) -> Any:
    """Call a body; what asyncio cannot carry is raised as an ordinary error.

    A future refuses StopIteration, so that its step would hang, and SystemExit ends the event loop it comes to.
    """
    try:
        return body()
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the step raised {error!r}") from error


async def _contained(body: Awaitable[Any]) -> Any:
    """Wait for a body on the loop; see `_call`."""
    try:
        return await body
    except SystemExit as error:
        raise RuntimeError(f"the step raised {error!r}") from error


async def _wait(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await function(*args, **kwargs)


async def _raise(error: Exception) -> Any:
    raise error
