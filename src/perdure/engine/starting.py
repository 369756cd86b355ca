"""From the arguments of `start` to the run that is to be created, checked field by field.

A workflow that is given by name and not registered here is looked up among what workers have announced.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.engine.env import Env, new_id
from perdure.engine.settings import Settings
from perdure.model import codec
from perdure.model.decision import CatalogEntry
from perdure.model.duration import milliseconds
from perdure.model.errors import UnknownWorkflowError, UsageError
from perdure.model.limits import NAME_LENGTH, TAGS
from perdure.model.name import check_name
from perdure.model.record import Record
from perdure.model.run import NewRun
from perdure.store.contract import Store

_OPTIONS = {"id", "priority", "delay", "tags", "retention", "queue", "input", "anyway", "tx"}

HIGHEST_PRIORITY = 1_000_000

CATALOG_KEPT_MS = 5_000
"""How long the store's catalog is believed, in milliseconds, for what it has."""

NAMES_TOLD = 10

_log = logging.getLogger("perdure.engine")


class Announced:
    """What workers have announced, read from the store now and then."""

    def __init__(self, store: Store, registry: Registry, env: Env) -> None:
        self._store = store
        self._registry = registry
        self._env = env
        self._catalog: Sequence[CatalogEntry] = ()
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

    async def entry(self, workflow: str) -> CatalogEntry | None:
        """Return what was last announced of a workflow; None where nothing was.

        Raises:
            UnknownWorkflowError: it is not registered here either, and workers have announced others.
        """
        check_name(workflow, "workflow name")
        is_read = False
        if self._read_at is None or not 0 <= self._env.now() - self._read_at < CATALOG_KEPT_MS:
            await self._read()
            is_read = True
        entry = self._latest(workflow)
        if entry is not None or workflow in self._registry.workflows or not self._catalog:
            return entry
        if not is_read:  # it may have been announced since
            await self._read()
            entry = self._latest(workflow)
        if entry is None:
            known = sorted({entry.workflow for entry in self._catalog} | self._registry.workflows.keys())
            close = get_close_matches(workflow, known, 1)
            advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known[:NAMES_TOLD])}"
            raise UnknownWorkflowError(f"no worker has announced workflow {workflow!r}; {advice}")
        return entry

    async def _read(self) -> None:
        self._catalog = await self._store.catalog()
        self._read_at = self._env.now()

    def _latest(self, workflow: str) -> CatalogEntry | None:
        entries = (entry for entry in self._catalog if entry.workflow == workflow)
        return max(entries, key=lambda entry: entry.seen_at, default=None)


def warn_of_queues(registry: Registry, settings: Settings) -> None:
    """Log which workflows' runs a worker of these settings leaves to others."""
    left = {name: w.queue for name, w in sorted(registry.workflows.items()) if w.queue not in settings.queues}
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
    name, found, payload = _what(registry, settings.limits.payload_bytes, workflow, args, options.get("input") or {})
    about = found or announced
    now = env.now()
    delay = options.get("delay")
    return found, NewRun(
        id=_run_id(options.get("id"), env),
        workflow=name,
        created_at=now,
        due_at=now if delay is None else now + milliseconds(delay, field="delay"),
        records=(Record(0, "input", "input", "ok", now, payload),),
        version=about.version if about else "",
        queue=check_name(options.get("queue") or (about.queue if about else "default"), "queue"),
        priority=_priority(options.get("priority", 0)),
        fingerprint=fingerprint(name, payload),
        tags=_tags(options.get("tags")),
        retention=options.get("retention") or (found and found.retention) or settings.retention,
    )


def _what(
    registry: Registry, limit: int, workflow: Any, args: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[str, Workflow[..., Any] | None, str]:
    """Return the workflow's name, the workflow if it is known here, and the input payload."""
    if isinstance(workflow, str):
        name = check_name(workflow, "workflow name")
        if args:
            raise UsageError(f"start: workflow {name!r} is given by name, so give its arguments as input={{...}}")
        found = registry.workflows.get(name)
        if found is None:
            return name, None, codec.encode(given, f"the input of workflow {name!r}", limit)
    elif isinstance(workflow, Workflow) and registry.workflows.get(workflow.name) is workflow:
        name, found = workflow.name, workflow
    else:
        raise UsageError(f"start: {workflow!r} is no workflow of this engine; decorate it with @app.workflow")
    try:
        return name, found, found.parameters.encode(args, given, limit)
    except TypeError as error:
        if isinstance(workflow, str):
            raise UsageError(f"start: input does not fit: {error}") from None
        raise


def _run_id(value: object, env: Env) -> str:
    if value is None:
        return new_id(env)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LENGTH or not value.isprintable():
        raise UsageError(f"id: {value!r} must be printable text of 1 to {NAME_LENGTH} characters")
    return value


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > HIGHEST_PRIORITY:
        raise UsageError(f"priority: {value!r} must be a whole number of at most {HIGHEST_PRIORITY:,}, either way")
    return value


def _tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    if not tags:
        return {}
    if len(tags) > TAGS:
        raise UsageError(f"tags: {len(tags)} tags, over {TAGS}")
    for name, value in tags.items():
        for text in (name, value):
            if not isinstance(text, str) or len(text) > NAME_LENGTH or not name or not text.isprintable():
                raise UsageError(
                    f"tags: {name!r}={value!r} must be printable text of up to {NAME_LENGTH} characters, with a name"
                )
    return dict(tags)
