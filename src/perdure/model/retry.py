"""When a failed step is tried again: a pure function of the policy, the attempt and the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from perdure.model.duration import Duration, seconds
from perdure.model.errors import NonRetryableError, RetryAfterError, UsageError

Backoff = Literal["constant", "linear", "exponential"]

RETRY_AFTER_LONGEST = 7 * 86_400.0
"""The longest wait, in seconds, that a `RetryAfterError` can ask for."""

_CAP = 300.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how far apart, a step is attempted.

    The delay after failed attempt `n` (1, 2, …) is `delay` for constant, `delay * n` for linear and
    `delay * 2 ** (n - 1)` for exponential backoff, as in Cloudflare Workflows; then capped, then shortened by jitter.
    It is longer where a `RetryAfterError` asks for that.

    Args:
        attempts: how many times the step may run in all, the first included; at least 1.
        delay: the base delay (a duration).
        backoff: `"constant"`, `"linear"` or `"exponential"`.
        max_delay: the cap on one delay (a duration); None is five minutes, or `delay` where that is longer.
        jitter: the share of a delay that is random, from 0 (none) to 1 (anything down to zero).
        unless: error types that are never retried, beside `NonRetryableError`.
        by_error: other policies for particular error types; the first that matches is used.

    Raises:
        UsageError: a value is out of its range.
    """

    attempts: int = 3
    delay: Duration = 1.0
    backoff: Backoff = "exponential"
    max_delay: Duration | None = None
    jitter: float = 0.1
    unless: tuple[type[BaseException], ...] = ()
    by_error: Mapping[type[BaseException], Retry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise UsageError(f"retry.attempts: {self.attempts!r} must be a whole number, at least 1")
        if self.backoff not in ("constant", "linear", "exponential"):
            raise UsageError(f"retry.backoff: {self.backoff!r} must be 'constant', 'linear' or 'exponential'")
        if not 0 <= self.jitter <= 1:
            raise UsageError(f"retry.jitter: {self.jitter!r} must be from 0 to 1")
        seconds(self.delay, field="retry.delay")
        if self.max_delay is not None:
            seconds(self.max_delay, field="retry.max_delay")
        object.__setattr__(self, "unless", tuple(self.unless))

    def next_delay(self, attempt: int, error: BaseException, roll: float) -> float | None:
        """Return the delay in seconds before the next attempt, or None when there is none.

        Args:
            attempt: the number of the attempt that failed, from 1.
            error: what it failed with.
            roll: a random number from 0 to 1, for the jitter.
        """
        policy = self.policy_for(error)
        if isinstance(error, (NonRetryableError, *policy.unless)) or attempt >= policy.attempts:
            return None
        delay = min(policy._backed_off(attempt), policy._cap())
        delay *= 1 - policy.jitter * roll
        return max(delay, min(error.after, RETRY_AFTER_LONGEST)) if isinstance(error, RetryAfterError) else delay

    def policy_for(self, error: BaseException) -> Retry:
        """Return the policy that governs this error: one of `by_error`, or this one."""
        return next((policy for kind, policy in self.by_error.items() if isinstance(error, kind)), self)

    def _cap(self) -> float:
        return max(_CAP, seconds(self.delay)) if self.max_delay is None else seconds(self.max_delay)

    def _backed_off(self, attempt: int) -> float:
        base = seconds(self.delay)
        if self.backoff == "constant":
            return base
        if self.backoff == "linear":
            return base * attempt
        return base * 2.0 ** min(attempt - 1, 64)


NO_RETRY = Retry(attempts=1)
"""One attempt only."""
