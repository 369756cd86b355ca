"""Leaves an endpoint alone for a while that fails again and again, so that it can recover."""

from __future__ import annotations

from perdure.engine.env import Env

FAILURES = 5
"""After how many failures in a row an endpoint is left alone."""

FIRST_MS, LONGEST_MS = 2_000, 60_000
"""For how many milliseconds: the first time, and doubled with each further failure up to this."""


class Breaker:
    """The breaker of one endpoint.

    Args:
        env: for the present, and for chance.
    """

    def __init__(self, env: Env) -> None:
        self._env = env
        self._failures = 0
        self._until = 0

    def left(self) -> int:
        """Return for how many milliseconds it is to be left alone; 0 if it may be asked now.

        Where it was left alone, one request is let through, and the others wait for what becomes of it.
        """
        if self._failures < FAILURES:
            return 0
        now = self._env.now()
        if now < self._until:
            return self._until - now
        self._until = now + FIRST_MS
        return 0

    def worked(self) -> None:
        """It has answered."""
        self._failures = 0

    def failed(self) -> None:
        """It has not."""
        self._failures += 1
        if self._failures >= FAILURES:
            pause = min(LONGEST_MS, FIRST_MS * 2 ** min(self._failures - FAILURES, 20))
            self._until = self._env.now() + round(pause * (0.75 + 0.5 * self._env.roll()))
