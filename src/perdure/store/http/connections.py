"""Asks a server, on connections that are kept, and again where it failed for a reason that passes."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from typing import Any, NamedTuple

import httpx

from perdure.model.errors import StoreUnavailableError
from perdure.store.http.errors import RefusedError, has_done_nothing, is_passing, translated
from perdure.store.http.settings import Settings
from perdure.store.loops import PerLoop
from perdure.store.operations import PATH, TURN, TURNS

FINISHING = 10.0
"""Seconds that `close` gives to what is under way."""

IDLE = 10.0
"""Seconds after which a connection that nobody uses is closed: sooner than servers do it by themselves."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Link:
    """What one event loop speaks to the server with.

    Args:
        http: the client.
        places: how many requests may be under way at once. The client itself could count them too, but gets slow where
            many wait for their turn.

    Attributes:
        http: see above.
        places: what a request has to get ahead of being sent, unless it is one that waits for news.
        asked: requests that are to finish before it is closed.
        waiting: those that need not.
    """

    def __init__(self, http: httpx.AsyncClient, places: int) -> None:
        self.http = http
        self.places = asyncio.Semaphore(places)
        self.asked: set[asyncio.Task[Any]] = set()
        self.waiting: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Let what was asked for finish, and whoever waits for news go."""
        for task in self.waiting:
            task.cancel()
        tasks = {task for task in (*self.asked, *self.waiting) if task is not asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=FINISHING)
        await self.http.aclose()


class Question(NamedTuple):
    """What a server is asked; see `Connections.ask`."""

    path: str
    body: bytes
    may_repeat: bool
    is_first: bool
    waits: float
    token: str | None


class Connections:
    """The connections of every event loop that uses the store.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._links: PerLoop[Link] = PerLoop(settings.shown, self._make, _end)

    def open(self) -> None:
        """Let it be asked."""
        self._links.open()

    @property
    def is_open(self) -> bool:
        """Whether it may be asked."""
        return self._links.is_open

    async def close(self) -> None:
        """End every connection."""
        await self._links.close()

    async def ask(
        self,
        name: str,
        body: bytes,
        *,
        may_repeat: bool = True,
        is_first: bool = False,
        waits: float = 0.0,
        token: str | None = None,
    ) -> bytes:
        """Return the answer to one operation.

        Args:
            name: of the operation.
            body: its arguments.
            may_repeat: whether a second time has no second effect.
            is_first: whether nobody knows yet that there is a server: one that cannot be reached is not waited for.
            waits: how long (in seconds) the server may take its time, because it is asked to wait. It is asked once.
            token: of the turn that it is asked about; None for an operation of the store.

        Raises:
            StoreError: it failed, and not for a reason that passed in time. UsageError: what was asked is wrong.
            RequestTooLargeError: the server takes no request of this size.
        """
        path = f"{PATH if token is None else TURNS}{name}"
        question = Question(path, body, may_repeat, is_first, waits, token)
        link = await self._links.get()
        tasks = link.waiting if waits else link.asked
        task = asyncio.get_running_loop().create_task(self._patiently(link, question))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_noticed)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                if waits:
                    task.cancel()
                raise
            raise StoreUnavailableError(f"{self._settings.shown}: the store was closed meanwhile") from None

    async def _patiently(self, link: Link, question: Question) -> bytes:
        patience = 0.0 if question.waits else self._settings.patience
        failures, first_at = 0, 0.0
        while True:
            try:
                if question.waits:
                    return await self._once(link, question)
                async with link.places:
                    return await self._once(link, question)
            except (httpx.TransportError, RefusedError) as error:
                failures += 1
                now = time.monotonic()
                first_at = first_at if failures > 1 else now
                rest = _pause_after(failures)
                if isinstance(error, RefusedError):
                    rest = max(rest, error.after)
                is_over = now + rest - first_at > patience or not self._links.is_open
                is_over = is_over or (question.is_first and isinstance(error, httpx.TransportError))
                if is_over or not is_passing(error) or not (question.may_repeat or has_done_nothing(error)):
                    raise translated(error, self._settings.shown) from error
            await asyncio.sleep(rest)

    async def _once(self, link: Link, question: Question) -> bytes:
        timeout = httpx.Timeout(self._settings.timeout + question.waits, connect=self._settings.connect_timeout)
        url = f"{self._settings.url}{question.path}"
        headers = None if question.token is None else {TURN: question.token}
        response = await link.http.post(url, content=question.body, timeout=timeout, headers=headers)
        if response.status_code != 200:
            raise RefusedError(response)
        return response.content

    async def _make(self) -> Link:
        settings = self._settings
        http = httpx.AsyncClient(
            headers=settings.headers(),
            verify=_certificates(settings),
            limits=httpx.Limits(max_keepalive_connections=settings.pool_size, keepalive_expiry=IDLE),
            follow_redirects=False,
            trust_env=False,
        )
        return Link(http, settings.pool_size)


def _certificates(settings: Settings) -> ssl.SSLContext | bool:
    if settings.url.startswith("http://"):
        return False
    return True if settings.ca is None else ssl.create_default_context(cafile=str(settings.ca))


def _pause_after(failures: int) -> float:
    """Return how many seconds to wait after so many failures: longer and longer, and never in step with others."""
    share = (os.getpid() * 0.7548776662 + time.monotonic() * 997 + failures * 0.5698402910) % 1
    return float(min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE) * (0.25 + share))


async def _end(link: Link) -> None:
    await link.close()


def _noticed(task: asyncio.Task[bytes]) -> None:
    """Take note of how a request ended, whether or not anybody still waits for it."""
    if not task.cancelled():
        task.exception()
