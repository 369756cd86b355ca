"""Where a server is, and how it is asked: what both clients of it have in common."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import httpx

from perdure.engine.env import Env, SystemEnv, new_id
from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError
from perdure.publisher.asking import Answer, Plan, Request, Steps, patiently
from perdure.tasks.answers import retry_after

T = TypeVar("T")

TIMEOUT_MOST = 120.0
PATIENCE_MOST = 240.0
"""The longest timeout and patience, in seconds. Together they stay below the ten minutes in which a server knows a
deduplication id again, so that what is asked twice is published once."""

RESET_DIGITS = 12
"""How many digits the end of a limit's period may have."""

_EARLIEST = 1_000_000_000.0  # what is less is no moment since the epoch, but so many seconds from now on
_KEY = re.compile(r"[!-~]{1,16000}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Settings:
    """Where the server is and how it is asked; see `Publisher`.

    Attributes:
        url: the server's, without a slash at its end.
        shown: what is told of it.
        headers: of every request.
        env: gives time and chance.

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

    def answer(self, response: httpx.Response, content: bytes) -> Answer:
        """Return an answer as plans read it."""
        after = retry_after(response.headers)
        if after is None and response.status_code == 429:
            after = self._until_reset(response.headers)
        return Answer(response.status_code, content, after or 0.0, time.monotonic())

    def _until_reset(self, headers: httpx.Headers) -> float:
        """Return the seconds until a limit's period is over, be it that of the day or of a burst."""
        told = headers.get("ratelimit-reset") or headers.get("burst-ratelimit-reset") or ""
        if not told.isdecimal() or len(told) > RESET_DIGITS:
            return 0.0
        moment = float(told)
        return max(0.0, moment - self.env.now() / 1000) if moment >= _EARLIEST else moment

    def new_id(self) -> str:
        """Return an id that nobody has."""
        return new_id(self.env)


def _found(env: Mapping[str, str], url: str | None, token: str | None) -> tuple[str, str | None]:
    """Return a server's URL and token; a token of the environment goes to no server but its own."""
    if url is None:
        for where, key in (("QSTASH_URL", "QSTASH_TOKEN"), ("PERDURE_URL", "PERDURE_API_KEY")):
            if env.get(where):
                return env[where].rstrip("/"), token if token is not None else env.get(key) or None
        raise UsageError("url: give the server's URL, or set QSTASH_URL or PERDURE_URL")
    url = url.rstrip("/")
    servers = {where: env[where].rstrip("/") for where in ("QSTASH_URL", "PERDURE_URL") if env.get(where)}
    if token is None and url == servers.get("QSTASH_URL"):
        token = env.get("QSTASH_TOKEN") or None
    if token is None and url == servers.get("PERDURE_URL", url):
        token = env.get("PERDURE_API_KEY") or None
    return url, token


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
