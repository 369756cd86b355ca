"""The engine for code that cannot await: scripts, Flask, Django. The same verbs, on a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from perdure.engine.handle import RunHandle
from perdure.model.errors import StoreUnavailableError, UsageError

if TYPE_CHECKING:
    from perdure.engine.app import Perdure

T = TypeVar("T")


class BlockingRun(Generic[T]):
    """A run handle whose methods wait: `result`, `status`, `send_event`, … take and return what `RunHandle`'s do."""

    def __init__(self, blocking: Blocking, run: RunHandle[T]) -> None:
        self.id = run.id
        self._blocking = blocking
        self._run = run

    def __repr__(self) -> str:
        return f"BlockingRun({self.id!r})"

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._run, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._blocking._wrapped(method(*args, **kwargs))

        return call


class Blocking:
    """The verbs of `Perdure`, waiting for each; use it as a context manager, or call `open` and `close`."""

    def __init__(self, app: Perdure) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the engine on a thread of its own; the first verb does so by itself."""
        if self._loop is None:
            ready = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(ready,), name="perdure-blocking", daemon=True)
            self._thread.start()
            ready.wait()
            try:
                self._wait(self._app.open())
            except BaseException:
                self._stop()
                raise

    def close(self) -> None:
        """Close the engine and end its thread."""
        if self._loop is not None:
            self._wait(self._app.close())
            self._stop()

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

    def run(self, run_id: str, workflow: Any = None) -> BlockingRun[Any]:
        """Return the handle of a run; see `Perdure.run`."""
        self.open()
        return BlockingRun(self, self._app.run(run_id, workflow))

    def runs(self, **options: Any) -> Any:
        """Return a page of runs; see `Perdure.runs`."""
        return self._call("runs", **options)

    def stats(self) -> Any:
        """Return counts of the runs; see `Perdure.stats`."""
        return self._call("stats")

    def describe(self) -> Any:
        """Return what the store is; see `Perdure.describe`."""
        return self._call("describe")

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
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
        if self._loop is None:
            coroutine.close()
            raise StoreUnavailableError("this engine is not open; call app.blocking.open()")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise UsageError(
                "app.blocking was used on the engine's own thread, which would wait for itself; await instead"
            )
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.call_soon(ready.set)
            self._loop.run_forever()

    def _stop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
