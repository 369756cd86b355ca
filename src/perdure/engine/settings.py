"""How an engine is set up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from perdure.model.duration import Duration, milliseconds, seconds
from perdure.model.errors import UsageError
from perdure.model.limits import Limits
from perdure.model.name import check_name
from perdure.model.run import Retention

Mode = Literal["all", "client", "worker", "serve"]

SCHEDULES = "perdure.schedules:"
"""What the name of the queue begins with that the schedules of a queue's runs wait in."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `Perdure`; see there.

    Attributes:
        per_queue: how many runs of a queue the worker has in hand at once, where that is bounded.
        served: the queues that the worker serves: `queues`, and beside each the one of its schedules.
        lease_ms, hold_ms: `lease` and `hold` in milliseconds.
    """

    mode: Mode = "all"
    queues: tuple[str, ...] = ("default",)
    per_queue: Mapping[str, int] = field(default_factory=dict)
    concurrency: int = 500
    threads: int = 16
    processes: int = 2
    lease: Duration = 15.0
    hold: Duration = 1.0
    drain: Duration = 30.0
    retention: Retention = field(default_factory=Retention)
    limits: Limits = field(default_factory=Limits)
    definitions: bool = True
    served: tuple[str, ...] = field(init=False)
    lease_ms: int = field(init=False)
    hold_ms: int = field(init=False)

    def __post_init__(self) -> None:
        if self.mode not in ("all", "client", "worker", "serve"):
            raise UsageError(f"mode: {self.mode!r} must be 'all', 'client', 'worker' or 'serve'")
        if not self.queues:
            raise UsageError("queues: name at least one")
        for queue in self.queues:
            check_name(queue, "queue")
        for queue, most in self.per_queue.items():
            if isinstance(most, bool) or not isinstance(most, int) or most < 1:
                raise UsageError(f"queues: {queue!r}: {most!r} must be a whole number, at least 1")
        for name in ("concurrency", "threads", "processes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name}: {value!r} must be a whole number, at least 1")
        if seconds(self.lease, field="lease") < 1:
            raise UsageError(f"lease: {self.lease!r} must be at least one second")
        Retention.check(self.retention, "retention")
        seconds(self.drain, field="drain")
        object.__setattr__(self, "served", (*self.queues, *map(queue_of_schedules, self.queues)))
        object.__setattr__(self, "lease_ms", milliseconds(self.lease))
        object.__setattr__(self, "hold_ms", milliseconds(self.hold, field="hold"))


def bounded(queues: Iterable[str] | Mapping[str, int | None]) -> dict[str, int]:
    """Return how many runs of each queue a worker has in hand at once, for those where `queues` says so."""
    pairs = queues.items() if isinstance(queues, Mapping) else ()
    return {queue: most for queue, most in pairs if most is not None}


def queue_of_schedules(queue: str) -> str:
    """Return the queue of the schedules that start runs in a queue: they take no place there, nor wait for one."""
    return f"{SCHEDULES}{queue}"


def whose_workers(queue: str) -> str:
    """Return the queue that workers are given to serve this one."""
    return queue.removeprefix(SCHEDULES)
