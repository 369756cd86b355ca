"""Whether what a client asks of a store is fit for it: each value within its bounds, and nothing that workers alone do.

Engines check what their users give them, but whoever speaks to a server may be none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.authoring.enqueuing import check_limit_key, check_priority, check_tags
from perdure.authoring.graphs.definition import Definition
from perdure.core.saga import CANCEL, DECISION, RESERVED
from perdure.engine.client.controlling import TOLD_AT_ONCE
from perdure.engine.definitions import check
from perdure.engine.limiting import LIMITED_KEYS, checked_key_limits, checked_limits
from perdure.engine.settings import Settings, whose_workers
from perdure.engine.telemetry import TRACEPARENT
from perdure.model import codec
from perdure.model.decision import Action, Control, Message, RunFilter, StoredDefinition
from perdure.model.document import require_puttable
from perdure.model.errors import DefinitionError, JournalTooLongError, PayloadTooLargeError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.queue import MOST_PER_PERIOD, QueueLimits, Rate
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import NewRun
from perdure.server.access import Access
from perdure.server.api.models import ID_LENGTH
from perdure.store.operations import DOCUMENTS, MOST, RECORDS

APART_MS = 600_000
"""By how many milliseconds the time that a client gives may differ from the server's."""

FURTHEST_MS = 101 * 366 * 86_400_000
"""How many milliseconds ahead a run may be due, or be kept after its end."""

KEY_LENGTH = 10_000
"""How long the key of a record may be."""

FINGERPRINT_LENGTH = 20_000
"""How long a fingerprint may be: that of a fork of a fork holds those before it."""

NOTICE_BYTES = 65_536
"""The size of what a parent is told of its child's end."""

DEFINED_AT_ONCE = 20
"""How many definitions one request may publish."""

_GREATEST = 2**63 - 1


async def require_storable(access: Access, name: str, arguments: Any) -> None:
    """Refuse what must not reach a store.

    Args:
        access: who asks.
        name: of the operation.
        arguments: as they were read.

    Raises:
        UsageError: a value is wrong; the message begins with its path.
    """
    if (look := CHECKS.get(name)) is not None:
        await look(access, arguments)


async def _create(access: Access, given: Any) -> None:
    _few(given.runs, "runs")
    now, settings = access.app.world.now(), access.app.settings
    for number, new in enumerate(given.runs):
        _new_run(new, f"runs[{number}]", now, settings)


async def _post(access: Access, given: Any) -> None:
    _few(given.messages, "messages")
    now = access.app.world.now()
    _present(given.now, "now", now)
    _between(given.capacity, "capacity", 1, _GREATEST)
    for number, message in enumerate(given.messages):
        _message(message, f"messages[{number}]", now, access.app.settings)


async def _control(access: Access, given: Any) -> None:
    _few(given.actions, "actions")
    now = access.app.world.now()
    _present(given.now, "now", now)
    for number, action in enumerate(given.actions):
        _action(action, f"actions[{number}]", now, access.app.settings)


async def _prune(access: Access, given: Any) -> None:
    _between(given.before, "before", -_GREATEST, access.app.world.now() + APART_MS)
    _between(given.limit, "limit", 1, MOST)


async def _get(access: Access, given: Any) -> None:
    _few(given.run_ids, "run_ids")
    for number, run_id in enumerate(given.run_ids):
        _text(run_id, f"run_ids[{number}]", ID_LENGTH)


async def _journal(access: Access, given: Any) -> None:
    _text(given.run_id, "run_id", ID_LENGTH)
    _between(given.after, "after", -1, _GREATEST)
    _between(0 if given.limit is None else given.limit, "limit", 1, RECORDS)


async def _inbox(access: Access, given: Any) -> None:
    _text(given.run_id, "run_id", ID_LENGTH)


