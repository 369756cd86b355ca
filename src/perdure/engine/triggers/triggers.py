"""`app.schedule`, `app.on`, `app.emit`, `app.observe`, `app.webhook`: what starts workflows, and who hears of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

from perdure.authoring.hooks import HookOptions, Verifier, add_hook, hook_of
from perdure.authoring.registry import Registry
from perdure.authoring.triggers import (
    LifecycleEventType,
    Observer,
    Timing,
    WebhookOptions,
    lifecycle_events,
    schedule_of,
    subscription_of,
    webhook_of,
)
from perdure.authoring.workflow import Workflow
from perdure.engine.client.client import Client
from perdure.engine.client.handle import RunHandle
from perdure.engine.lifecycle import LifecycleEvent
from perdure.engine.settings import Settings
from perdure.engine.triggers.scheduler import SCHEDULE
from perdure.engine.triggers.schedules import Schedules
from perdure.engine.triggers.webhooks import delivery_workflow, require_http
from perdure.engine.verbs import Verbs
from perdure.model.errors import DefinitionError, UsageError

DECLARED_AT_ONCE = 50
"""How many of its schedules a worker that starts writes at the same time."""

W = TypeVar("W", bound=Workflow[..., Any])
F = TypeVar("F", bound=Callable[[LifecycleEvent], Any])


class Triggers(Verbs):
    """What starts workflows beside `start`; whoever inherits this has the registry.

    Attributes:
        schedules: the schedules of the store.
    """

    registry: Registry
    settings: Settings

    def __init__(self) -> None:
        Verbs.__init__(self)
        self.schedules = Schedules(lambda: self.client)
        self.registry.built_in[SCHEDULE.name] = SCHEDULE

    def schedule(
        self,
        cron: str | None = None,
        *,
        name: str | None = None,
        args: Sequence[Any] = (),
        input: Mapping[str, Any] | None = None,
        **timing: Unpack[Timing],
    ) -> Callable[[W], W]:
        """Have a workflow or task started at certain times; stands above `@app.workflow` or `@app.task`.

        A worker that starts writes it into the store, or brings what is there up to date. A schedule that is taken out
        of the code stays until it is deleted.

        Args:
            cron, every, at, tz, jitter, overlap, catch_up, start, end, input: as for `app.schedules.create`.
            name: of the schedule; the workflow's by default.
            args: the arguments in order.

        Raises:
            UsageError: an argument is wrong, the schedule would never fire, or its name is taken.
        """

        def declare(workflow: W) -> W:
            self._require_registered(workflow, "@app.schedule")
            payload = workflow.parameters.encode(tuple(args), input or {}, self.settings.limits.payload_bytes)
            schedule = schedule_of(name or workflow.name, workflow.name, payload, cron, **timing)
            if schedule.name in self.registry.triggers.schedules:
                raise DefinitionError(f"a schedule {schedule.name!r} is declared already; give one of them name='...'")
            self.registry.triggers.schedules[schedule.name] = schedule
            return workflow

        return declare

    def on(self, event: str, *, where: str | Callable[[Any], object] | None = None) -> Callable[[W], W]:
        """Have a workflow or task started by an event; stands above `@app.workflow` or `@app.task`.

        Args:
            event: its type, as `app.emit` gives it. The payload becomes the workflow's one argument.
            where: which events of the type: a JMESPath expression over the payload, or a plain function of the
                argument. An expression is looked at by whoever emits; a function, where its code is.

        Raises:
            DefinitionError: the workflow needs more than one argument. UsageError: an argument is wrong.
        """

        def subscribe(workflow: W) -> W:
            self._require_registered(workflow, "@app.on")
            subscription = subscription_of(workflow, event, where)
            every = self.registry.triggers.subscriptions.setdefault(workflow.name, [])
            if any(each.event == event for each in every):
                raise DefinitionError(f"workflow {workflow.name!r} is started by event {event!r} already")
            every.append(subscription)
            return workflow

        return subscribe

    def observe(self, *events: LifecycleEventType, workflow: str | None = None) -> Callable[[F], F]:
        """Have a function called with a `LifecycleEvent` whenever something becomes of a run in this process.

        It is called after the change is durable, at most once: not if the process ends before. A plain `def` is called
        in a thread. What it raises is logged.

        Args:
            events: of what, as in `"workflow:failed"`.
            workflow: of whose runs; None for all.

        Raises:
            UsageError: an event is none.
        """
        wanted = lifecycle_events(events)

        def observe(function: F) -> F:
            self.registry.triggers.observers.append(Observer(function, wanted, workflow))
            return function

        return observe

    @overload
    def webhook(
        self,
        url: str,
        *,
        events: Sequence[LifecycleEventType],
        secret: str | Sequence[str],
        **options: Unpack[WebhookOptions],
    ) -> None: ...
    @overload
    def webhook(self, path: str, /, *, verify: Verifier, **options: Unpack[HookOptions]) -> Callable[[W], W]: ...
    def webhook(self, url: str, **options: Any) -> Any:
        """Have a URL told of what becomes of runs; or, with `verify`, have what comes in at a path start a workflow.

        **To a URL** the delivery is a run of its own, created in the very transaction that changes the run, signed (see
        `perdure.webhooks`), and tried again until the URL answers with a status of 200 to 299, or 410. It may arrive
        more than once; its `webhook-id` is the same each time.

        **At a path** it stands above `@app.workflow` or `@app.task`. A request there that is really from whom it should
        be starts one run, whose one argument is the event; `perdure.inbound` has verifiers, and serves the paths.

        Args:
            url: where, `https://` or `http://`.
            path: where, as in `/hooks/stripe`; several workflows may share one, with the same verifier.
            options: those below, first for a URL, and then for a path.
            events: of what, as in `["workflow:failed"]`.
            secret: what it is signed with, `whsec_` and 24 to 64 bytes in base64; two of them while it is changed.
            workflows: of whose runs; None for all.
            name: of the webhook, in the ids of its deliveries; made of the URL by default.
            queue: where deliveries wait; by default the first queue that the worker serves, or, of what a client does,
                the queue of the run.
            timeout: of one attempt (a duration); 15 seconds by default.
            retry: when a delivery is tried again; for about a day, by default.
            guard: whether addresses that are not on the public internet are refused, as `http.request` does.
            allow: what the guard lets pass beside these: addresses, networks (`"10.1.0.0/16"`), names, `"*.internal"`.
            verify: called with the body and the headers, it returns the event, or raises.
            key: a function of the argument, which returns what tells events apart; by default the id that the verifier
                finds. An event of the same key starts nothing.
            only: the types of event that start the workflow; others are answered, and dropped.
            where: which events do: a JMESPath expression over the event, or a plain function of the argument.
            within: for how long (a duration) an event of the same key starts nothing; 4 days by default.

        Raises:
            DefinitionError: httpx is not installed, the name or the path is taken, or the workflow needs more than one
                argument. UsageError: an argument is wrong.
        """
        if "verify" in options:
            return self._hook(url, **options)
        if not {"events", "secret"} <= options.keys():
            raise UsageError("webhook: give events= and secret= for a URL that is told of runs, or verify= for a path")
        self._tell(url, **options)
        return None

    def _hook(self, path: str, *, verify: Verifier, **options: Unpack[HookOptions]) -> Callable[[W], W]:
        def declare(workflow: W) -> W:
            self._require_registered(workflow, "@app.webhook")
            add_hook(self.registry.hooks, hook_of(path, workflow, verify, **options))
            return workflow

        return declare

    def _tell(
        self,
        url: str,
        *,
        events: Sequence[LifecycleEventType],
        secret: str | Sequence[str],
        **options: Unpack[WebhookOptions],
    ) -> None:
        require_http()
        webhook = webhook_of(url, events, secret, **options)
        if webhook.name in self.registry.triggers.webhooks:
            raise DefinitionError(f"a webhook {webhook.name!r} is registered already; give one of them name='...'")
        self.registry.triggers.webhooks[webhook.name] = webhook
        delivery = delivery_workflow(webhook)
        self.registry.built_in[delivery.name] = delivery

    async def emit(self, type: str, payload: object = None, *, id: str | None = None) -> list[RunHandle[Any]]:
        """Start every workflow that is subscribed to an event, of this application and of others on the store.

        Args:
            type: the event's type.
            payload: anything that can be stored.
            id: to tell a repeated event by: each workflow is started once for an id. None makes each event a new one.

        Returns:
            The runs, of which some may have been started before.

        Raises:
            UsageError: a condition cannot be looked at, or is in the code of another application only.
            SerializationError: the payload does not fit a workflow. StoreError: repeat it with the same id.
        """
        client = self.client
        return [
            RunHandle(client, ending.run_id, None if found is None else found.result, ending)
            for found, ending in await client.emit(type, payload, id)
        ]

    async def _declare_schedules(self, client: Client) -> None:
        """Write the declared schedules into the store."""
        declared, schedules = list(self.registry.triggers.schedules.values()), Schedules(lambda: client)
        for first in range(0, len(declared), DECLARED_AT_ONCE):
            part = declared[first : first + DECLARED_AT_ONCE]
            queues = [client.registry.workflows[schedule.workflow].queue for schedule in part]
            await asyncio.gather(
                *(schedules.declare(each, queue, replace=True) for each, queue in zip(part, queues, strict=True))
            )

    def _require_registered(self, workflow: object, decorator: str) -> None:
        if not isinstance(workflow, Workflow):
            raise UsageError(f"{decorator} stands above @app.workflow or @app.task, not {workflow!r}")
        if self.registry.workflows.get(workflow.name) is not workflow.registered:
            raise UsageError(
                f"{decorator}: workflow {workflow.name!r} is not registered with this application; app.add() does that"
            )
