"""How often somebody may ask: counted in this process, in bounded memory, on the engine's clock."""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.engine.env import Env
from perdure.model.errors import UsageError
from perdure.model.queue import Rate
from perdure.server.errors import Problem, respond
from perdure.server.security.sent import SAFE

COUNTED = 20_000
"""How many names are counted at once; beyond that, whoever asked longest ago is forgotten."""


class Rates:
    """Counts by name, each at a rate: `count` at once, then one each period divided by the count (GCRA).

    Args:
        rate: for each name.
        world: for the time.
        most: how many names are counted.
    """

    def __init__(self, rate: Rate, world: Env, most: int = COUNTED) -> None:
        self._apart = rate.period_ms / rate.count
        self._period = rate.period_ms
        self._world = world
        self._most = most
        self._paces: dict[str, float] = {}

    def wait(self, name: str) -> float:
        """Return for how many seconds a name has to wait until it may once more; 0 for not at all."""
        now = self._world.now()
        return max(0.0, self._pace(name, now) + self._apart - self._period - now) / 1000

    def count(self, name: str) -> float:
        """Count one time, if a name may, and return as `wait` does."""
        wait = self.wait(name)
        if not wait:
            now = self._world.now()
            pace = self._pace(name, now)
            self._paces.pop(name, None)
            if len(self._paces) >= self._most:
                del self._paces[next(iter(self._paces))]
            self._paces[name] = pace + self._apart
        return wait

    def _pace(self, name: str, now: int) -> float:
        """Return when a name would have asked last, had it asked evenly; one that a clock set back left is none."""
        pace = self._paces.get(name, now)
        return pace if now <= pace <= now + self._period else now


class Paced:
    """Has nobody ask more often than the settings say, reading and changing counted apart (ASGI middleware).

    A key and its sessions are counted as one.
    It stands behind the one that finds out who asks.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        access = scope.get("state", {}).get("access")
        if access is not None:
            kind = "reads" if scope["method"] in SAFE else "writes"
            if wait := self._rates.count(f"{kind} {access.principal.id or access.principal.name}"):
                await respond(too_often(wait))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def too_often(wait: float) -> Problem:
    """Return the problem of whoever asked too often, and may again after so many seconds."""
    seconds = math.ceil(wait)
    detail = f"that was too often; ask again in {seconds} s"
    return Problem(429, "Too many requests", detail, headers={"Retry-After": str(seconds)})


def read_rate(text: str) -> Rate:
    """Return the rate that a text means: `600/minute`, `100/10s`.

    Raises:
        UsageError: it means none.
    """
    number, slash, per = (part.strip() for part in text.partition("/"))
    if not slash or not number.isdecimal() or len(number) > 7:
        raise UsageError(f"rate: {text!r} must be a number per duration, as in 600/minute")
    return Rate.of(int(number), per=per if per[:1].isdigit() else f"1 {per}")
