"""`Perdure`: the one object an application makes. It registers workflows, works them, and is asked about runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from perdure.authoring.decorators import Decorators, caller_scope
from perdure.authoring.entrypoint import EntrypointWorkflow, WorkflowEntrypoint
from perdure.authoring.purity import warn_of_impure_calls
from perdure.authoring.registry import Registry
from perdure.engine.blocking import Blocking
from perdure.engine.client.client import Client
from perdure.engine.client.entrypoint_runs import EntrypointRuns
from perdure.engine.client.starting import warn_of_queues
from perdure.engine.clock import StoreClock
from perdure.engine.definitions import Definitions
from perdure.engine.ending import Endings
from perdure.engine.env import Env, SystemEnv
from perdure.engine.keys import encryption_here, store_here
from perdure.engine.queues import Queues
from perdure.engine.settings import Mode, Settings, bounded
from perdure.engine.telemetry import Telemetry, watchers_of
from perdure.engine.triggers.triggers import Triggers
from perdure.engine.worker.shift import Shift
from perdure.engine.worker.worker import Worker
from perdure.model.duration import Duration
from perdure.model.encryption import Encryption
from perdure.model.errors import UsageError
from perdure.model.limits import Limits
from perdure.model.run import Retention
from perdure.store import Store, is_a_servers
from perdure.store.marked import require_plain

P = ParamSpec("P")
R = TypeVar("R")
ParamsT = TypeVar("ParamsT")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")


class Perdure(Decorators, Triggers, Queues, Definitions):
    """An application's workflows on one store.

    Args:
        url: the store: `memory://`, `sqlite:///file.db`; or a server, `https://host`, which the API key of
            `PERDURE_API_KEY` is shown to.
        mode: `all` starts runs and works them, `client` only starts them, `worker` only works them; by default `all`,
            and `client` on a server. `serve` is for `perdure.serve`, on a server.
        env: what class entrypoints find as `self.env`.
        queues: which queues the worker serves; a mapping says how many runs of each it has in hand at once, None being
            no bound but `concurrency`.
        concurrency: how many runs the worker has in hand at once.
        threads: how many plain `def` steps it runs at once.
        processes: how many `run_in="process"` steps it runs at once.
        lease: after how long (a duration) a silent worker's runs go to others.
        hold: an idle run whose timer ends within this duration stays in memory.
        drain: how long (a duration) a stopping worker waits for running steps.
        retention: how long ended runs are kept.
        limits: the bounds on payloads, journals, fan-out, nesting and inboxes.
        encryption: the keys that what users' data is, is encrypted with in the store; those of
            `PERDURE_ENCRYPTION_KEYS` by default, and without any nothing is encrypted.
        definitions: whether the worker works the definitions in the store, too.
        telemetry: who watches what the worker does (see `perdure.telemetry`).
        world: the clock, chance and timers; the real ones by default.

    Raises:
        UsageError: a setting is out of its range, or the URL names no store.
    """

    _make_worker: Callable[[Store, Registry, Settings, Env, Endings], Worker] = Worker

    def __init__(
        self,
        url: str = "sqlite:///perdure.db",
        *,
        mode: Mode | None = None,
        env: object = None,
        queues: Sequence[str] | Mapping[str, int | None] = ("default",),
        concurrency: int = 500,
        threads: int = 16,
        processes: int = 2,
        lease: Duration = 15.0,
        hold: Duration = 1.0,
        drain: Duration = 30.0,
        retention: Retention | None = None,
        limits: Limits | None = None,
        definitions: bool = True,
        encryption: Encryption | None = None,
        telemetry: Sequence[Telemetry] = (),
        world: Env | None = None,
    ) -> None:
        Decorators.__init__(self)
        Queues.__init__(self)
        Triggers.__init__(self)
        self.url = url
        self.settings = Settings(
            mode=mode or ("client" if is_a_servers(url) else "all"),
            queues=tuple(queues),
            per_queue=bounded(queues),
            concurrency=concurrency,
            threads=threads,
            processes=processes,
            lease=lease,
            hold=hold,
            drain=drain,
            retention=retention or Retention(),
            limits=limits or Limits(),
            definitions=definitions,
        )
        self.encryption = encryption or encryption_here()
        self.store = store_here(url, self.encryption)
        self.env = env
        self.world: Env = world or SystemEnv()
        self.telemetry: list[Telemetry] = list(telemetry)
        self._clock: StoreClock | None = None
        self._worker: Worker | None = None
        self._blocking = Blocking(self)
        self._closing: asyncio.Task[None] | None = None

    # Registering classes; functions are registered by decorators, see `Decorators`.

    def register(
        self,
        entrypoint: type[WorkflowEntrypoint[Any, ParamsT]],
        *,
        name: str | None = None,
        retention: Retention | None = None,
    ) -> EntrypointRuns[ParamsT]:
        """Register a class entrypoint.

        Args:
            entrypoint: the class.
            name: its name in the store; the class's by default.
            retention: how long its ended runs are kept; the engine's by default.

        Returns:
            What creates and finds its runs.
        """
        title = name or str(getattr(entrypoint, "__name__", entrypoint))
        scope = caller_scope(sys._getframe(1))
        workflow = EntrypointWorkflow(entrypoint, self.env, name=title, retention=retention, local_names=scope)
        warn_of_impure_calls(entrypoint.run, f"workflow {title!r}")
        self.registry.add_workflow(workflow)
        return EntrypointRuns(self, workflow)

    # Opening and closing.

    async def open(self) -> None:
        """Open the store and, unless this is a client, start the worker."""
        if self._client is not None:
            raise UsageError("this engine is open already")
        self._require_fitting_mode()
        await self.store.open()
        try:
            if self.encryption is None and not is_a_servers(self.url):
                await require_plain(self.store)
            await self._open()
        except BaseException:
            await self.store.close()
            raise

    def _require_fitting_mode(self) -> None:
        mode, is_on_a_server = self.settings.mode, is_a_servers(self.url)
        if is_on_a_server and mode not in ("client", "serve"):
            raise UsageError(
                f"mode: a server hands out no work over HTTP, so it must be 'client', not {mode!r}; "
                "'serve' is for what perdure.serve serves"
            )
        if mode == "serve" and not is_on_a_server:
            raise UsageError("mode: what is served gets its runs from a server, so the URL must be https://host")

    async def _open(self) -> None:
        if isinstance(self.world, SystemEnv):
            self._clock = await StoreClock.started(self.store, self.world)
        endings = Endings()
        client = Client(self.store, self.registry, self.settings, self.world, endings)
        client.watchers = watchers = watchers_of(self.telemetry)
        if self.settings.mode in ("all", "worker"):
            worker = self._make_worker(self.store, self.registry, self.settings, self.world, endings)
            try:
                await self.declare_limits(self.store)
                client.worker = worker
                if watchers is not None:
                    worker.watch(watchers)
                await worker.start()
                await self._declare_schedules(client)
            except BaseException:
                await worker.stop()
                await self._stop_clock()
                raise
            self._worker = worker
            warn_of_queues(self.registry, self.settings)
        self._client = client

    async def close(self) -> None:
        """Stop the worker (running steps finish first, up to `drain`) and close the store.

        When the wait for it is cancelled, closing goes on; a second call waits for the rest of it.
        """
        if self._client is None:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(self._client, self._worker))
        await asyncio.shield(self._closing)

    async def _close(self, client: Client, worker: Worker | None) -> None:
        try:
            try:
                if worker is not None:
                    await worker.stop()
            finally:
                try:
                    await client.close()
                finally:
                    await self._stop_clock()
                    await self.store.close()
        finally:
            self._client = self._worker = self._closing = None

    async def _stop_clock(self) -> None:
        clock, self._clock = self._clock, None
        if clock is not None:
            await clock.stop()

    async def shutdown(self) -> None:
        """Do as `close`, under the name that Cloudflare-style engines have for it."""
        await self.close()

    async def run_forever(self) -> int:
        """Open, work until SIGTERM or SIGINT comes, and close; the signals' handlers are put back afterwards.

        The first signal lets running steps finish, up to `drain`; a second one stops at once.

        Returns:
            The exit code for the process: 0 stopped in order; 1 steps were cut off when `drain` ended, or the worker
            broke; 143 or 130 a second signal cut steps off.

        Raises:
            UsageError: this is a client, or this is not the main thread.
        """
        return await Shift(self).work()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._client is not None

    @property
    def worker(self) -> Worker | None:
        """The worker; None while closed, and in a client."""
        return self._worker

    @property
    def blocking(self) -> Blocking:
        """The same verbs for code that cannot await; it opens the engine on a thread of its own."""
        return self._blocking