async def _find(access: Access, given: Any) -> None:
    where: RunFilter = given.where
    for field in ("workflow", "queue", "parent_id", "id_prefix"):
        if (text := getattr(where, field)) is not None:
            _text(text, f"where.{field}", ID_LENGTH, least=0)
    check_tags(where.tags, "where.tags")
    for field in ("created_from", "created_until"):
        _between(getattr(where, field) or 0, f"where.{field}", -_GREATEST, _GREATEST)
    _between(given.limit, "limit", 1, MOST)
    if given.cursor is not None:
        _text(given.cursor, "cursor", NAME_LENGTH)


async def _stats(access: Access, given: Any) -> None:
    _between(given.now, "now", 0, _GREATEST)


async def _publish(access: Access, given: Any) -> None:
    _few(given.entries, "entries", DEFINED_AT_ONCE)


async def _define(access: Access, given: Any) -> None:
    _few(given.definitions, "definitions", DEFINED_AT_ONCE)
    now = access.app.world.now()
    for number, definition in enumerate(given.definitions):
        await _definition(access, definition, f"definitions[{number}]", now)


async def _put(access: Access, given: Any) -> None:
    _few(given.documents, "documents", DOCUMENTS)
    require_puttable(given.documents)
    for number, document in enumerate(given.documents):
        _between(document.revision, f"documents[{number}].revision", 0, _GREATEST)
        _between(document.at, f"documents[{number}].at", 0, _GREATEST)


async def _read(access: Access, given: Any) -> None:
    _text(given.collection, "collection")
    _few(given.keys, "keys", DOCUMENTS)
    for number, key in enumerate(given.keys):
        _text(key, f"keys[{number}]")


async def _documents(access: Access, given: Any) -> None:
    _text(given.collection, "collection")
    _between(given.limit, "limit", 1, DOCUMENTS)
    if given.after is not None:
        _text(given.after, "after", least=0)


async def _set_queue(access: Access, given: Any) -> None:
    state = given.state
    _queue(state.name, "state.name")
    _between(state.version, "state.version", 1, _GREATEST)
    _between(state.turns, "state.turns", 0, _GREATEST)
    for field in ("limits", "declared"):
        _limits(state.name, getattr(state, field), f"state.{field}")


