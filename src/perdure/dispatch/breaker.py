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

    Attributes:
        failures: how many times in a row it has failed.
        error: what it failed with, or refused the last run with; empty where it took that.
    """

    def __init__(self, env: Env) -> None:
        self.failures = 0
        self.error = ""
        self._env = env
        self._until = 0

    def left(self) -> int:
        """Return for how many milliseconds it is to be left alone; 0 if it may be asked now.

        Where it was left alone, one request is let through, and the others wait for what becomes of it.
        """
        left = self.rest()
        if left == 0 and self.failures >= FAILURES:
            self._until = self._env.now() + FIRST_MS
        return left

    def rest(self) -> int:
        """Return for how many milliseconds it is left alone, to be told; nothing is let through."""
        return max(0, self._until - self._env.now()) if self.failures >= FAILURES else 0

    def worked(self, error: str = "") -> None:
        """It has answered; `error` is what it refused the run with."""
        self.failures, self.error = 0, error

    def failed(self, error: str = "") -> None:
        """It has not, as `error` says."""
        self.failures, self.error = self.failures + 1, error
        if self.failures >= FAILURES:
            pause = min(LONGEST_MS, FIRST_MS * 2 ** min(self.failures - FAILURES, 20))
            self._until = self._env.now() + round(pause * (0.75 + 0.5 * self._env.roll()))
