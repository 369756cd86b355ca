"""`Perdure`: the one object an application makes. It registers workflows, works them, and is asked about runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from perdure.authoring.decorators import Decorators, caller_scope
from perdure.authoring.entrypoint import EntrypointWorkflow, WorkflowEntrypoint
from perdure.authoring.purity import warn_of_impure_calls
from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow
from perdure.engine.blocking import Blocking
from perdure.engine.client import Client
from perdure.engine.ending import Endings
from perdure.engine.entrypoint_runs import EntrypointRuns
from perdure.engine.env import Env, SystemEnv
from perdure.engine.handle import RunHandle
from perdure.engine.settings import Mode, Settings
from perdure.engine.shift import Shift
from perdure.engine.starting import new_run, warn_of_queues
from perdure.engine.worker import Worker
from perdure.model.decision import RunFilter, RunPage, Stats, StoreInfo
from perdure.model.duration import Duration
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.model.limits import Limits
from perdure.model.run import Retention, RunStatus
from perdure.store import Store, open_store

P = ParamSpec("P")
R = TypeVar("R")
ParamsT = TypeVar("ParamsT")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")


class Perdure(Decorators):
    """An application's workflows on one store.

    Args:
        url: the store: `memory://`, `sqlite:///file.db`.
        mode: `all` starts runs and works them, `client` only starts them, `worker` only works them.
        env: what class entrypoints find as `self.env`.
        queues: which queues the worker serves.
        concurrency: how many runs the worker has in hand at once.
        threads: how many plain `def` steps it runs at once.
        processes: how many `run_in="process"` steps it runs at once.
        lease: after how long (a duration) a silent worker's runs go to others.
        hold: an idle run whose timer ends within this duration stays in memory.
        drain: how long (a duration) a stopping worker waits for running steps.
        retention: how long ended runs are kept.
        limits: the bounds on payloads, journals, fan-out, nesting and inboxes.
        world: the clock, chance and timers; the real ones by default.

    Raises:
        UsageError: a setting is out of its range, or the URL names no store.
    """

    _make_worker: Callable[[Store, Registry, Settings, Env, Endings], Worker] = Worker

    def __init__(
        self,
        url: str = "sqlite:///perdure.db",
        *,
        mode: Mode = "all",
        env: object = None,
        queues: Sequence[str] = ("default",),
        concurrency: int = 500,
        threads: int = 16,
        processes: int = 2,
        lease: Duration = 15.0,
        hold: Duration = 1.0,
        drain: Duration = 30.0,
        retention: Retention | None = None,
        limits: Limits | None = None,
        world: Env | None = None,
    ) -> None:
        super().__init__()
        self.url = url
        self.settings = Settings(
            mode=mode,
            queues=tuple(queues),
            concurrency=concurrency,
            threads=threads,
            processes=processes,
            lease=lease,
            hold=hold,
            drain=drain,
            retention=retention or Retention(),
            limits=limits or Limits(),
        )
        self.store = open_store(url)
        self.env = env
        self.world: Env = world or SystemEnv()
        self._client: Client | None = None
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
        await self.store.open()
        endings = Endings()
        client = Client(self.store, self.registry, self.settings, self.world, endings)
        if self.settings.mode != "client":
            worker = self._make_worker(self.store, self.registry, self.settings, self.world, endings)
            try:
                await worker.start()
            except BaseException:
                await worker.stop()
                await self.store.close()
                raise
            self._worker = client.worker = worker
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
                    await self.store.close()
        finally:
            self._client = self._worker = self._closing = None

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
    def client(self) -> Client:
        """The verbs behind this object.

        Raises:
            StoreUnavailableError: the engine is not open.
        """
        if self._client is None:
            raise StoreUnavailableError("this engine is not open; use it inside `async with app:`")
        return self._client

    @property
    def worker(self) -> Worker | None:
        """The worker; None while closed, and in a client."""
        return self._worker

    @property
    def blocking(self) -> Blocking:
        """The same verbs for code that cannot await; it opens the engine on a thread of its own."""
        return self._blocking

    # Starting.

    @overload
    async def start(
        self, workflow: Callable[[], Awaitable[R]], /, *, id: str | None = ..., priority: int = ...,
        delay: Duration | None = ..., tags: Mapping[str, str] | None = ..., retention: Retention | None = ...,
        queue: str | None = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Callable[[A1], Awaitable[R]], a1: A1, /, *, id: str | None = ..., priority: int = ...,
        delay: Duration | None = ..., tags: Mapping[str, str] | None = ..., retention: Retention | None = ...,
        queue: str | None = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Callable[[A1, A2], Awaitable[R]], a1: A1, a2: A2, /, *, id: str | None = ...,
        priority: int = ..., delay: Duration | None = ..., tags: Mapping[str, str] | None = ...,
        retention: Retention | None = ..., queue: str | None = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Callable[[A1, A2, A3], Awaitable[R]], a1: A1, a2: A2, a3: A3, /, *, id: str | None = ...,
        priority: int = ..., delay: Duration | None = ..., tags: Mapping[str, str] | None = ...,
        retention: Retention | None = ..., queue: str | None = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Callable[[A1, A2, A3, A4], Awaitable[R]], a1: A1, a2: A2, a3: A3, a4: A4, /, *,
        id: str | None = ..., priority: int = ..., delay: Duration | None = ...,
        tags: Mapping[str, str] | None = ..., retention: Retention | None = ..., queue: str | None = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: str, /, *, input: Mapping[str, Any] | None = ..., id: str | None = ..., priority: int = ...,
        delay: Duration | None = ..., tags: Mapping[str, str] | None = ..., retention: Retention | None = ...,
        queue: str | None = ..., anyway: bool = ...,
    ) -> RunHandle[Any]: ...  # fmt: skip
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> RunHandle[Any]:
        """Start a run.

        Args:
            workflow: a registered workflow, followed by its arguments, or the name of one that some worker serves.
            input: with a name, the arguments by parameter name.
            id: of the run, unique in the store; a second start of the same id and input finds the first run.
            priority: higher is claimed first; 0 by default.
            delay: start after this duration.
            tags: labels to find it by.
            retention: how long it is kept after it ended; the workflow's, or the engine's, by default.
            queue: where it goes; the workflow's by default.
            anyway: with a name, even if workers have announced others and not this one.

        Returns:
            The run. It is durable once this returns.

        Raises:
            RunExistsError: the id belongs to a run that was started with something else.
            SerializationError, PayloadTooLargeError: the arguments cannot be stored.
            UnknownWorkflowError: workers have announced other names than this one.
        """
        announced = await self.client.announced.look(workflow, options)
        found, new = new_run(self.registry, self.settings, self.world, workflow, args, options, announced)
        ending = await self.client.create(new)
        return RunHandle(self.client, new.id, None if found is None else found.result, ending)

    async def start_many(
        self,
        workflow: Workflow[P, R],
        inputs: Iterable[Sequence[Any]],
        *,
        ids: Iterable[str] | None = None,
        **options: Any,
    ) -> list[RunHandle[R]]:
        """Start many runs of a workflow, in batches of one store operation each.

        Args:
            workflow: a registered workflow.
            inputs: the arguments of each run.
            ids: their ids, one for each; None for new ones.
            options: as for `start`.

        Raises:
            As for `start`; nothing is started if one input is wrong.
        """
        arguments = list(inputs)
        names: list[str | None] = list(ids) if ids is not None else [None] * len(arguments)
        if len(names) != len(arguments):
            raise UsageError(f"ids: {len(names)} ids for {len(arguments)} inputs; give one each")
        return await self.start_each(
            (workflow, tuple(args), {**options, "id": name}) for args, name in zip(arguments, names, strict=True)
        )

    def run(self, run_id: str, workflow: Workflow[..., R] | None = None) -> RunHandle[R]:
        """Return the handle of a run by its id; nothing is looked up.

        Args:
            run_id: which run.
            workflow: to read its result as that workflow's type.
        """
        return RunHandle(self.client, run_id, None if workflow is None else workflow.result)

    async def start_each(
        self, calls: Iterable[tuple[Workflow[..., Any], tuple[Any, ...], Mapping[str, Any]]]
    ) -> list[RunHandle[Any]]:
        """Start runs of several workflows in few store operations.

        Args:
            calls: for each run its workflow, its arguments and its options as for `start`.

        Raises:
            As for `start`; nothing is started if one call is wrong.
        """
        news = [
            (workflow, new_run(self.registry, self.settings, self.world, workflow, args, options)[1])
            for workflow, args, options in calls
        ]
        endings = await self.client.create_many([new for _, new in news])
        return [
            RunHandle(self.client, ending.run_id, workflow.result, ending)
            for (workflow, _), ending in zip(news, endings, strict=True)
        ]

    # Looking.

    async def runs(
        self,
        *,
        status: RunStatus | str | Sequence[RunStatus | str] = (),
        workflow: str | None = None,
        queue: str | None = None,
        parent: str | None = None,
        id_prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> RunPage:
        """Return a page of runs, latest created first.

        Args:
            status: one or several states; empty for all.
            workflow, queue, parent: of this workflow, in this queue, started by this run.
            id_prefix: whose id begins so.
            tags: that carry all of these.
            limit: how many at most, up to 1,000.
            cursor: `RunPage.cursor` of the page before.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit: {limit!r} must be from 1 to 1,000")
        states = (status,) if isinstance(status, str) else tuple(status)
        known = [state.value for state in RunStatus]
        if unknown := [state for state in states if state not in known]:
            raise UsageError(f"status: {unknown[0]!r} is none of {', '.join(known)}")
        where = RunFilter(
            tuple(RunStatus(state) for state in states), workflow, queue, parent, id_prefix, dict(tags or {})
        )
        return await self.client.find(where, limit, cursor)

    async def stats(self) -> Stats:
        """Return counts of the runs per status and per queue."""
        return await self.client.store.stats(self.world.now())

    async def describe(self) -> StoreInfo:
        """Return what the store is and what its acknowledgement means."""
        return await self.client.store.describe()
