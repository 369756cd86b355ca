"""Runs work on a thread that owns one SQLite connection, for callers on any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import apsw

from perdure.model.errors import SchemaTooNewError, StoreUnavailableError
from perdure.store.sqlite.connection import Settings, connect, translated
from perdure.store.sqlite.schema import migrate, require_known

T = TypeVar("T")

GROUP = 256
"""How many requests are taken at once; later ones make the next group."""


class Request(Generic[T]):
    """One piece of work, and the caller who awaits its answer.

    Args:
        work: what to do with the connection.
        transacts: whether it writes, and so needs a transaction.
        peek: asked first, outside a transaction: an answer that makes the work needless, or None.
    """

    __slots__ = ("answer", "error", "future", "loop", "peek", "transacts", "work")

    def __init__(
        self, work: Callable[[apsw.Connection], T], transacts: bool, peek: Callable[[apsw.Connection], T | None] | None
    ) -> None:
        self.work = work
        self.transacts = transacts
        self.peek = peek
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.answer: T | None = None
        self.error: BaseException | None = None


class ConnectionThread:
    """A thread, its connection and its queue of requests.

    Args:
        settings: of the file.
        is_reader: whether its connection only reads.
    """

    def __init__(self, settings: Settings, *, is_reader: bool) -> None:
        self._settings = settings
        self._is_reader = is_reader
        self._connection: apsw.Connection | None = None
        self._queue: deque[Request[Any]] = deque()
        self._lock = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"perdure-sqlite-{'reader' if is_reader else 'writer'}")
        self._thread.daemon = True
        self._thread.start()

    async def submit(
        self,
        work: Callable[[apsw.Connection], T],
        *,
        transacts: bool = False,
        peek: Callable[[apsw.Connection], T | None] | None = None,
    ) -> T:
        """Have work done, and return its answer; see `Request`."""
        request = Request(work, transacts, peek)
        with self._lock:
            if self._is_closing:
                raise StoreUnavailableError(f"{self._settings.path} is closed: await the store's open() first")
            self._queue.append(request)
            self._lock.notify()
        return await request.future

    async def close(self) -> None:
        """Finish what was submitted, and end the thread."""
        with self._lock:
            self._is_closing = True
            self._lock.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while group := self._take():
            try:
                self._serve(group)
            except Exception as error:  # the thread must outlive it, and the callers must hear of it
                self.fail(group, error)
                self._deliver(group)
            del group  # so that nothing is kept alive while the thread waits
        if self._connection is not None:
            self._connection.close()

    def _take(self) -> list[Request[Any]]:
        """Return the next requests, waiting for one; none once the thread is to end."""
        with self._lock:
            while True:
                taken = [self._queue.popleft() for _ in range(min(GROUP, len(self._queue)))]
                # A caller who left meanwhile needs no answer, and a claim for it would only strand runs.
                group = [request for request in taken if not request.future.cancelled()]
                if group or (self._is_closing and not self._queue):
                    return group
                if not self._queue:
                    self._lock.wait()

    def _serve(self, group: list[Request[Any]]) -> None:
        for request in group:
            self._do(request, request.work)
        self._deliver(group)

    def _do(self, request: Request[Any], work: Callable[[apsw.Connection], Any]) -> None:
        """Do one piece of work and keep its answer or its error."""
        try:
            request.answer = work(self.connection())
        except Exception as error:  # whatever it is, it is the caller's answer
            self.fail([request], error)

    def connection(self) -> apsw.Connection:
        """Return the connection, opened anew after the disk failed."""
        if self._connection is None:
            connection = connect(self._settings, is_reader=self._is_reader)
            try:
                if not self._is_reader:
                    migrate(connection, self._settings.path)
            except BaseException as error:
                connection.close()
                raise translated(error, self._settings) from error
            self._connection = connection
            self._connected(connection)
        return self._connection

    def _connected(self, connection: apsw.Connection) -> None:
        """Prepare a fresh connection."""

    def fail(self, requests: list[Request[Any]], error: BaseException) -> None:
        """Make an error the answer of these requests; after a failure of the disk, trust the connection no more."""
        if isinstance(error, apsw.IOError) and self._connection is not None:
            self._connection.close(force=True)
            self._connection = None
        cause = self._outgrown() or error
        for request in requests:
            told = translated(cause, self._settings)
            if told is not error:
                told.__cause__ = error
            request.error = told

    def _outgrown(self) -> SchemaTooNewError | None:
        """Return the error that explains any other, if a newer program has changed the tables."""
        if self._connection is not None:
            try:
                require_known(self._connection, self._settings.path)
            except SchemaTooNewError as error:
                return error
            except apsw.Error:  # then the first error says more
                return None
        return None

    @staticmethod
    def _deliver(requests: list[Request[Any]]) -> None:
        """Hand the answers to their loops, with one wake-up for each loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Request[Any]]] = {}
        for request in requests:
            by_loop.setdefault(request.loop, []).append(request)
        for loop, answered in by_loop.items():
            try:
                loop.call_soon_threadsafe(_answer, answered)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                continue


def _answer(requests: list[Request[Any]]) -> None:
    for request in requests:
        if request.future.done():
            continue
        if request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.answer)
