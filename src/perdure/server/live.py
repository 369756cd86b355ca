"""What changes, told as it happens: one look at the store serves everybody who watches a namespace.

The look is made when the store hints at a change, or a second has passed, and never so often that it becomes the load.
A watcher holds the latest event alone: who reads slowly misses what was in between, and costs no memory; who does not
read at all is dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec.structs import replace
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from perdure.engine.app import Perdure
from perdure.model.decision import RunFilter
from perdure.model.errors import StoreError
from perdure.model.redaction import Redaction
from perdure.model.run import Run
from perdure.server.errors import Problem
from perdure.server.hearing import Hearing
from perdure.server.masking import masked
from perdure.server.shown import listed_run, moment, progress_of

LOOK_EVERY = 1.0
"""Seconds between two looks while the store gives no hint."""

REST = 0.1
"""Seconds between two looks at least, whatever the hints."""

LOOK_COST = 20
"""How many times longer than a look took the next one is put off."""

LOOK_BATCH = 100
"""How many runs are looked at in one go: each comes with its output, which may be large."""

LATEST = 20
"""How many of a namespace's latest runs are told."""

HEARTBEAT = 15.0
"""Seconds after which a silent stream says that it is there."""

RECHECK = 2.0
"""Seconds between two looks whether whoever watches still may."""

TAKEN_WITHIN = 20.0
"""Seconds within which a client has to take what it is sent."""

RECONNECT = 2_000
"""Milliseconds after which a client whose stream ended comes back."""

_log = logging.getLogger("perdure.server")
_encode = msgspec.json.Encoder().encode


class Event(msgspec.Struct, frozen=True):
    """What watchers are sent.

    Attributes:
        id: the same for the same news, so that nobody is told again what was the last they heard.
        text: as it goes over the wire.
        is_last: nothing comes after it.
    """

    id: str
    text: bytes
    is_last: bool = False


class Watch:
    """One watcher's place: the latest event that it has not taken."""

    def __init__(self, live: Live, key: str | None) -> None:
        self._live = live
        self.key = key
        self._latest: Event | None = None
        self._news = asyncio.Event()
        self.is_over = False

    def tell(self, event: Event) -> None:
        """Put an event in the place of the one that was not taken."""
        self._latest = event
        self._news.set()

    def end(self) -> None:
        """Let the watcher go."""
        self.is_over = True
        self._news.set()

    async def next(self, timeout: float) -> Event | None:
        """Wait for an event, and take it; None when the time is over, or the watch is."""
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        event, self._latest = self._latest, None
        return event

    def __enter__(self) -> Self:
        self._live.join(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.leave(self)


class Live:
    """The watchers of one namespace, and who looks for them.

    Args:
        app: the namespace's engine.
        hearing: what tells of its changes.
        most: how many may watch at once.
        redaction: what is masked for all of them.
    """

    def __init__(self, app: Perdure, hearing: Hearing, most: int, redaction: Redaction | None = None) -> None:
        self._app = app
        self._hearing = hearing
        self._redaction = redaction or Redaction()
        self._most = most
        self._watches: dict[str | None, set[Watch]] = {}
        self._told: dict[str | None, Event] = {}
        self._seen: dict[str, Run] = {}
        self._stir = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._rest_until = 0.0
        self._is_closed = False

    def watch(self, run_id: str | None = None) -> Watch:
        """Return a place to watch a run from, or the whole namespace; it counts once it is entered.

        Raises:
            Problem: too many watch already.
        """
        if self._is_closed or sum(map(len, self._watches.values())) >= self._most:
            raise Problem(
                503, "Too many watchers", f"{self._most:,} watch already (watchers)", headers={"Retry-After": "10"}
            )
        return Watch(self, run_id)

    def join(self, watch: Watch) -> None:
        """Count a watcher in, and tell it what is known; one that comes too late is let go."""
        if self._is_closed:
            watch.end()
        self._watches.setdefault(watch.key, set()).add(watch)
        if (told := self._told.get(watch.key)) is not None:
            watch.tell(told)
        self._stir.set()
        if not self._tasks and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._listen()), loop.create_task(self._look())]

    def leave(self, watch: Watch) -> None:
        """Count a watcher out; nobody looks where nobody watches."""
        watches = self._watches[watch.key]
        watches.discard(watch)
        if not watches:
            del self._watches[watch.key]
            self._told.pop(watch.key, None)
            self._seen.pop(watch.key or "", None)
        if not self._watches:
            self._rest()

    async def close(self) -> None:
        """Let every watcher go."""
        self._is_closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.end()
        tasks = self._rest()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _rest(self) -> list[asyncio.Task[None]]:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        return tasks

    async def _listen(self) -> None:
        last = ""
        while not self._hearing.is_over:
            last = await self._hearing.wait(last, LOOK_EVERY)
            self._stir.set()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._stir.wait()
            self._stir.clear()
            began = loop.time()
            try:
                await self._look_at_runs()
                if None in self._watches and (None not in self._told or began >= self._rest_until):
                    await self._look_at_all()
                    self._rest_until = loop.time() + (loop.time() - began) * LOOK_COST
            except StoreError as error:
                _log.warning("watchers are told nothing for now: %s", error)
            except Exception:
                _log.exception("watchers are told nothing for now")
            await asyncio.sleep(max(REST, loop.time() - began))

    async def _look_at_runs(self) -> None:
        wanted = [key for key in self._watches if key is not None]
        for first in range(0, len(wanted), LOOK_BATCH):
            part = wanted[first : first + LOOK_BATCH]
            for run_id, run in zip(part, await self._app.store.get(part), strict=True):
                if run is None:
                    self._tell(run_id, _event("gone", {"id": run_id}, is_last=True))
                elif (
                    self._seen.get(run_id) != (kept := replace(run, state=None, output=None))
                    and run_id in self._watches
                ):
                    self._seen[run_id] = kept
                    shown = masked(run, self._redaction)
                    self._tell(
                        run_id,
                        _event("run", {**listed_run(shown), "progress": progress_of(shown)}),
                    )

    async def _look_at_all(self) -> None:
        stats = await self._app.stats()
        page = await self._app.client.find(RunFilter(), LATEST, None)
        latest: list[dict[str, Any]] = [
            {"id": run.id, "workflow": run.workflow, "status": run.status, "updated_at": moment(run.updated_at)}
            for run in page.runs
        ]
        self._tell(None, _event("namespace", {"status": stats.status, "queues": stats.queues, "latest": latest}))

    def _tell(self, key: str | None, event: Event) -> None:
        before = self._told.get(key)
        watches = self._watches.get(key)
        if watches is None or (before is not None and before.id == event.id):
            return
        self._told[key] = event
        for watch in watches:
            watch.tell(event)


