"""From the arguments of `start` to the run that is to be created, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.engine.env import Env, new_id
from perdure.engine.settings import Settings
from perdure.model import codec
from perdure.model.duration import milliseconds
from perdure.model.errors import UsageError
from perdure.model.limits import NAME_LENGTH, TAGS
from perdure.model.name import check_name
from perdure.model.record import Record
from perdure.model.run import NewRun

_OPTIONS = {"id", "priority", "delay", "tags", "retention", "queue", "input"}

HIGHEST_PRIORITY = 1_000_000


def new_run(
    registry: Registry,
    settings: Settings,
    env: Env,
    workflow: Any,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> tuple[Workflow[..., Any] | None, NewRun]:
    """Return the run that a call of `start` asks for, and its workflow where it is known here.

    Raises:
        UsageError: an option is unknown or out of its range. SerializationError: the arguments cannot be stored.
    """
    if settings.mode == "worker":
        raise UsageError("mode='worker' only works runs; start them from mode='client' or 'all'")
    if unknown := set(options) - _OPTIONS:
        raise UsageError(f"start: unknown option {min(unknown)!r}; known: {', '.join(sorted(_OPTIONS))}")
    name, found, payload = _what(registry, settings.limits.payload_bytes, workflow, args, options.get("input") or {})
    now = env.now()
    delay = options.get("delay")
    return found, NewRun(
        id=_run_id(options.get("id"), env),
        workflow=name,
        created_at=now,
        due_at=now if delay is None else now + milliseconds(delay, field="delay"),
        records=(Record(0, "input", "input", "ok", now, payload),),
        version=found.version if found else "",
        queue=check_name(options.get("queue") or (found.queue if found else "default"), "queue"),
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
