"""Failed runs by what they failed with: the latest of them, those alike put together."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from perdure.engine.app import Perdure
from perdure.model import failure
from perdure.model.decision import RunFilter
from perdure.model.errors import PerdureError
from perdure.model.record import ErrorInfo
from perdure.model.redaction import Redaction
from perdure.model.run import Run
from perdure.server.portions import with_errors
from perdure.server.shown import FAILED

LOOKED_AT = 500
"""How many failed runs are looked at, latest created first."""

SAMPLES = 5
"""How many runs of each cause are named."""

MESSAGE = 300
"""How many characters of a message are compared, and told."""

_IDS = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,27}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|0x[0-9a-f]+", re.IGNORECASE
)
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")


class Cause(msgspec.Struct, frozen=True):
    """What runs failed with.

    Attributes:
        workflow: whose runs they are.
        type: the class of the error.
        step: the step that failed; empty where none is named.
        message: of the error, with `…` in the place of numbers and ids.
        example: the message of the latest one, as it is.
        count: how many of the runs that were looked at.
        first_at, last_at: when the first and the last of them ended, in milliseconds since the epoch.
        runs: the ids of some, latest first.
    """

    workflow: str
    type: str
    step: str
    message: str
    example: str
    count: int
    first_at: int
    last_at: int
    runs: tuple[str, ...]


class Causes(msgspec.Struct, frozen=True):
    """Causes, those with most runs first.

    Attributes:
        causes: what was found.
        looked_at: how many failed runs that is of.
        are_all: there are no more.
        since: when the oldest of them was created, in milliseconds since the epoch; None for none.
    """

    causes: tuple[Cause, ...]
    looked_at: int
    are_all: bool
    since: int | None


async def find_causes(
    app: Perdure, redaction: Redaction, workflow: str | None = None, limit: int = LOOKED_AT
) -> Causes:
    """Return what the latest failed runs failed with.

    Args:
        app: an engine on their store.
        redaction: what is masked in errors.
        workflow: of this one alone; None for all.
        limit: how many runs are looked at.
    """
    page = await app.client.find(RunFilter(FAILED, workflow), limit, None)
    groups: dict[tuple[str, str, str, str], list[tuple[Run, str]]] = {}
    for run in await with_errors(app.store, page.runs, redaction):
        if run.output is not None and run.status in FAILED:
            step, error = _deepest(run.output)
            key = run.workflow, error.type.rpartition(":")[2], step, masked(error.message)
            groups.setdefault(key, []).append((run, error.message[:MESSAGE]))
    found = [_cause(key, members) for key, members in groups.items()]
    found.sort(key=lambda cause: (-cause.count, -cause.last_at))
    since = page.runs[-1].created_at if page.runs else None
    return Causes(tuple(found), len(page.runs), page.cursor is None, since)


def masked(message: str) -> str:
    """Return a message without what differs from one time to the next."""
    return _NUMBERS.sub("…", _IDS.sub("…", message[:MESSAGE]))


def _deepest(output: str) -> tuple[str, ErrorInfo]:
    """Return the step that failed, and the error that all others were raised from."""
    try:
        error = failure.decode_error(output)
    except (msgspec.DecodeError, PerdureError):
        return "", ErrorInfo("unreadable", "what it failed with cannot be read")
    step = error.step
    while error.cause is not None:
        error = error.cause
        step = step or error.step
    return step, error


def _cause(key: tuple[str, str, str, str], members: Sequence[tuple[Run, str]]) -> Cause:
    ended = [run.finished_at or run.updated_at for run, _ in members]
    latest = max(range(len(members)), key=ended.__getitem__)
    runs = tuple(run.id for run, _ in members[:SAMPLES])
    return Cause(*key, members[latest][1], len(members), min(ended), max(ended), runs)
