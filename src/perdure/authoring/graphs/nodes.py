"""The steps of a DAG, ready to be asked for: what each calls, with which arguments, when, and how it is undone."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import msgspec

from perdure.authoring.graphs.binding import Bind
from perdure.authoring.graphs.context import Context
from perdure.authoring.mapping import spread_out
from perdure.authoring.spreading import Bounds, Items, Spread
from perdure.authoring.undo import Undoing
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.core.ask import Ask, ChildAsk, ChildSpec, StepAsk, StepSpec
from perdure.core.replay import Replay
from perdure.core.saga import Undo, undo_key
from perdure.model import codec
from perdure.model.codec import Shape
from perdure.model.decision import CatalogEntry
from perdure.model.errors import SerializationError, UsageError

ANY = Shape(Any, "the result of a step")

Make = Callable[[Context], Any]


class Target(Protocol):
    """What a step of a DAG calls."""

    def ask(self, replay: Replay, ctx: Context, name: str, undo: Undo | None = None) -> Ask:
        """Ask for it, recorded under a name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inline:
    """A step in the run itself.

    Attributes:
        spec: how it runs.
        bind: makes its arguments.
        undoing: how it is undone by itself.
    """

    spec: StepSpec
    bind: Bind
    undoing: Undoing | None = None

    def ask(self, replay: Replay, ctx: Context, name: str, undo: Undo | None = None) -> StepAsk:
        """Ask for the step."""
        args, kwargs = self.bind(ctx)
        if undo is None and self.undoing is not None:
            undo = self.undoing.of(args, kwargs)
        return replay.ask_step(self.spec, args, kwargs, undo, name)


class Child(Protocol):
    """A target that is a run of its own."""

    def ask(self, replay: Replay, ctx: Context, name: str, undo: Undo | None = None) -> ChildAsk:
        """Ask for it, recorded under a name."""

    def spec(self, replay: Replay, ctx: Context) -> ChildSpec:
        """Return what starts it."""

    @property
    def is_undone(self) -> bool:
        """Whether it has an undo of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a step of a DAG wants otherwise for its child; None takes the workflow's own.

    Attributes:
        queue, priority: of the child.
        overrides: the retries and the timeout of a task, as text; see `perdure.core.overrides`.
    """

    queue: str | None = None
    priority: int | None = None
    overrides: str | None = None

    def applied(self, spec: ChildSpec) -> ChildSpec:
        """Return a child's spec with these."""
        given = {name: getattr(self, name) for name in ("queue", "priority", "overrides")}
        changed = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(spec, **changed) if changed else spec


@dataclasses.dataclass(frozen=True, slots=True)
class Called:
    """A task, a workflow or another DAG that is written in code."""

    workflow: Workflow[..., Any]
    bind: Bind
    options: Options

    def ask(self, replay: Replay, ctx: Context, name: str, undo: Undo | None = None) -> ChildAsk:
        """Ask for the child run."""
        args, kwargs = self.bind(ctx)
        if undo is None and self.workflow.undoing is not None:
            undo = self.workflow.undoing.of(args, kwargs)
        spec = self.workflow.child(args, kwargs, replay.limits.payload_bytes)
        return replay.ask_child(self.options.applied(spec), name, undo)

    def spec(self, replay: Replay, ctx: Context) -> ChildSpec:
        """Return what starts the child."""
        args, kwargs = self.bind(ctx)
        return self.options.applied(self.workflow.child(args, kwargs, replay.limits.payload_bytes))

    @property
    def is_undone(self) -> bool:
        """Whether the workflow has an undo."""
        return self.workflow.undoing is not None


