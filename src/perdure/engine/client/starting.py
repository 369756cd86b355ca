"""From the arguments of `start` to the run that is to be created, checked field by field.

A workflow that is given by name and not registered here is looked up among what workers have announced.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from perdure.authoring.announcing import GRAPHS
from perdure.authoring.enqueuing import check_limit_key, check_priority, check_tags, check_text
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.registry import Registry
from perdure.authoring.schemas import as_arguments, input_of, misfits, whole
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.engine.env import Env, new_id
from perdure.engine.lifecycle import OURS
from perdure.engine.settings import Settings
from perdure.model import codec
from perdure.model.decision import CatalogEntry
from perdure.model.duration import Duration, milliseconds
from perdure.model.errors import SerializationError, UnknownWorkflowError, UsageError
from perdure.model.name import check_name
from perdure.model.record import Record
from perdure.model.run import Dedup, NewRun, Retention
from perdure.store.contract import Store

_OPTIONS = {
    "id", "priority", "delay", "tags", "retention", "queue", "input", "anyway", "tx",
    "expires", "limit_key", "dedup", "debounce",
}  # fmt: skip

DEDUP_SHOWN = 60
"""How many characters of a workflow's name the id of a deduplicated run begins with."""

CATALOG_KEPT_MS = 5_000
"""How long the store's catalog is believed, in milliseconds, for what it has."""

READ_KEPT = 1_000
"""How many texts of the catalog are kept as they were read."""

NAMES_TOLD = 10

_log = logging.getLogger("perdure.engine")


class Announced:
    """What workers have announced, read from the store now and then."""

    def __init__(self, store: Store, registry: Registry, env: Env) -> None:
        self._store = store
        self._registry = registry
        self._env = env
        self._catalog: dict[str, list[CatalogEntry]] = {}
        self._read_at: int | None = None

    async def look(self, workflow: object, options: Mapping[str, Any]) -> CatalogEntry | None:
        """Return what `start` has to know of a workflow that is given by name and not registered here.

        Raises:
            UnknownWorkflowError: see `entry`; not with the option `anyway`.
        """
        if not isinstance(workflow, str) or workflow in self._registry.workflows:
            return None
        try:
            return await self.entry(workflow)
        except UnknownWorkflowError as error:
            if options.get("anyway"):
                return None
            raise UnknownWorkflowError(f"{error} (anyway=True starts it)") from None

    async def fitting(
        self, announced: CatalogEntry | None, given: Any, options: Mapping[str, Any], limit: int
    ) -> CatalogEntry | None:
        """Return the version of a workflow that takes an input, of those that are at work: the one announced last.

        In doubt it does. Without a worker that has the workflow, or with the option `anyway`, it is not looked at.

        Args:
            announced: what was found of the workflow; None for nothing.
            given: the input.
            options: of the start.
            limit: the greatest length of an input, in bytes.

        Raises:
            SerializationError: it fits none of them; what is wrong for the one announced last, each with its path.
        """
        if announced is None or options.get("anyway"):
            return announced
        name = announced.workflow
        plain = codec.decode_any(codec.encode({} if given is None else given, f"the input of workflow {name!r}", limit))
        entry, found = self._choose(announced, plain)
        if found:  # another version may have come since
            await self._read()
            entry, found = self._choose(announced, plain)
        if found:
            told = "; ".join(found)
            raise SerializationError(
                f"the input of workflow {name!r} does not fit what its workers take: {told}", found
            )
        return entry

    def _choose(self, announced: CatalogEntry, given: Any) -> tuple[CatalogEntry, Sequence[str]]:
        wrong: Sequence[str] = ()
        for entry in self._catalog.get(announced.workflow, ()):
            if not entry.worker or self._env.now() - entry.seen_at > WORKER_GONE_AFTER:
                continue
            found = _misfits(entry, given)
            if not found:
                return entry, ()
            wrong = wrong or found
        return announced, wrong

    async def entry(self, workflow: str) -> CatalogEntry | None:
        """Return what was last announced of a workflow; None where nothing was.

        Raises:
            UnknownWorkflowError: it is not registered here either, and workers have announced others.
        """
        check_name(workflow, "workflow name")
        is_read = False
        if not self._is_fresh():
            await self._read()
            is_read = True
        entry = self._latest(workflow)
        if entry is not None or workflow in self._registry.workflows or not self._catalog:
            return entry
        if not is_read:  # it may have been announced since
            await self._read()
            entry = self._latest(workflow)
        if entry is None:
            known = sorted(self._catalog.keys() | self._registry.workflows.keys())
            close = get_close_matches(workflow, known, 1)
            advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known[:NAMES_TOLD])}"
            raise UnknownWorkflowError(f"no worker has announced workflow {workflow!r}; {advice}")
        return entry

    async def entries(self) -> list[CatalogEntry]:
        """Return the catalog as it was a few seconds ago at most, what was announced last first."""
        if not self._is_fresh():
            await self._read()
        every = (entry for entries in self._catalog.values() for entry in entries)
        return sorted(every, key=lambda entry: entry.seen_at, reverse=True)

    def _is_fresh(self) -> bool:
        return self._read_at is not None and 0 <= self._env.now() - self._read_at < CATALOG_KEPT_MS

    async def _read(self) -> None:
        catalog: dict[str, list[CatalogEntry]] = {}
        for entry in sorted(await self._store.catalog(), key=lambda entry: entry.seen_at, reverse=True):
            catalog.setdefault(entry.workflow, []).append(entry)
        self._catalog, self._read_at = catalog, self._env.now()

    def _latest(self, workflow: str) -> CatalogEntry | None:
        return next(iter(self._catalog.get(workflow, ())), None)


