"""What an application asks about its runs: the verbs of `Perdure` that start, find and count them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from perdure.authoring.enqueuing import StartOptions
from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow
from perdure.engine.client.client import Client
from perdure.engine.client.handle import RunHandle
from perdure.engine.client.listing import WorkflowSummary, find_those, summaries
from perdure.engine.client.starting import new_run
from perdure.engine.ending import Ending, end_of
from perdure.engine.env import Env
from perdure.engine.settings import Settings
from perdure.engine.worker.status import WorkerStatus, statuses
from perdure.model.codec import Shape
from perdure.model.decision import RunFilter, RunPage, Stats, StoreInfo
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.model.run import Created, NewRun, RunStatus

P = ParamSpec("P")
R = TypeVar("R")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")


class Verbs:
    """The verbs; whoever inherits them has the registry, the settings and the world, and opens the client."""

    registry: Registry
    settings: Settings
    world: Env

    def __init__(self) -> None:
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The verbs behind this object.

        Raises:
            StoreUnavailableError: the engine is not open.
        """
        if self._client is None:
            raise StoreUnavailableError("this engine is not open; use it inside `async with app:`")
        return self._client

    # Starting.

    @overload
    async def start(self, workflow: Callable[[], Awaitable[R]], /, **options: Unpack[StartOptions]) -> RunHandle[R]: ...
    @overload
    async def start(
        self, workflow: Callable[[A1], Awaitable[R]], a1: A1, /, **options: Unpack[StartOptions]
    ) -> RunHandle[R]: ...
    @overload
    async def start(
        self, workflow: Callable[[A1, A2], Awaitable[R]], a1: A1, a2: A2, /, **options: Unpack[StartOptions]
    ) -> RunHandle[R]: ...
    @overload
    async def start(
        self, workflow: Callable[[A1, A2, A3], Awaitable[R]], a1: A1, a2: A2, a3: A3, /, **options: Unpack[StartOptions]
    ) -> RunHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: Callable[[A1, A2, A3, A4], Awaitable[R]],
        a1: A1,
        a2: A2,
        a3: A3,
        a4: A4,
        /,
        **options: Unpack[StartOptions],
    ) -> RunHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        /,
        *,
        input: Any = ...,
        anyway: bool = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> RunHandle[Any]:
        """Start a run.

        Args:
            workflow: a registered workflow, followed by its arguments, or the name of one that some worker serves.
            input: with a name, the arguments by parameter name; with that of a graph, its input.
            id: of the run, unique in the store; a second start of the same id and input finds the first run.
            priority: higher is claimed first; 0 by default.
            delay: start after this duration.
            tags: labels to find it by.
            retention: how long it is kept after it ended; the workflow's, or the engine's, by default.
            queue: where it goes; the workflow's by default.
            expires, limit_key, dedup, debounce: see `Task.options`.
            anyway: with a name, whatever workers have announced: even others and not this one, or another input.
            tx: a connection to the store's database, in a transaction: the run is created in that transaction, and
                exists once it is committed.

        Returns:
            The run. It is durable once this returns; with `tx`, once the transaction is committed, and until then
            whoever asks for it finds no run.

        Raises:
            RunExistsError: the id belongs to a run that was started with something else.
            SerializationError, PayloadTooLargeError: the arguments cannot be stored, or do not fit the workflow.
            UnknownWorkflowError: workers have announced other names than this one.
            UsageError: an option is wrong; the store cannot use `tx`.
        """
        known, limit = self.client.announced, self.settings.limits.payload_bytes
        announced = await known.look(workflow, options)
        if not args:
            announced = await known.fitting(announced, options.get("input"), options, limit)
        found, new = new_run(self.registry, self.settings, self.world, workflow, args, options, announced)
        begun = await self.client.create(new, options.get("tx"))
        return self._handle(None if found is None else found.result, new, begun, options)

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
            calls: for each run its workflow, its arguments and its options as for `start`; `tx` is the same for all.

        Raises:
            As for `start`; nothing is started if one call is wrong.
        """
        asked = list(calls)
        news = [
            new_run(self.registry, self.settings, self.world, workflow, args, options)[1]
            for workflow, args, options in asked
        ]
        connections = [options.get("tx") for _, _, options in asked]
        if any(connection is not connections[0] for connection in connections):
            raise UsageError("tx: give all runs of one call the same connection, or none")
        every = await self.client.create_many(news, connections[0] if connections else None)
        return [
            self._handle(workflow.result, new, begun, options)
            for (workflow, _, options), new, begun in zip(asked, news, every, strict=True)
        ]

    def _handle(
        self, shape: Shape | None, new: NewRun, begun: tuple[Ending, Created], options: Mapping[str, Any]
    ) -> RunHandle[Any]:
        ending, created = begun
        # An id of our own making is there because of this call, even if the answer to it was lost and it was repeated.
        is_new = created.id == new.id if options.get("id") is None else created.is_new
        return RunHandle(self.client, ending.run_id, shape, ending, is_new=is_new)

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

        Where few of many runs are meant, it may have fewer than `limit`, even none, though more follow: see its cursor.

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

    async def in_need(self, *, limit: int = 100, cursor: str | None = None) -> RunPage:
        """Return a page of the runs that go on only once somebody helps, latest created first.

        Those are parked, or some of their undos failed.

        Args:
            limit: how many at most, up to 1,000; where many others are paused, a page has fewer, though more follow.
            cursor: `RunPage.cursor` of the page before.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit: {limit!r} must be from 1 to 1,000")
        where = RunFilter((RunStatus.COMPENSATION_FAILED, RunStatus.PAUSED))
        return await find_those(self.client.store, where, lambda run: end_of(run) is not None, limit, cursor)

    async def workflows(self) -> list[WorkflowSummary]:
        """Return the workflows, tasks, graphs and definitions that workers have announced or are registered here."""
        catalog = await self.client.store.catalog()
        return summaries(catalog, self.registry.workflows.values(), self.world.now())

    async def workers(self, *, limit: int = 1_000) -> list[WorkerStatus]:
        """Return what the store's workers said of themselves last, those that started last first.

        One that ended in order is not among them; one that died is, for an hour (see `WorkerStatus.is_silent`).

        Args:
            limit: how many at most, up to 1,000.
        """
        return await statuses(self.client.store, limit)

    async def stats(self) -> Stats:
        """Return counts of the runs per status and per queue."""
        return await self.client.store.stats(self.world.now())

    async def describe(self) -> StoreInfo:
        """Return what the store is and what its acknowledgement means."""
        return await self.client.store.describe()