Found = Workflow[..., Any] | CatalogEntry
"""What is known of a workflow that is called by name: itself, or what its workers have announced."""


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A task or workflow by its name, wherever it is written.

    Attributes:
        workflow: its name.
        make: makes its input, all of it.
        options: what is wanted otherwise.
        find: returns what is known of it at present; None for nothing.
    """

    workflow: str
    make: Make
    options: Options
    find: Callable[[str], Found | None]

    def ask(self, replay: Replay, ctx: Context, name: str, undo: Undo | None = None) -> ChildAsk:
        """Ask for the child run."""
        return replay.ask_child(self.spec(replay, ctx), name, undo)

    def spec(self, replay: Replay, ctx: Context) -> ChildSpec:
        """Return what starts the child."""
        what = f"the input of {self.workflow!r}"
        payload = codec.encode(self.make(ctx), what, replay.limits.payload_bytes)
        found = self.find(self.workflow)
        version, queue = (found.version, found.queue) if found is not None else ("", "default")
        spec = ChildSpec(
            self.workflow, version, queue, payload, fingerprint(self.workflow, payload), ANY, **_own(found, payload)
        )
        return self.options.applied(spec)

    @property
    def is_undone(self) -> bool:
        """Undos of its own are those of code that calls it."""
        return False


def _own(found: Found | None, payload: str) -> dict[str, Any]:
    """Return what a task wants of its runs; its limit key is known only where the task itself is."""
    if isinstance(found, CatalogEntry):
        told = msgspec.json.decode(found.details)
        return {"priority": told.get("priority"), "expires_ms": told.get("expires_ms")}
    if found is None:
        return {}
    try:
        args, kwargs = found.arguments(payload)
        key = found.limit_key(tuple(args), kwargs)
    except SerializationError:  # the child will say so
        key = ""
    return {"priority": found.priority, "expires_ms": found.expires_ms, "limit_key": key}


@dataclasses.dataclass(frozen=True, slots=True)
class Over:
    """The items of a map.

    Attributes:
        make: gives the list of them.
        bounds: how the map is done.
    """

    make: Make
    bounds: Bounds


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A step of a DAG.

    Attributes:
        name: its name.
        where: what errors call it.
        target: what it calls.
        before: the names of all steps before it.
        when: whether it runs; None for always.
        cascades: where it does not, what follows it does not either.
        compensate: what undoes it; None for what it calls to know.
        over: for a map, its items.
        is_plain: its results are plain JSON data.
    """

    name: str
    where: str
    target: Target
    before: AbstractSet[str]
    when: Callable[[Context], bool] | None = None
    cascades: bool = False
    compensate: Target | None = None
    over: Over | None = None
    is_plain: bool = True

    def begin(self, replay: Replay, context: Callable[..., Context]) -> asyncio.Future[Any]:
        """Ask for it; return the future of its result.

        Args:
            replay: of the run.
            context: makes what it is given, for an item of that number where there is one; with `own=` the step's own
                result, for its undo.
        """
        if self.over is None:
            asked = self.target.ask(replay, context(self), self.name, self._undo(replay, context))
            assert asked.future is not None
            return asked.future
        return self._spread(self.over, replay, context).future

    def _spread(self, over: Over, replay: Replay, context: Callable[..., Context]) -> Spread:
        items = over.make(context(self))
        if isinstance(items, str | bytes | Mapping) or not hasattr(items, "__iter__"):
            raise UsageError(f"{self.where}, over: it gave {type(items).__name__}; it must give a list of items")
        target: Any = self.target

        def spec(number: int, item: Any) -> ChildSpec:
            made: ChildSpec = target.spec(replay, context(self, item, number))
            return made

        def begin(number: int, item: Any) -> Ask:
            undo = self._undo(replay, context, item, number)
            return self.target.ask(replay, context(self, item, number), self.name, undo)

        stays_here = isinstance(target, Inline) or self.compensate is not None or target.is_undone
        given = Items(items, over.bounds.tolerate)
        return spread_out(replay, given, begin, None if stays_here else spec, self.name, over.bounds)

    def _undo(
        self, replay: Replay, context: Callable[..., Context], item: object = None, index: int = 0
    ) -> Undo | None:
        compensate = self.compensate
        if compensate is None:
            return None

        def undo(result: Any) -> Coroutine[Any, Any, Any]:
            ctx = context(self, item, index, own={self.name: result})
            return _settled(replay, compensate.ask(replay, ctx, undo_key()))

        return undo


async def _settled(replay: Replay, ask: Ask) -> Any:
    return await replay.wait_for(ask)
