"""The two clients of a server: one that is awaited, and one that waits. Both carry the same plans out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

import httpx

from perdure.engine.env import pause
from perdure.model.errors import UsageError
from perdure.publisher.asking import Answer, Lost, Pages, Plan, Request, Rest
from perdure.publisher.settings import Settings

T = TypeVar("T")

CONNECTIONS = 20
"""How many requests are under way at once."""

ANSWER_BYTES = 268_435_456
"""How long an answer may be: no page of a list is longer."""

IDLE = 10.0
"""Seconds after which a connection that nobody uses is closed: sooner than servers do it by themselves."""

_CAME_TO_NOTHING = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class AsyncLink:
    """Carries plans out on the event loop that awaits them.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._is_closed = False

    async def carry_out(self, plan: Plan[T]) -> T:
        """Return what comes of a plan.

        Raises:
            PublishError: the server refuses something, or did not answer in time. UsageError: the plan cannot be.
        """
        steps = self.settings.steps(plan)
        came: Answer | Lost | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a generator's end has no type
            if isinstance(step, Rest):
                await pause(self.settings.env, step.seconds)
                came = None
            else:
                came = await self._ask(step)

    def listed(self, pages: Pages[T]) -> AsyncListed[T]:
        """Return what is on pages, one after the other."""
        return AsyncListed(self, pages)

    async def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _ask(self, asked: Request) -> Answer | Lost:
        http = self._client()
        try:
            async with self._places:
                response = await http.send(self.settings.request(asked), stream=True)
                content = _Content(self.settings.timeout)
                try:
                    async for part in response.aiter_bytes():
                        content.add(part)
                finally:
                    await response.aclose()
        except httpx.RequestError as error:
            return _lost(error)
        return self.settings.answer(response, bytes(content.found))

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise UsageError("this Publisher is closed")
        if self._loop is not loop:
            if self._http is not None and self._loop is not None and not self._loop.is_closed():
                raise UsageError("this Publisher is used on another event loop; make one for each, or take .blocking")
            self._loop, self._places = loop, asyncio.Semaphore(CONNECTIONS)
            self._http = httpx.AsyncClient(
                verify=self.settings.certificates(), limits=_LIMITS, follow_redirects=False, trust_env=False
            )
        assert self._http is not None
        return self._http


class BlockingLink:
    """Carries plans out on the thread that asks; any thread may.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http: httpx.Client | None = None
        self._opening = threading.Lock()
        self._is_closed = False

    def carry_out(self, plan: Plan[T]) -> T:
        """Return what comes of a plan; see `AsyncLink.carry_out`."""
        steps = self.settings.steps(plan)
        came: Answer | Lost | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a generator's end has no type
            if isinstance(step, Rest):
                time.sleep(step.seconds)
                came = None
            else:
                came = self._ask(step)

    def listed(self, pages: Pages[T]) -> Listed[T]:
        """Return what is on pages, one after the other."""
        return Listed(self, pages)

    def close(self) -> None:
        """Close every connection."""
        with self._opening:
            self._is_closed = True
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def _ask(self, asked: Request) -> Answer | Lost:
        http = self._client()
        try:
            response = http.send(self.settings.request(asked), stream=True)
            content = _Content(self.settings.timeout)
            try:
                for part in response.iter_bytes():
                    content.add(part)
            finally:
                response.close()
        except httpx.RequestError as error:
            return _lost(error)
        return self.settings.answer(response, bytes(content.found))

    def _client(self) -> httpx.Client:
        with self._opening:
            if self._is_closed:
                raise UsageError("this Publisher is closed")
            if self._http is None:
                self._http = httpx.Client(
                    verify=self.settings.certificates(), limits=_LIMITS, follow_redirects=False, trust_env=False
                )
            return self._http


class AsyncListed(AsyncIterator[T], Generic[T]):
    """What is on pages, one after the other: `async for`; the next page is asked for when it is needed.

    Args:
        link: asks.
        pages: what for.

    Attributes:
        cursor: where the next page begins; empty at the end.
    """

    def __init__(self, link: AsyncLink, pages: Pages[T]) -> None:
        self._link = link
        self._pages = pages

    @property
    def cursor(self) -> str:
        """See the class."""
        return self._pages.cursor

    async def page(self) -> list[T]:
        """Return what is left of the page at hand, or the next one; it is empty at the end."""
        while self._pages.are_more_asked_for:
            await self._link.carry_out(self._pages.ask())
        return self._pages.take()

    async def __anext__(self) -> T:
        while self._pages.are_more_asked_for:
            await self._link.carry_out(self._pages.ask())
        if not self._pages.found:
            raise StopAsyncIteration
        return self._pages.found.popleft()


class Listed(Iterator[T], Generic[T]):
    """The same as `AsyncListed`, for a `for` that waits."""

    def __init__(self, link: BlockingLink, pages: Pages[T]) -> None:
        self._link = link
        self._pages = pages

    @property
    def cursor(self) -> str:
        """See `AsyncListed`."""
        return self._pages.cursor

    def page(self) -> list[T]:
        """Return what is left of the page at hand, or the next one; it is empty at the end."""
        while self._pages.are_more_asked_for:
            self._link.carry_out(self._pages.ask())
        return self._pages.take()

    def __next__(self) -> T:
        while self._pages.are_more_asked_for:
            self._link.carry_out(self._pages.ask())
        if not self._pages.found:
            raise StopIteration
        return self._pages.found.popleft()


_LIMITS = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=IDLE)


class _TooLongError(httpx.RequestError):
    """An answer is longer than any."""


class _Content:
    """The body of an answer, as it comes.

    Args:
        within: seconds from now within which it has to come.

    Attributes:
        found: what has come.
    """

    def __init__(self, within: float) -> None:
        self.found = bytearray()
        self._within = within
        self._until = time.monotonic() + within

    def add(self, part: bytes) -> None:
        """Take the next part.

        Raises:
            RequestError: it is too much, or too late.
        """
        self.found += part
        if len(self.found) > ANSWER_BYTES:
            raise _TooLongError(f"it is over {ANSWER_BYTES:,} bytes")
        if time.monotonic() > self._until:
            raise httpx.ReadTimeout(f"the answer has no end after {self._within:g} seconds")


def _lost(error: httpx.RequestError) -> Lost:
    reason = str(error) or type(error).__name__
    at = time.monotonic()
    if not isinstance(error, httpx.TransportError):
        told = f"its answer cannot be read ({reason}); what was asked may or may not have happened"
        return Lost(told, at, is_passing=False)
    if "SSL" in reason or "certificate" in reason.lower():
        return Lost(f"no secure connection ({reason}): check the server's certificate, and ca", at, is_passing=False)
    if isinstance(error, _CAME_TO_NOTHING):
        is_passing = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        told = f"it cannot be reached ({reason}): see that the server runs, and that host and port are right"
        return Lost(told, at, is_passing=is_passing, has_done_nothing=True)
    return Lost(f"it did not answer ({reason}); what was asked may or may not have happened", at)
