"""What of a server works: in each namespace a worker for the runs of workflows that endpoints serve, and for messages.

It begins with the first endpoint, or message. Until then it costs a look at two collections now and then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx
import msgspec

from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow
from perdure.dispatch.asking import Asking
from perdure.dispatch.breaker import Breaker
from perdure.dispatch.endpoints import Endpoint, Endpoints, Keys, entries_of
from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.pushing import LeftAloneError, PushRunner
from perdure.dispatch.signing import SigningKeys
from perdure.dispatch.upstash.workflows import Workflows
from perdure.engine.app import Perdure
from perdure.engine.ending import Endings
from perdure.engine.env import Env, pause
from perdure.engine.settings import Settings
from perdure.engine.worker.runner import Runner
from perdure.engine.worker.worker import Worker
from perdure.model.decision import Claim
from perdure.model.errors import PerdureError, StoreError, UsageError
from perdure.model.limits import Limits
from perdure.store.contract import Store
from perdure.tasks.addresses import Guard

REFRESH = 10.0
"""Seconds between two looks at who serves what."""

KEYS_KEPT_MS = 10_000
"""For how many milliseconds keys are taken for those that are in the store."""

ANSWER_WITHIN = 25.0
"""Seconds within which an endpoint has to begin its answer: less than most proxies allow."""

CRASHES = 100
"""How often in a row a server may die while it works a run before the run is parked: it need not be the run's doing."""

_log = logging.getLogger("perdure.engine")


class Place:
    """Where runs are pushed to."""

    def __init__(self, url: str, breaker: Breaker) -> None:
        self.url = url
        self.breaker = breaker


