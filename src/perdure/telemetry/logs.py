"""Logs that say which run, workflow, step and attempt they come from, and say nothing twice.

Workflow code is replayed, and what it logs would be logged again each time. What it logged before, in a turn of this
worker or of another, is left out.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog
from structlog.typing import EventDict

from perdure.authoring.context import current_step, where_it_runs
from perdure.core.loop import running
from perdure.engine.lifecycle import has_begun
from perdure.model.redaction import Redaction

SECRETS = Redaction(
    (
        *("password", "passwd", "passphrase", "secret", "client_secret", "token", "access_token", "refresh_token"),
        *("api_key", "authorization", "cookie", "set_cookie", "private_key", "encryption_keys", "credentials", "dsn"),
    )
)
"""What is masked in every log, wherever it stands as a named field."""

FIELDS = ("run_id", "workflow", "step", "attempt", "trace_id", "span_id")
"""What a line may say of where it is from."""

_KEPT = ("exc_info", "stack_info", "_record", "_from_structlog")


def run_context() -> dict[str, Any]:
    """Return where the running code stands, for logs: `run_id` and `workflow`, and in a step `step` and `attempt`.

    In a step that OpenTelemetry watches there are `trace_id` and `span_id`, too, as its logs have them.
    """
    loop = running()
    if loop is not None:
        run = loop.replay.run
        return {"run_id": run.id, "workflow": run.workflow}
    step = current_step.get()
    return {} if step is None else where_it_runs(step)


def is_repeating() -> bool:
    """Return whether the running code is workflow code that an earlier turn of its run came past already."""
    loop = running()
    if loop is None:
        return False
    replay = loop.replay
    length = replay.history.length
    return replay.is_replaying or (replay.position == length and (length > 1 or has_begun(replay.run)))


class RunContext(logging.Filter):
    """A filter for handlers of the standard library's logging: adds `run_context`, and drops what is repeated.

    Args:
        default: what the attributes of a record are that comes from no run, so that a format may name them; without
            it they are not there.
    """

    def __init__(self, default: str | None = None) -> None:
        super().__init__()
        self._default = {} if default is None else dict.fromkeys(FIELDS, default)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record through, unless it is repeated."""
        if is_repeating():
            return False
        for name, value in (self._default | run_context()).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def add_run_context(logger: object, method: str, event: EventDict) -> EventDict:
    """Do as `RunContext` does, as a processor of structlog.

    Raises:
        DropEvent: the event is repeated.
    """
    if is_repeating():
        raise structlog.DropEvent
    return {**run_context(), **event}


class Masking:
    """A processor of structlog that masks secrets.

    Args:
        fields: further ones, beside `SECRETS`.
    """

    def __init__(self, fields: tuple[str, ...] = ()) -> None:
        self._redaction = Redaction((*SECRETS.fields, *fields))

    def __call__(self, logger: object, method: str, event: EventDict) -> EventDict:
        """Return the event with its secrets masked."""
        kept = {name: event[name] for name in _KEPT if name in event}
        masked: EventDict = self._redaction.value({name: value for name, value in event.items() if name not in kept})
        return {**masked, **kept}
