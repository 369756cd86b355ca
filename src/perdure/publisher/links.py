"""The two clients of a server: one that is awaited, and one that waits. Both carry the same plans out."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx

from perdure.engine.env import Env, SystemEnv, new_id, pause
from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError
from perdure.publisher.asking import Answer, Lost, Plan, Request, Rest, Steps, patiently
from perdure.publisher.pages import Pages
from perdure.tasks.answers import retry_after

T = TypeVar("T")

CONNECTIONS = 20
"""How many requests are under way at once."""

IDLE = 10.0
"""Seconds after which a connection that nobody uses is closed: sooner than servers do it by themselves."""

TIMEOUT_MOST = 120.0
PATIENCE_MOST = 240.0
"""The longest timeout and patience, in seconds. Together they stay below the ten minutes in which a server knows a
deduplication id again, so that what is asked twice is published once."""

_KEY = re.compile(r"[!-~]{1,16000}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_CAME_TO_NOTHING = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class Settings:
    """Where the server is and how it is asked; see `Publisher`.

    Attributes:
        url: the server's, without a slash at its end.
        shown: what is told of it.
        headers: of every request.
        env: gives chance.

    Raises:
        UsageError: one of them cannot be.
    """

    def __init__(
        self,
        url: str | None,
        token: str | None,
        *,
        namespace: str | None,
        timeout: Duration,
        patience: Duration,
        ca: str | Path | None,
    ) -> None:
        self.url, token = _found(os.environ, url, token)
        self.shown = _checked(self.url)
        self.headers = {"Accept": "application/json", "User-Agent": "perdure"}
        if token is not None:
            if not _KEY.fullmatch(token):
                raise UsageError("token: it must be the token or key as it was given, without spaces")
            self.headers["Authorization"] = f"Bearer {token}"
        if namespace is not None:
            if not _NAMESPACE.fullmatch(namespace):
                raise UsageError(f"namespace: {namespace!r:.80} is no name of a namespace")
            self.headers["Perdure-Namespace"] = namespace
        self.timeout = _within(timeout, "timeout", TIMEOUT_MOST)
        self.patience = _within(patience, "patience", PATIENCE_MOST)
        if not self.timeout:
            raise UsageError("timeout: it must be longer than nothing")
        if ca is not None and not Path(ca).is_file():
            raise UsageError(f"ca: {str(ca)!r} is no file that can be read")
        self.ca = ca
        self.env: Env = SystemEnv()

    def certificates(self) -> ssl.SSLContext | bool:
        """Return how the server's certificate is checked."""
        if self.url.startswith("http://"):
            return False
        return True if self.ca is None else ssl.create_default_context(cafile=str(self.ca))

    def steps(self, plan: Plan[T]) -> Steps[T]:
        """Return a plan with what has to be asked again."""
        return patiently(plan, self.shown, self.patience, self.env.roll)

    def request(self, asked: Request) -> httpx.Request:
        """Return a request as it is sent."""
        query = f"?{urlencode(asked.query)}" if asked.query else ""
        headers = [*self.headers.items(), *asked.headers]
        return httpx.Request(
            asked.method,
            f"{self.url}{asked.path}{query}",
            headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
            content=asked.content,
            extensions={"timeout": httpx.Timeout(self.timeout, pool=None).as_dict()},
        )

    def new_id(self) -> str:
        """Return an id that nobody has."""
        return new_id(self.env)


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
                response = await http.send(self.settings.request(asked))
        except httpx.TransportError as error:
            return _lost(error)
        return _answer(response)

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
            response = http.send(self.settings.request(asked))
        except httpx.TransportError as error:
            return _lost(error)
        return _answer(response)

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


def _found(env: Mapping[str, str], url: str | None, token: str | None) -> tuple[str, str | None]:
    """Return a server's URL and token; a token of the environment goes to no server but its own."""
    if url is None:
        for where, key in (("QSTASH_URL", "QSTASH_TOKEN"), ("PERDURE_URL", "PERDURE_API_KEY")):
            if env.get(where):
                return env[where].rstrip("/"), token if token is not None else env.get(key) or None
        raise UsageError("url: give the server's URL, or set QSTASH_URL or PERDURE_URL")
    if token is None and url.rstrip("/") == env.get("QSTASH_URL", "").rstrip("/"):
        token = env.get("QSTASH_TOKEN") or None
    if token is None:
        token = env.get("PERDURE_API_KEY") or None
    return url.rstrip("/"), token


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"url: the server's cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"url: {url[:200]!r} is no server; write https://host or http://host:8000")
    if "@" in parts.netloc:
        raise UsageError("url: a server takes no password in its URL; give token")
    if parts.query or parts.fragment:
        raise UsageError(f"url: {url[:200]!r} holds more than a server's address")
    return url


def _within(value: Duration, field: str, most: float) -> float:
    found = seconds(value, field=field)
    if found > most:
        raise UsageError(f"{field}: {value!r} is over {most:g} seconds")
    return found


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.content, retry_after(response.headers) or 0.0, time.monotonic())


def _lost(error: httpx.TransportError) -> Lost:
    reason = str(error) or type(error).__name__
    at = time.monotonic()
    if "SSL" in reason or "certificate" in reason.lower():
        return Lost(f"no secure connection ({reason}): check the server's certificate, and ca", at, is_passing=False)
    if isinstance(error, _CAME_TO_NOTHING):
        is_passing = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        told = f"it cannot be reached ({reason}): see that the server runs, and that host and port are right"
        return Lost(told, at, is_passing=is_passing, has_done_nothing=True)
    return Lost(f"it did not answer ({reason}); what was asked may or may not have happened", at)