class Dispatcher:
    """The dispatcher of one namespace.

    Args:
        app: the namespace's engine, which somebody else opens and closes.
        namespace: what it is called.
        is_on: whether it works runs; if not, it takes what endpoints commit, and nothing else.
        answer_within: see `ANSWER_WITHIN`.
        transport: what requests to endpoints go through; connections of its own by default.
        guard: says which addresses runs are pushed, and messages delivered, to; None lets all pass.
        signing: what requests are signed with, whatever keys are kept; None for those.

    Attributes:
        app, namespace, answer_within: see above.
        endpoints: who serves what, as it is kept.
        asking: what speaks to them.
        messages: what is published and delivered.
        workflows: the workflow protocol of QStash's clients.
        engine: what works; None as long as there is nothing to work.
    """

    def __init__(
        self,
        app: Perdure,
        namespace: str,
        *,
        is_on: bool = True,
        answer_within: float = ANSWER_WITHIN,
        transport: httpx.AsyncBaseTransport | None = None,
        guard: Guard | None = None,
        signing: SigningKeys | None = None,
    ) -> None:
        self.app = app
        self.namespace = namespace
        self.answer_within = answer_within
        self.endpoints = Endpoints(app.store, app.world)
        self.asking = Asking(app.world, transport, guard)
        self.messages = Messaging(app, self._signing_keys, self.refresh, self.wake, guard, self._rests)
        self.workflows = Workflows(app, self.messages, self._told)
        self.engine: Perdure | None = None
        self._is_on = is_on
        self._signing = signing
        self._places: dict[str, Place] = {}
        self._serving: dict[str, list[Place]] = {}
        self._known: list[Endpoint] = []
        self._queues: list[str] = []
        self._keys: Keys | None = None
        self._keys_at = 0
        self._refreshing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to look who serves what."""
        if self._is_on and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look_for_ever())

    async def close(self) -> None:
        """Let the pushes that are under way finish, and work no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.messages.stop()
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.close()
        await self.asking.close()
        await self.messages.close()

    async def keys(self) -> Keys:
        """Return the keys of this namespace."""
        now = self.app.world.now()
        if self._keys is None or not 0 <= now - self._keys_at < KEYS_KEPT_MS:
            return await self.kept_keys()
        return self._keys

    async def kept_keys(self) -> Keys:
        """Return the keys of this namespace, as they are in the store at this moment."""
        return self._keep_keys(await self.endpoints.keys())

    async def rotate_keys(self) -> Keys:
        """Put the next signing key in the place of the current one; what is signed here from then on is by that one.

        Raises:
            UsageError: they are given, and not kept.
        """
        if self._signing is not None:
            raise UsageError("signing keys: those for development are always the same")
        return self._keep_keys(await self.endpoints.rotate())

    def _keep_keys(self, keys: Keys) -> Keys:
        self._keys = keys if self._signing is None else msgspec.structs.replace(keys, signing=self._signing)
        self._keys_at = self.app.world.now()
        return self._keys

    async def _signing_keys(self) -> SigningKeys:
        """Return what is signed with; while the store cannot be asked, what it was the last time."""
        try:
            return (await self.keys()).signing
        except StoreError:
            if self._keys is None:
                raise
            return self._keys.signing

    def _rests(self, queue: str) -> AbstractContextManager[None]:
        """Have a message of a queue take no place in the worker for a while, as long as it claims any."""
        if self.engine is None or self.engine.worker is None:
            return nullcontext()
        return self.engine.worker.lingering.rests(queue)

    async def add(self, url: str) -> Endpoint:
        """Ask an endpoint what it serves, keep that, and begin to push runs to it.

        Raises:
            UsageError: it is none, or serves what nobody can. PushFailedError: it does not answer.
        """
        manifest = await self.asking.manifest(url, (await self.keys()).signing)
        endpoint = await self.endpoints.add(url, manifest)
        await self.refresh()
        return endpoint

    async def remove(self, key: str) -> bool:
        """Push nothing more to the endpoint of a key; return whether it was known."""
        was_known = await self.endpoints.remove(key)
        await self.refresh()
        return was_known

    async def refresh(self) -> None:
        """Look who serves what, now.

        Raises:
            UsageError: there is something to work, in a store that nobody else can reach.
        """
        async with self._refreshing:
            if not self._is_on:
                return
            known = await self.endpoints.all()
            queues = await self.messages.queues()
            queues = sorted({*queues, *(workflow.queue for each in known for workflow in each.workflows)})
            if known == self._known and queues == self._queues and (self.engine is not None or not queues):
                return
            self._known, self._queues = known, queues
            self._places = {
                each.url: self._places.get(each.url) or Place(each.url, Breaker(self.app.world)) for each in known
            }
            self._serving = {}
            for each in known:
                for workflow in each.workflows:
                    self._serving.setdefault(workflow.name, []).append(self._places[each.url])
            if queues and self.engine is None:
                if self.app.url.rstrip("/") == "memory:":
                    raise UsageError(
                        "store: memory:// is one engine's own, and what works is another one: give it a name, "
                        "as in memory://trial, or have a file, as in sqlite:///trial.db"
                    )
                engine = Perdure(
                    self.app.url,
                    mode="worker",
                    queues=queues,
                    encryption=self.app.encryption,
                    limits=Limits(crashes=CRASHES),
                    definitions=False,
                )
                engine._make_worker = functools.partial(PushingWorker, self)
                self._register(engine.registry)
                await engine.open()
                self.engine = engine
            elif self.engine is not None and self.engine.worker is not None:
                self._register(self.engine.registry)
                self.engine.worker.serve(queues or self.engine.settings.queues)
                await self.engine.worker._announce()
                self.engine.worker.wake()

    def serves(self, workflow: str) -> bool:
        """Return whether runs of a workflow are pushed."""
        return workflow in self._serving

    def place_of(self, workflow: str) -> Place:
        """Return where a run is to be pushed to.

        Raises:
            LeftAloneError: there is nobody who can be asked now.
        """
        places = self._serving.get(workflow, [])
        waits = []
        for place in places:
            if not (left := place.breaker.left()):
                places.append(places.pop(places.index(place)))  # in turn, where there are several
                return place
            waits.append(left)
        if not waits:
            raise LeftAloneError(f"no endpoint serves {workflow!r} any more", after=REFRESH)
        urls = ", ".join(place.url for place in places)
        raise LeftAloneError(f"{urls} failed often and is left alone for now", after=min(waits) / 1000)

    def breaker_of(self, url: str) -> Breaker | None:
        """Return what is known here of how an endpoint answers; None where nothing is pushed to it from here."""
        place = self._places.get(url)
        return None if place is None else place.breaker

    @property
    def known(self) -> list[Endpoint]:
        """Who serves what, as it was seen last."""
        return self._known

    def wake(self) -> None:
        """Look for due runs now."""
        if self.engine is not None and self.engine.worker is not None:
            self.engine.worker.wake()

    def _told(self, run_ids: list[str]) -> None:
        """Have runs that are worked here take in what was posted to them."""
        if self.engine is not None and self.engine.is_open:
            self.engine.client.posted(run_ids)

    def _register(self, registry: Registry) -> None:
        registry.workflows.clear()
        works = (*self.messages.workflows, *self.workflows.programs.workflows)
        registry.workflows.update({each.name: each for each in works})
        for each in self._known:
            for served in each.workflows:
                registry.workflows[served.name] = Workflow(
                    _elsewhere, name=served.name, version=served.version, queue=served.queue
                )

    async def _look_for_ever(self) -> None:
        while True:
            try:
                await self.refresh()
            except PerdureError as error:
                _log.warning("namespace %s: who serves workflows cannot be told: %s", self.namespace, error)
            await pause(self.app.world, REFRESH)


class PushingWorker(Worker):
    """The worker of a dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        registry: Registry,
        settings: Settings,
        env: Env,
        endings: Endings,
    ) -> None:
        super().__init__(store, registry, settings, env, endings)
        self.dispatcher = dispatcher

    def _runner_of(self, claim: Claim, program: Workflow[..., Any]) -> Runner:
        """Return what hands a run to an endpoint, if one serves its workflow."""
        if self.dispatcher.serves(claim.run.workflow):
            return PushRunner(self, claim, program)
        return super()._runner_of(claim, program)

    async def _announce(self) -> None:
        """Announce what endpoints serve, in their words."""
        now = self.env.now()
        entries = [entry for each in self.dispatcher.known for entry in entries_of(each, self.id, now)]
        if entries:
            await self.store.publish(entries)


async def _elsewhere() -> None:
    raise UsageError("the code of this workflow is where it is served")
