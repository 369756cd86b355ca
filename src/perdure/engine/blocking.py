"""The engine for code that cannot await: scripts, Flask, Django. The same verbs, on a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from perdure.engine.client.handle import RunHandle
from perdure.engine.queues import Queue
from perdure.model.errors import StoreUnavailableError, UsageError

if TYPE_CHECKING:
    from perdure.engine.app import Perdure

T = TypeVar("T")


class _Waiting:
    """Something whose methods wait: they take and return what those of `awaited` do."""

    def __init__(self, blocking: Blocking, awaited: object) -> None:
        self._blocking = blocking
        self._awaited = awaited

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._awaited, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._blocking._wrapped(method(*args, **kwargs))

        return call


class BlockingRun(_Waiting, Generic[T]):
    """A run handle whose methods wait: `result`, `status`, `send_event`, … take and return what `RunHandle`'s do."""

    def __init__(self, blocking: Blocking, run: RunHandle[T]) -> None:
        super().__init__(blocking, run)
        self.id = run.id
        self.is_new = run.is_new

    def __repr__(self) -> str:
        return f"BlockingRun({self.id!r})"


class BlockingQueue(_Waiting):
    """A queue whose methods wait: `pause`, `stats`, `dead`, … take and return what `Queue`'s do."""

    def __init__(self, blocking: Blocking, queue: Queue) -> None:
        super().__init__(blocking, queue)
        self.name = queue.name

    def __repr__(self) -> str:
        return f"BlockingQueue({self.name!r})"


class BlockingSchedules(_Waiting):
    """Schedules whose methods wait: `create`, `pause`, `next`, … take and return what those of `app.schedules` do."""


class Blocking:
    """The verbs of `Perdure`, waiting for each; use it as a context manager, or call `open` and `close`.

    Any thread may use it. One at a time opens or closes; what others ask for meanwhile waits until it is open.
    """

    def __init__(self, app: Perdure) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None  # once the engine is open on it
        self._thread: threading.Thread | None = None
        self._opening = threading.Lock()
        self._asking = threading.Lock()  # never held while anything is waited for

    def open(self) -> None:
        """Open the engine on a thread of its own; the first verb does so by itself."""
        if self._loop is not None:
            return
        self._check_thread()
        with self._opening:
            if self._loop is None:
                loop = self._start_thread()
                try:
                    asyncio.run_coroutine_threadsafe(self._app.open(), loop).result()
                except BaseException:
                    self._stop(loop)
                    raise
                self._loop = loop

    def close(self) -> None:
        """Close the engine and end its thread; when this is interrupted, a second call goes on with it."""
        self._check_thread()
        with self._opening:
            loop = self._loop
            if loop is not None:
                try:
                    self._wait(self._app.close())
                except Exception:
                    self._stop(loop)
                    raise
                self._stop(loop)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, workflow: Any, /, *args: Any, **options: Any) -> BlockingRun[Any]:
        """Start a run; see `Perdure.start`."""
        run: BlockingRun[Any] = self._call("start", workflow, *args, **options)
        return run

    def start_many(self, workflow: Any, inputs: Any, **options: Any) -> list[BlockingRun[Any]]:
        """Start many runs; see `Perdure.start_many`."""
        runs: list[BlockingRun[Any]] = self._call("start_many", workflow, inputs, **options)
        return runs

    def enqueue(self, task: Any, /, *args: Any, **kwargs: Any) -> BlockingRun[Any]:
        """Start a run of a task; see `Perdure.enqueue`."""
        run: BlockingRun[Any] = self._call("enqueue", task, *args, **kwargs)
        return run

    def enqueue_many(self, task: Any, inputs: Any) -> list[BlockingRun[Any]]:
        """Start a run of a task for each input; see `Perdure.enqueue_many`."""
        runs: list[BlockingRun[Any]] = self._call("enqueue_many", task, inputs)
        return runs

    def queue(self, name: str) -> BlockingQueue:
        """Return a queue; see `Perdure.queue`."""
        self.open()
        return BlockingQueue(self, self._app.queue(name))

    def queues(self) -> Any:
        """Return every queue; see `Perdure.queues`."""
        return self._call("queues")

    @property
    def schedules(self) -> BlockingSchedules:
        """The schedules; see `Perdure.schedules`."""
        self.open()
        return BlockingSchedules(self, self._app.schedules)

    def emit(self, type: str, payload: object = None, *, id: str | None = None) -> list[BlockingRun[Any]]:
        """Start what is subscribed to an event; see `Perdure.emit`."""
        runs: list[BlockingRun[Any]] = self._call("emit", type, payload, id=id)
        return runs

    def publish(self, definition: Any, *, anyway: bool = False) -> Any:
        """Publish a workflow that is written as data; see `Perdure.publish`."""
        return self._call("publish", definition, anyway=anyway)

    def validate(self, definition: Any) -> Any:
        """Check a definition; see `Perdure.validate`."""
        return self._call("validate", definition)

    def definitions(self) -> Any:
        """Return the store's definitions; see `Perdure.definitions`."""
        return self._call("definitions")

    def run(self, run_id: str, workflow: Any = None) -> BlockingRun[Any]:
        """Return the handle of a run; see `Perdure.run`."""
        self.open()
        return BlockingRun(self, self._app.run(run_id, workflow))

    def workflows(self) -> Any:
        """Return the workflows that there are; see `Perdure.workflows`."""
        return self._call("workflows")

    def runs(self, **options: Any) -> Any:
        """Return a page of runs; see `Perdure.runs`."""
        return self._call("runs", **options)

    def in_need(self, **options: Any) -> Any:
        """Return a page of the runs that need help; see `Perdure.in_need`."""
        return self._call("in_need", **options)

    def workers(self, **options: Any) -> Any:
        """Return what workers said of themselves; see `Perdure.workers`."""
        return self._call("workers", **options)

    def stats(self) -> Any:
        """Return counts of the runs; see `Perdure.stats`."""
        return self._call("stats")

    def describe(self) -> Any:
        """Return what the store is; see `Perdure.describe`."""
        return self._call("describe")

    def _call(self, name: str, /, *args: Any, **options: Any) -> Any:
        self.open()
        return self._wrapped(getattr(self._app, name)(*args, **options))

    def _wrapped(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        answer = self._wait(coroutine)
        if isinstance(answer, RunHandle):
            return BlockingRun(self, answer)
        if isinstance(answer, list) and answer and isinstance(answer[0], RunHandle):
            return [BlockingRun(self, run) for run in answer]
        return answer

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_thread()
            with self._asking:  # so that it is asked for before the loop stops, or not at all
                if self._loop is None:
                    raise StoreUnavailableError("this engine is not open; call app.blocking.open()")
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise StoreUnavailableError("this engine was closed meanwhile") from None

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise UsageError(
                "app.blocking was used on the engine's own thread, which would wait for itself; await instead"
            )

    def _start_thread(self) -> asyncio.AbstractEventLoop:
        loops: list[asyncio.AbstractEventLoop] = []
        ready = threading.Event()

        def run() -> None:
            with asyncio.Runner() as runner:
                loop = runner.get_loop()
                loops.append(loop)
                loop.call_soon(ready.set)
                loop.run_forever()

        self._thread = threading.Thread(target=run, name="perdure-blocking", daemon=True)
        self._thread.start()
        ready.wait()
        return loops[0]

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._asking:
            self._loop = None
            loop.call_soon_threadsafe(loop.stop)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
