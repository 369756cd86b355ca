"""What a parent wants otherwise for the step of a task that it calls: it travels in the input record of the child."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import msgspec

from perdure.core.ask import StepSpec
from perdure.model.duration import seconds
from perdure.model.retry import Backoff, Retry


class Overrides(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retries and a timeout; what is None is as the task has it.

    Attributes:
        attempts, backoff, jitter: as in `Retry`.
        delay, max_delay: as in `Retry`, in seconds.
        timeout: of one attempt, in seconds.
    """

    attempts: int | None = None
    delay: float | None = None
    backoff: Backoff | None = None
    max_delay: float | None = None
    jitter: float | None = None
    timeout: float | None = None

    @classmethod
    def of(cls, retry: Retry | None, timeout: float | None, only: Collection[str] | None = None) -> Overrides:
        """Return overrides with the numbers of a policy, and a timeout in seconds; None for those of the task.

        Args:
            retry, timeout: what is wanted otherwise.
            only: the fields of the policy that count; None for all.
        """
        if retry is None:
            return cls(timeout=timeout)
        longest = None if retry.max_delay is None else seconds(retry.max_delay)
        whole = cls(retry.attempts, seconds(retry.delay), retry.backoff, longest, retry.jitter, timeout)
        left = () if only is None else {"attempts", "delay", "backoff", "max_delay", "jitter"}.difference(only)
        return msgspec.structs.replace(whole, **dict.fromkeys(left))

    def encode(self) -> str | None:
        """Return them as text; None where there are none."""
        return None if self == Overrides() else msgspec.json.encode(self).decode()

    def apply(self, spec: StepSpec) -> StepSpec:
        """Return a step with these; which errors are never retried is left to the task."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        timeout = given.pop("timeout", spec.timeout)
        return dataclasses.replace(spec, retry=dataclasses.replace(spec.retry, **given), timeout=timeout)


def overridden(spec: StepSpec, text: str) -> StepSpec:
    """Return a step with the overrides of a text."""
    return msgspec.json.decode(text, type=Overrides).apply(spec)