async def _look_into(access: Access, given: Any) -> None:
    _queue(given.queue, "queue")
    _between(given.now, "now", 0, _GREATEST)
    _between(given.keys, "keys", 1, MOST)
    _between(given.each, "each", 1, MOST // given.keys)
    if given.after is not None:
        _text(given.after, "after", least=0)
    for number, workflow in enumerate(given.workflows or ()):
        _text(workflow, f"workflows[{number}]")


CHECKS: Mapping[str, Callable[[Access, Any], Awaitable[None]]] = {
    "create": _create,
    "post": _post,
    "control": _control,
    "prune": _prune,
    "get": _get,
    "journal": _journal,
    "inbox": _inbox,
    "find": _find,
    "stats": _stats,
    "publish": _publish,
    "define": _define,
    "put": _put,
    "read": _read,
    "documents": _documents,
    "set_queue": _set_queue,
    "look_into": _look_into,
}
"""What is looked at, for each operation that takes anything."""


def _new_run(new: NewRun, path: str, now: int, settings: Settings) -> None:
    _text(new.id, f"{path}.id", ID_LENGTH)
    check_name(new.workflow, f"{path}.workflow")
    _queue(new.queue, f"{path}.queue")
    _text(new.version, f"{path}.version", least=0)
    _text(new.fingerprint, f"{path}.fingerprint", FINGERPRINT_LENGTH, least=0)
    check_priority(new.priority, f"{path}.priority")
    check_limit_key(new.limit_key, f"{path}.limit_key")
    check_tags(new.tags, f"{path}.tags")
    _present(new.created_at, f"{path}.created_at", now)
    _between(new.due_at, f"{path}.due_at", new.created_at - APART_MS, now + FURTHEST_MS)
    for age in (new.retention.complete, new.retention.errored, new.retention.terminated):
        _between(age or 0, f"{path}.retention", -FURTHEST_MS, FURTHEST_MS)
    if new.worker is not None:
        raise UsageError(f"{path}.worker: a server hands out no work over HTTP; leave it out")
    if (new.parent_id, new.parent_key, new.refusal) != (None, None, None) or new.is_detached or new.depth:
        raise UsageError(f"{path}.parent_id: only a run's own code has children; start it without a parent")
    if new.dedup is not None:
        _text(new.dedup.key, f"{path}.dedup.key", 2 * NAME_LENGTH + 1)
        for field in ("until", "latest_due_at"):
            _between(getattr(new.dedup, field) or 0, f"{path}.dedup.{field}", 0, now + FURTHEST_MS)
    _records(new.records, f"{path}.records", now, settings)


def _records(records: Sequence[Record], path: str, now: int, settings: Settings) -> None:
    if not records or (records[0].kind, records[0].state) != ("input", "ok"):
        raise UsageError(f"{path}: the first record must be the input")
    if len(records) > settings.limits.journal_records:
        raise JournalTooLongError(
            f"{path}: {len(records):,} records, over Limits.journal_records = {settings.limits.journal_records:,}"
        )
    for number, record in enumerate(records):
        place = f"{path}[{number}]"
        if record.position != number:
            raise UsageError(f"{place}.position: it must be {number}, as its place in the list")
        is_input = record.kind == "input"
        if is_input != (number == 0) or record.kind in ("output", "undo") or record.state == "open":
            raise UsageError(f"{place}.kind: a run begins with its input, and with what is settled ahead of a step")
        _text(record.key, f"{place}.key", KEY_LENGTH)
        _between(record.at, f"{place}.at", 0, now + APART_MS)
        _between(record.attempt, f"{place}.attempt", 1, _GREATEST)
        for field in ("started_at", "due_at"):
            _between(getattr(record, field) or 0, f"{place}.{field}", 0, now + FURTHEST_MS)
        if record.before is not None:
            _between(record.before, f"{place}.before", 0, len(records))
        if record.ref is not None:
            _text(record.ref, f"{place}.ref", ID_LENGTH)
        _payload(record.payload, f"{place}.payload", settings)


def _message(message: Message, path: str, now: int, settings: Settings) -> None:
    _text(message.run_id, f"{path}.run_id", ID_LENGTH)
    _text(message.id, f"{path}.id")
    _text(message.type, f"{path}.type")
    _present(message.at, f"{path}.at", now)
    if message.kind != "event" or message.state != "ok" or message.seq:
        raise UsageError(f"{path}.kind: clients send events; how children end, workers tell")
    if message.ref is not None and not TRACEPARENT.fullmatch(message.ref):
        raise UsageError(f"{path}.ref: {message.ref[:NAME_LENGTH]!r} must be a traceparent, as in W3C Trace Context")
    _payload(message.payload, f"{path}.payload", settings)
    if message.type.startswith(RESERVED) and message.type not in (CANCEL, DECISION):
        raise UsageError(f"{path}.type: {message.type!r} begins with {RESERVED!r}, which is kept for Perdure")
    if message.type == DECISION:
        _decision(message.payload, f"{path}.payload")


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of failed undos, as an operator decides.

    Attributes:
        verb: `retry` or `done`.
        key: of the undo; None for all that failed.
        reason: why.
    """

    verb: str
    key: str | None = None
    reason: str | None = None


def _decision(payload: str | None, path: str) -> None:
    try:
        verdict = msgspec.json.decode(payload or "", type=Verdict)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path}: {error}") from None
    if verdict.verb not in ("retry", "done"):
        raise UsageError(f"{path}.verb: {verdict.verb!r} must be 'retry' or 'done'")


def _action(action: Control, path: str, now: int, settings: Settings) -> None:
    _text(action.run_id, f"{path}.run_id", ID_LENGTH)
    if action.notice is not None:
        if action.action is not Action.TERMINATE or len(action.notice) > NOTICE_BYTES:
            raise UsageError(f"{path}.notice: it goes with terminate, and has at most {NOTICE_BYTES:,} bytes")
        try:
            msgspec.json.decode(action.notice, type=ErrorInfo)
        except msgspec.MsgspecError as error:
            raise UsageError(f"{path}.notice: {error}") from None
    if action.told is None:
        return
    if action.action not in (Action.TERMINATE, Action.RESTART) or len(action.told) > TOLD_AT_ONCE:
        raise UsageError(f"{path}.told: it goes with terminate and restart, and names at most {TOLD_AT_ONCE:,} runs")
    for run_id, news in action.told.items():
        _text(run_id, f"{path}.told", ID_LENGTH)
        _few(news, f"{path}.told")
        for new in news:
            _new_run(new, f"{path}.told", now, settings)
            if not new.id.startswith(f"{run_id}/") or new.dedup is not None:
                raise UsageError(f"{path}.told: the ids of what is created begin with the run's, and have no dedup key")


async def _definition(access: Access, definition: StoredDefinition, path: str, now: int) -> None:
    _present(definition.created_at, f"{path}.created_at", now)
    try:
        found = Definition.of_stored(definition)
    except DefinitionError:
        raise DefinitionError(f"{path}.text: it is no definition as the store keeps it") from None
    if (found.name, found.version) != (definition.name, definition.version):
        raise DefinitionError(f"{path}.name: the text is of another name, or version")
    await check(access.app.client, found, is_anyway=True)


def _limits(queue: str, limits: QueueLimits, path: str) -> None:
    checked_limits(queue, limits.concurrency, limits.per_key, limits.rate, limits.is_fair)
    for field in ("concurrency", "per_key"):
        _between(getattr(limits, field) or 1, f"{path}.{field}", 1, _GREATEST)
    _rate(limits.rate, f"{path}.rate")
    _between(len(limits.own), f"{path}.own", 0, LIMITED_KEYS)
    for key, own in limits.own.items():
        checked_key_limits(queue, key, own)
        _between(own.concurrency or 1, f"{path}.own.{key}.concurrency", 1, _GREATEST)
        _rate(own.rate, f"{path}.own.{key}.rate")


def _rate(rate: Rate | None, path: str) -> None:
    if rate is not None:
        _between(rate.count, f"{path}.count", 1, MOST_PER_PERIOD)
        _between(rate.period_ms, f"{path}.period_ms", 1, FURTHEST_MS)


def _payload(payload: str | None, path: str, settings: Settings) -> None:
    if payload is None:
        return
    most = settings.limits.payload_bytes
    if len(payload) > most or len(payload.encode()) > most:
        raise PayloadTooLargeError(f"{path}: it is longer than Limits.payload_bytes = {most:,}")
    try:
        codec.decode_any(payload)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _queue(name: str, path: str) -> None:
    check_name(whose_workers(name), path)


def _text(text: str, path: str, most: int = NAME_LENGTH, least: int = 1) -> None:
    if not least <= len(text) <= most or not text.isprintable():
        raise UsageError(f"{path}: {text[:NAME_LENGTH]!r} must be printable text of {least} to {most:,} characters")


def _few(items: Sequence[object], path: str, most: int = MOST) -> None:
    if len(items) > most:
        raise UsageError(f"{path}: {len(items):,} are more than {most:,}; ask for them in parts")


def _between(number: int, path: str, least: int, most: int) -> None:
    if not least <= number <= most:
        raise UsageError(f"{path}: {number} must be from {least} to {most}")


def _present(at: int, path: str, now: int) -> None:
    if abs(at - now) > APART_MS:
        raise UsageError(f"{path}: {at} is not the present, {now} (milliseconds since 1970): set the clock")
