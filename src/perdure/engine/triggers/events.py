"""Events that start workflows: `emit` starts every one that is subscribed, once for each event."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from perdure.authoring.context import current_step
from perdure.authoring.triggers import Subscription, announced_subscription, check_event_type, payload_of
from perdure.authoring.workflow import Workflow
from perdure.engine.client.starting import new_run
from perdure.engine.ending import Ending
from perdure.engine.lifecycle import OURS
from perdure.engine.telemetry import link_here
from perdure.model.errors import RunExistsError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.run import NewRun

if TYPE_CHECKING:
    from perdure.engine.client.client import Client

Started: TypeAlias = tuple[Workflow[..., Any] | None, Ending]
"""A run that was started, with its workflow where that is known here."""

ANNOUNCED_FOR_MS = 86_400_000
"""How long, in milliseconds, a subscription counts after some worker has last announced it."""

PREFIX = "event:"
"""What the id of a run that an event starts begins with."""

TOGETHER_MS = 90_000
"""Versions of a workflow announced within this time, in milliseconds, are at work together, and all of them count."""


async def emit(client: Client, event: str, payload: object, event_id: str | None) -> list[Started]:
    """Start every workflow that is subscribed to an event; see `Perdure.emit`."""
    check_event_type(event)
    if event_id is not None and (not isinstance(event_id, str) or not 0 < len(event_id) <= NAME_LENGTH):
        raise UsageError(f"event id {event_id!r} must be text of 1 to {NAME_LENGTH} characters")
    body = payload_of(payload, client.settings.limits.payload_bytes)
    known = event_id or client.new_id()
    chosen = [(name, each) for name, each in await _subscribers(client, event) if each.takes(body)]
    tags = {"event": event}
    news = [await _new(client, name, each.input(body), _run_id(event, known, name), tags) for name, each in chosen]
    return list(await asyncio.gather(*(_create(client, found, new) for found, new in news)))


async def start_by_name(
    client: Client, workflow: str, given: Any, run_id: str, tags: Mapping[str, str], queue: str | None = None
) -> Started:
    """Start a workflow by its name, wherever it is worked, or find the run that has this id.

    Args:
        client: the verbs of the engine that starts it.
        workflow: which.
        given: its input.
        run_id, tags: of the run.
        queue: of the run, where neither this engine nor what workers announced knows better.
    """
    return await _create(client, *await _new(client, workflow, given, run_id, tags, queue))


async def _new(
    client: Client, workflow: str, given: Any, run_id: str, tags: Mapping[str, str], queue: str | None = None
) -> tuple[Workflow[..., Any] | None, NewRun]:
    options: dict[str, Any] = {"id": run_id, "tags": {**tags, **link_here(client.watchers)}}
    if workflow.startswith(OURS):
        options["anyway"] = True  # what is part of Perdure is not announced
    announced = await client.announced.look(workflow, options)
    if queue is not None and announced is None and workflow not in client.registry.workflows:
        options["queue"] = queue
    settings = dataclasses.replace(client.settings, mode="all")  # a worker starts what triggers ask for
    known = client.registry.workflows.get(workflow)
    if known is not None and not isinstance(given, Mapping):  # which only a workflow takes whose input is one value
        return new_run(client.registry, settings, client.env, known, (given,), options)
    options["input"] = given
    return new_run(client.registry, settings, client.env, workflow, (), options, announced)


async def _create(client: Client, found: Workflow[..., Any] | None, new: NewRun) -> Started:
    try:
        ending, _ = await client.create(new)
    except RunExistsError:  # that one was started before, with an input that was another one then
        ending = client.endings.of(new.id)
    return found, ending


def client_of_step() -> Client:
    """Return the verbs of the engine that the running step runs in."""
    step = current_step.get()
    assert step is not None, "only steps of the engine's own call this"
    return cast("Client", step.client)


async def _subscribers(client: Client, event: str) -> list[tuple[str, Subscription]]:
    """Return who is subscribed to an event: here, and as other applications have announced.

    Raises:
        UsageError: a condition is in the code of an application that is not this one.
    """
    here = client.registry.triggers.subscriptions
    found = [(name, each) for name, every in here.items() for each in every if each.event == event]
    oldest = client.env.now() - ANNOUNCED_FOR_MS
    last: dict[str, int] = {}
    elsewhere: dict[str, Subscription] = {}
    for entry in await client.announced.entries():
        workflow = entry.workflow
        since = max(oldest, last.setdefault(workflow, entry.seen_at) - TOGETHER_MS)
        if workflow in client.registry.workflows or workflow in elsewhere or entry.seen_at < since:
            continue
        about = next((on for on in msgspec.json.decode(entry.details).get("on", ()) if on["event"] == event), None)
        if about is None:
            continue
        subscription = announced_subscription(about)
        if subscription is None:
            raise UsageError(
                f"event {event!r}: workflow {workflow!r} has a condition in Python, which only the application that "
                "registers it can look at; emit there, or write where= as JMESPath text"
            )
        elsewhere[workflow] = subscription
    return [*found, *elsewhere.items()]


def _run_id(event: str, event_id: str, workflow: str) -> str:
    readable = f"{PREFIX}{event}:{event_id}:{workflow}"
    if len(readable) <= NAME_LENGTH and readable.isprintable() and ":" not in event + workflow:
        return readable
    parts = f"{event}\0{workflow}\0{event_id}".encode(errors="surrogatepass")
    return f"{PREFIX}{hashlib.blake2b(parts, digest_size=20).hexdigest()}"