def warn_of_queues(registry: Registry, settings: Settings) -> None:
    """Log which workflows' runs a worker of these settings leaves to others; definitions are everybody's."""
    left = {
        name: workflow.queue
        for name, workflow in sorted(registry.workflows.items())
        if workflow.queue not in settings.queues and not name.startswith(OURS) and not registry.has_defined(name)
    }
    if left:
        _log.warning(
            "this worker serves queues %s: runs of %s wait for others, in %s",
            ", ".join(map(repr, settings.queues)),
            ", ".join(left),
            ", ".join(map(repr, sorted(set(left.values())))),
        )


def new_run(
    registry: Registry,
    settings: Settings,
    env: Env,
    workflow: Any,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    announced: CatalogEntry | None = None,
) -> tuple[Workflow[..., Any] | None, NewRun]:
    """Return the run that a call of `start` asks for, and its workflow where it is known here.

    Where it is not, its version and its queue are those that were announced.

    Raises:
        UsageError: an option is unknown or out of its range. SerializationError: the arguments cannot be stored.
    """
    if settings.mode == "worker":
        raise UsageError("mode='worker' only works runs; start them from mode='client' or 'all'")
    if unknown := set(options) - _OPTIONS:
        raise UsageError(f"start: unknown option {min(unknown)!r}; known: {', '.join(sorted(_OPTIONS))}")
    given = {} if options.get("input") is None else options["input"]
    if isinstance(workflow, str):
        given = by_name(registry, workflow, given, announced, settings.limits.payload_bytes)
    name, found, payload = _what(registry, settings.limits.payload_bytes, workflow, args, given)
    about = found or announced
    now = env.now()
    due_at, dedup = _when(name, options, now)
    expires_at = _expiry(options.get("expires"), found, announced, due_at)
    return found, NewRun(
        id=_run_id(options.get("id"), env, dedup),
        workflow=name,
        created_at=now,
        due_at=due_at,
        records=(Record(0, "input", "input", "ok", now, payload, due_at=expires_at),),
        version=about.version if about else "",
        queue=check_name(options.get("queue") or (about.queue if about else "default"), "queue"),
        priority=_priority(options.get("priority"), found, announced),
        fingerprint=fingerprint(name, payload),
        tags=check_tags(options.get("tags") or {}, "tags"),
        retention=_retention(options.get("retention"), found, settings, dedup, now),
        limit_key=_limit_key(options.get("limit_key"), found, workflow, args, given, payload),
        dedup=dedup,
    )


def _when(name: str, options: Mapping[str, Any], now: int) -> tuple[int, Dedup | None]:
    """Return when a run is due, and what it must not be there twice as."""
    delay, once, pause = (options.get(option) for option in ("delay", "dedup", "debounce"))
    if (once is not None or pause is not None) and options.get("id") is not None:
        raise UsageError("id: it cannot go with dedup or debounce, by whose key the run is found")
    if pause is not None:
        if once is not None or delay is not None:
            raise UsageError("debounce: it cannot go with dedup, nor with delay; it says when the run is due itself")
        wait = milliseconds(pause.wait, field="debounce wait")
        longest = None if pause.max_wait is None else now + milliseconds(pause.max_wait, field="debounce max_wait")
        return now + wait, Dedup(_dedup_key(name, pause.key), is_replacing=True, latest_due_at=longest)
    due_at = now if delay is None else now + milliseconds(delay, field="delay")
    if once is None:
        return due_at, None
    until = None if once.within is None else now + milliseconds(once.within, field="dedup within")
    return due_at, Dedup(_dedup_key(name, once.key), until)


def _dedup_key(name: str, key: str) -> str:
    return f"{name}/{key}"


def _retention(
    asked: object, found: Workflow[..., Any] | None, settings: Settings, dedup: Dedup | None, now: int
) -> Retention:
    """Return how long a run is kept: as long as it is to stand for others, whatever is wanted."""
    if asked is not None:
        wanted = Retention.check(asked, "retention")
    else:
        wanted = (found and found.retention) or settings.retention
    return wanted if dedup is None or dedup.until is None else wanted.of_at_least(dedup.until - now)


