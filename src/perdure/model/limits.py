"""Every bound the engine keeps, with its default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from perdure.model.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds; passing one is an error of its own name (see `perdure.model.errors`).

    Args:
        payload_bytes: the size of one stored value (an input, a result, an event), in bytes of JSON.
        journal_records: how many records a run may write before it has to `flow.continue_as_new`. Failed attempts
            and steps inside steps come on top of it.
        fan_out: how many steps, timers, events and children a run may wait for at once.
        nesting: how deep steps may stand inside steps, and children under children.
        inbox_messages: how many unread messages a run may have.
        crashes: how often in a row a run may take its worker down before it is parked.
    """

    payload_bytes: int = 1_048_576
    journal_records: int = 50_000
    fan_out: int = 10_000
    nesting: int = 16
    inbox_messages: int = 10_000
    crashes: int = 5

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"limits.{bound.name}: {value!r} must be a whole number, at least 1")


START_BATCH = 1_000
"""How many runs `start_many` writes in one store operation; longer lists are cut into such batches."""

CREATE_BATCH = 100
"""How many runs `create_batch` takes in one call."""

NAME_LENGTH = 200
"""Characters in the name of a workflow, step, queue, event type or tag, and in a run's id."""

TAGS = 100
"""How many tags a run may carry."""

DOCUMENT_BYTES = 262_144
"""The size of one document's text, in bytes of UTF-8."""
