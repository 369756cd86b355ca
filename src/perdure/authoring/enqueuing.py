"""How runs are put on a queue: once for each key, after a pause, in batches; and the checks of their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError
from perdure.model.limits import NAME_LENGTH, TAGS
from perdure.model.run import Retention

HIGHEST_PRIORITY = 1_000_000

BATCH_ITEMS = 10_000
"""How many items a batch may have."""


@dataclass(frozen=True, slots=True)
class Dedup:
    """Starts one run for all that are enqueued under a key; who comes later gets the first one's handle.

    Args:
        key: what they have in common; it counts for one task or workflow.
        within: for how long (a duration) after the first, which is kept for that time at least; as long as that has
            not ended by default.

    Raises:
        UsageError: the key is no text, or too long.
    """

    key: str
    within: Duration | None = None

    def __post_init__(self) -> None:
        check_text(self.key, "dedup key")
        if self.within is not None:
            seconds(self.within, field="dedup within")


@dataclass(frozen=True, slots=True)
class Debounce:
    """Begins one run for all that are enqueued under a key, with the last one's arguments, once there is a pause.

    Args:
        wait: how long (a duration) nothing more may have been enqueued.
        key: what they have in common; it counts for one task or workflow.
        max_wait: after what time (a duration) the run is due even if more keeps coming; None for no bound.

    Raises:
        UsageError: the key is no text or too long, or `max_wait` is shorter than `wait`.
    """

    wait: Duration
    key: str
    max_wait: Duration | None = None

    def __post_init__(self) -> None:
        check_text(self.key, "debounce key")
        wait = seconds(self.wait, field="debounce wait")
        if self.max_wait is not None and seconds(self.max_wait, field="debounce max_wait") < wait:
            raise UsageError(f"debounce max_wait: {self.max_wait!r} must not be shorter than wait, {self.wait!r}")


@dataclass(frozen=True, slots=True)
class Batch:
    """How a task's calls are gathered: its function takes a list of what `enqueue` takes one of.

    Args:
        max: how many items one call of the function takes at most.
        wait: how long (a duration) the first item waits for others.
        key: what is gathered together: a function of the item; everything by default.

    Raises:
        UsageError: `max` is no whole number from 1 to 10,000.
    """

    max: int = 100
    wait: Duration = 1.0
    key: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or not isinstance(self.max, int) or not 1 <= self.max <= BATCH_ITEMS:
            raise UsageError(f"batch max: {self.max!r} must be a whole number from 1 to {BATCH_ITEMS:,}")
        seconds(self.wait, field="batch wait")


class StartOptions(TypedDict, total=False):
    """What can be asked for of a run that is started; see `Task.options`. None asks for nothing."""

    id: str | None
    queue: str | None
    priority: int | None
    delay: Duration | None
    expires: Duration | None
    tags: Mapping[str, str] | None
    retention: Retention | None
    limit_key: str | None
    dedup: Dedup | None
    debounce: Debounce | None
    tx: Any


def check_priority(value: object, field: str) -> int:
    """Return a run's priority.

    Raises:
        UsageError: it is out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > HIGHEST_PRIORITY:
        raise UsageError(f"{field}: {value!r} must be a whole number of at most {HIGHEST_PRIORITY:,}, either way")
    return value


def check_text(value: object, field: str) -> str:
    """Return a run's id, or a key that runs are found by.

    Raises:
        UsageError: it is no text, empty, too long or not printable.
    """
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LENGTH or not value.isprintable():
        raise UsageError(f"{field}: {value!r} must be printable text of 1 to {NAME_LENGTH} characters")
    return value


def check_tags(value: Mapping[str, str], field: str) -> dict[str, str]:
    """Return a run's tags.

    Raises:
        UsageError: they are too many, or one is no text, too long, not printable or without a name.
    """
    if len(value) > TAGS:
        raise UsageError(f"{field}: {len(value)} tags, over {TAGS}")
    for name, tag in value.items():
        for text in (name, tag):
            if not isinstance(text, str) or len(text) > NAME_LENGTH or not name or not text.isprintable():
                raise UsageError(
                    f"{field}: {name!r}={tag!r} must be printable text of up to {NAME_LENGTH} characters, with a name"
                )
    return dict(value)


def check_limit_key(value: object, field: str) -> str:
    """Return what a run counts as under its queue's limits per key.

    Raises:
        UsageError: it is no text, too long or not printable.
    """
    if not isinstance(value, str) or len(value) > NAME_LENGTH or (value and not value.isprintable()):
        raise UsageError(f"{field}: {value!r} must be printable text of at most {NAME_LENGTH} characters")
    return value