def _expiry(
    expires: Duration | None, found: Workflow[..., Any] | None, announced: CatalogEntry | None, due_at: int
) -> int | None:
    """Return until when a run has to be begun, in milliseconds since the epoch; None for no bound."""
    if expires is not None:
        return due_at + milliseconds(expires, field="expires")
    age = found.expires_ms if found is not None else _told(announced).get("expires_ms")
    return None if age is None else due_at + age


def _misfits(entry: CatalogEntry, given: Any) -> Sequence[str]:
    """Return what is wrong with an input by what was announced; see `by_name` for definitions."""
    told, schema = _told(entry), _read(entry.input_schema)
    kind = told.get("kind")
    if kind == "definition":
        return ()
    if not told.get("is_asked_of_schema"):
        return misfits(schema, given, is_value=kind in GRAPHS)
    try:
        InputSchema(schema, is_stored=True).taken(given, "it")
    except SerializationError as error:
        return error.found
    return ()


def _told(announced: CatalogEntry | None) -> Mapping[str, Any]:
    return {} if announced is None else _read(announced.details)


@functools.lru_cache(READ_KEPT)
def _read(text: str) -> Mapping[str, Any]:
    read: dict[str, Any] = msgspec.json.decode(text)
    return read


def _limit_key(
    key: str | None,
    found: Workflow[..., Any] | None,
    workflow: object,
    args: Sequence[Any],
    given: Mapping[str, Any],
    payload: str,
) -> str:
    if key is not None:
        return check_limit_key(key, "limit_key")
    if found is None:
        return ""
    if isinstance(workflow, str):  # what is given is JSON: the task's own function takes what its annotations say
        args, given = found.arguments(payload)
    return found.limit_key(tuple(args), given)


def _what(
    registry: Registry, limit: int, workflow: Any, args: tuple[Any, ...], given: Any
) -> tuple[str, Workflow[..., Any] | None, str]:
    """Return the workflow's name, the workflow if it is known here, and the input payload."""
    if isinstance(workflow, str):
        name = check_name(workflow, "workflow name")
        if args:
            raise UsageError(f"start: workflow {name!r} is given by name, so give its arguments as input={{...}}")
        found = registry.workflows.get(name)
        if found is None:
            return name, None, codec.encode(given, f"the input of workflow {name!r}", limit)
        if getattr(found.parameters, "is_whole", False):  # of a graph
            return name, found, found.parameters.encode((given,), {}, limit)
    elif isinstance(workflow, Workflow) and registry.workflows.get(workflow.name) is workflow.registered:
        name, found = workflow.name, workflow
    else:
        raise UsageError(f"start: {workflow!r} is no workflow of this engine; decorate it with @app.workflow")
    if not isinstance(given, Mapping):
        raise UsageError(f"start: input {given!r} must be an object, the arguments of workflow {name!r} by name")
    try:
        return name, found, found.parameters.encode(args, given, limit)
    except TypeError as error:
        if isinstance(workflow, str):
            raise UsageError(f"start: input does not fit: {error}") from None
        raise


def by_name(registry: Registry, workflow: str, given: Any, announced: CatalogEntry | None, limit: int) -> Any:
    """Return the arguments of a workflow that is given by name; those of a graph are one value.

    Raises:
        SerializationError: it is a definition, and they do not fit its schema.
    """
    found = registry.workflows.get(workflow)
    if found is not None:
        return as_arguments(found.whole, given, is_optional=not found.is_required)
    if announced is None:
        return given
    kind, schema = _told(announced).get("kind"), _read(announced.input_schema)
    if kind == "definition":  # whose workers ask the same of it
        plain = codec.decode_any(codec.encode(given, f"the input of workflow {workflow!r}", limit))
        return InputSchema(schema, is_stored=True).taken(plain, f"workflow {workflow!r}")
    if kind in GRAPHS:
        return given
    return as_arguments(whole(schema), given, is_optional=not input_of(schema).get("required"))


def _run_id(value: object, env: Env, dedup: Dedup | None) -> str:
    if dedup is not None:  # what has one key has ids that are alike up to the first `/`
        workflow = dedup.key.partition("/")[0]
        digest = hashlib.blake2b(dedup.key.encode(), digest_size=12).hexdigest()
        return f"{workflow[:DEDUP_SHOWN]}~{digest}/{new_id(env)}"
    if value is None:
        return new_id(env)
    return check_text(value, "id")


def _priority(value: object, found: Workflow[..., Any] | None, announced: CatalogEntry | None) -> int:
    if value is None:
        value = found.priority if found is not None else _told(announced).get("priority")
    return 0 if value is None else check_priority(value, "priority")
