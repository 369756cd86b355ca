"""Processes of our own for `run_in="process"` steps, which end with the worker's process whatever ends that.

What `flow` tells a step goes to the process with the call; what the step gives to `flow.heartbeat` and what it logs
comes back through a pipe, with an empty message at the end of each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import importlib
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import msgspec

from perdure.authoring.context import current_step, current_trace, no_transaction, where_it_runs
from perdure.authoring.enqueuing import Batch
from perdure.authoring.step import Step
from perdure.authoring.task import Task
from perdure.core.ask import StepSpec
from perdure.model import codec
from perdure.model.errors import DefinitionError, PerdureError, UsageError

LOOKS_FOR_PARENT_EVERY = 1.0
"""Seconds between two looks of a process whether its worker is still there, where the system does not tell it."""

HEARTBEATS_WITHIN = 1.0
"""Seconds for the last heartbeats of a call to come through, once its result is there."""

_LOG = b"\0"
"""What the message of a line that was logged begins with; a heartbeat is JSON."""

_log = logging.getLogger("perdure.engine")


class About(NamedTuple):
    """What a step in a process knows of itself."""

    run_id: str
    key: str
    attempt: int
    idempotency_key: str
    last_progress: Any
    workflow: str
    trace: str | None


class Slot:
    """One worker process, started when it is first used, killed and replaced when its step is stopped."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pipe: Connection | None = None
        self._heard: Callable[[object], object] | None = None
        self._is_quiet: asyncio.Future[None]

    async def run(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        about: About,
        heartbeat: Callable[[object], object],
    ) -> Any:
        """Run a step in the process.

        Raises:
            DefinitionError: the process cannot find the step's function.
        """
        call = pickle.dumps((_importable(spec), args, dict(kwargs), about))
        self._heard, self._is_quiet = heartbeat, asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wrap_future(self._submit(call))
        except BrokenProcessPool:  # the process died: the next step gets a new one
            self.kill()
            raise
        finally:
            if self._pool is not None:
                await asyncio.wait([self._is_quiet], timeout=HEARTBEATS_WITHIN)
            self._heard = None

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        pool, self._pool, self._pipe = self._pool, None, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: bytes) -> Any:
        if self._pool is not None:
            return self._pool.submit(_run, call)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(os.getpid(), theirs, logging.root.level)
        )
        future = self._pool.submit(_run, call)  # starts the process
        theirs.close()  # so that the pipe ends with the process
        self._pipe = ours
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._hear, args=(ours, loop), name="perdure-heartbeats", daemon=True).start()
        return future

    def _hear(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Take the heartbeats of the process until it ends."""
        with pipe:
            while True:
                try:
                    text = pipe.recv_bytes()
                except (EOFError, OSError):
                    return
                heard, is_quiet = self._heard, self._is_quiet
                if self._pipe is not pipe:  # that process was killed, and these may be the next one's
                    return
                if not text:
                    try:
                        loop.call_soon_threadsafe(_resolve, is_quiet)
                    except RuntimeError:  # the loop is closed
                        return
                elif text.startswith(_LOG):
                    _log_here(text)
                elif heard is not None:
                    try:
                        heard(codec.decode_any(text.decode()))
                    except PerdureError as error:
                        _log.warning("a heartbeat of a step in a process is not kept: %s", error)


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


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _log_here(message: bytes) -> None:
    """Log what was logged in a process of ours."""
    record = logging.makeLogRecord(msgspec.json.decode(message.removeprefix(_LOG)))
    logger = logging.getLogger(record.name)
    with contextlib.suppress(Exception):  # what a filter of the application's own raises
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _importable(spec: StepSpec) -> str:
    module, name = getattr(spec.function, "__module__", None), getattr(spec.function, "__qualname__", "")
    if module is None or "<" in name:
        raise DefinitionError(f"step {spec.name!r} runs in a process, so its function must stand at module level")
    return f"{module}:{name}"


def contained(body: Callable[[], Any]) -> Any:
    """Call a body; what asyncio cannot carry is raised as an ordinary error.

    A future refuses StopIteration, so that its step would hang, and SystemExit ends the event loop it comes to.
    """
    try:
        return body()
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the step raised {error!r}") from error


# In the process itself.

_pipes: list[Connection] = []
_sending = threading.Lock()


class ProcessStep:
    """A step in a process, as its body sees it (see `perdure.authoring.context.StepContext`)."""

    def __init__(self, about: About) -> None:
        self.run_id, self.key, self.attempt, self.idempotency_key, self.last_progress, self.workflow, _ = about

    @property
    def client(self) -> Any:
        """Refuse: the engine is in another process."""
        raise UsageError(f"step {self.key!r} runs in a process, out of reach of the engine; call it in workflow code")

    def heartbeat(self, progress: object) -> None:
        """Keep the progress where a crash does not reach it."""
        _send(codec.encode(progress, f"the progress of step {self.key!r}", sys.maxsize).encode())

    def event_id(self) -> str:
        """Refuse: no event comes out of a process."""
        return str(self.client)

    def transaction(self) -> Any:
        """Refuse: a step with a transaction runs in no process."""
        raise no_transaction(self.key)

    def nested(self, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Refuse a step inside this one: the journal is in another process."""
        raise UsageError(
            f"step {spec.name!r} was called in step {self.key!r}, which runs in a process and has no steps inside; "
            "call it in workflow code, call its plain function, or give the outer step another run_in"
        )

    def gathered(self, batch: Batch, spec: StepSpec, item: Any) -> Coroutine[Any, Any, Any]:
        """Refuse: the items of a batch are gathered by the worker."""
        raise UsageError(f"step {spec.name!r} runs in a process, which gathers no items")


def _send(message: bytes) -> None:
    with _sending:
        _pipes[0].send_bytes(message)


class _Home(logging.handlers.QueueHandler):
    """Has the worker log what is logged here, and say where it comes from."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a line that can be sent."""
        step = current_step.get()
        if step is not None:
            record.__dict__ = where_it_runs(step) | record.__dict__
        _send(_LOG + msgspec.json.encode(record.__dict__, enc_hook=repr))


def _begin(worker: int, pipe: Connection, level: int) -> None:
    """Make the process ready; it ends when its worker does."""
    _pipes[:] = [pipe]
    logging.root.addHandler(_Home(None))  # type: ignore[arg-type]  # the pipe is its queue
    logging.root.setLevel(level)
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        except (AttributeError, OSError):
            pass
    threading.Thread(target=_end_with, args=(worker,), name="perdure-parent", daemon=True).start()


def _end_with(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(LOOKS_FOR_PARENT_EVERY)
    os._exit(1)


def _run(call: bytes) -> Any:
    try:
        name, args, kwargs, about = pickle.loads(call)  # noqa: S301  # from our own worker
        current_step.set(ProcessStep(about))
        current_trace.set(about.trace)
        module, _, qualname = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
        return contained(
            functools.partial(found.function if isinstance(found, Step | Task) else found, *args, **kwargs)
        )
    finally:
        current_step.set(None)
        _send(b"")