def _event(kind: str, document: object, *, is_last: bool = False) -> Event:
    data = _encode(document)
    number = hashlib.blake2b(data, digest_size=8).hexdigest()
    return Event(number, b"id: %b\nevent: %b\ndata: %b\n\n" % (number.encode(), kind.encode(), data), is_last)


class EventStream(Response):
    """A response that sends a watcher its events (server-sent events) until it goes, or may not watch any longer.

    Args:
        watch: the place it watches from.
        last: the id of the last event that the client has had; None for none.
        may_watch: says whether it still may.
        place: is held meanwhile.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        watch: Watch,
        last: str | None,
        may_watch: Callable[[], Awaitable[bool]],
        place: AbstractContextManager[None],
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._watch = watch
        self._last = last
        self._may_watch = may_watch
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there is a reason to stop."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        gone = asyncio.get_running_loop().create_task(self._until_gone(receive))
        try:
            with self._place, self._watch:
                await self._stream(send)
        except TimeoutError:
            _log.info("a watcher takes nothing and is dropped")
        finally:
            gone.cancel()

    async def _stream(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await _send(send, b"retry: %d\n\n" % RECONNECT)
        told_at = checked_at = loop.time()
        while not self._watch.is_over:
            event = await self._watch.next(RECHECK)
            now = loop.time()
            if now - checked_at >= RECHECK:
                checked_at = now
                if not await self._may_watch():
                    break
            if event is not None and event.id != self._last:
                self._last, told_at = event.id, now
                await _send(send, event.text)
                if event.is_last:
                    break
            elif now - told_at >= HEARTBEAT:
                told_at = now
                await _send(send, b":\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_gone(self, receive: Receive) -> None:
        await until_gone(receive)
        self._watch.end()


async def until_gone(receive: Receive) -> None:
    """Return as soon as the client is gone; its request has to be read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, text: bytes) -> None:
    """Send a part.

    Raises:
        TimeoutError: the client does not take it.
    """
    async with asyncio.timeout(TAKEN_WITHIN):
        await send({"type": "http.response.body", "body": text, "more_body": True})
