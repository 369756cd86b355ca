"""Tasks: functions that run on a queue, each call a run of its own."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from perdure.authoring.context import step_or_raise
from perdure.authoring.enqueuing import (
    Batch,
    Debounce,
    Dedup,
    StartOptions,
    check_limit_key,
    check_priority,
    check_tags,
    check_text,
)
from perdure.authoring.step import step_spec
from perdure.authoring.workflow import Check, Workflow
from perdure.core.ask import ChildSpec, RunIn, StepSpec
from perdure.core.loop import running
from perdure.model.codec import Parameters
from perdure.model.duration import Duration, milliseconds
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.name import check_name
from perdure.model.record import Record
from perdure.model.retry import Retry
from perdure.model.run import Retention, Run, RunStatus

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_OF_A_CHILD = {"id", "queue", "priority", "delay", "tags", "retention", "expires", "limit_key"}
_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "id": check_text,
    "queue": check_name,
    "priority": check_priority,
    "tags": check_tags,
    "limit_key": check_limit_key,
    "retention": Retention.check,
}
"""What an option has to be, where that does not depend on the moment."""


class Enqueued(Protocol[R_co]):
    """A run that was enqueued, as `perdure.RunHandle` is one; see there."""

    id: str
    is_new: bool | None

    async def result(self, timeout: Duration | None = None) -> R_co:  # of the wait; the run goes on
        """Wait for the result."""

    async def get(self) -> Run:
        """Return the run as the store has it."""

    async def journal(self) -> list[Record]:
        """Return the run's records."""

    async def pause(self) -> RunStatus:
        """Have it not be begun, or its next attempt not be made."""

    async def resume(self) -> RunStatus:
        """Let it go on."""

    async def restart(self) -> RunStatus:
        """Begin it anew."""


class Enqueuer(Protocol):
    """An application, as a task sees it."""

    def enqueue(self, task: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Start a run of the task."""

    def enqueue_many(self, task: Any, inputs: Iterable[Any], /) -> Coroutine[Any, Any, list[Any]]:
        """Start a run of the task for each input."""


class Task(Workflow[P, R], Generic[P, R]):
    """A function that runs on a queue: a workflow whose one step is the function.

    `await task.enqueue(...)` starts a run of it. Called in workflow code, it runs as a child, on its queue, whoever
    serves that; await the call. Called anywhere else, it is the plain function. `@app.task` makes one; see there for
    the arguments.

    Raises:
        DefinitionError: the function cannot be a task. UsageError: an option is out of its range.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        version: str = "",
        queue: str = "default",
        priority: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        expires: Duration | None = None,
        run_in: RunIn | None = None,
        tx: bool = False,
        retention: Retention | None = None,
        limit_key: Callable[..., str | None] | None = None,
        undo: Callable[..., Any] | None = None,
        batch: Batch | None = None,
        check: Check | None = None,
        local_names: Mapping[str, Any] | None = None,
    ) -> None:
        title = name or str(getattr(function, "__name__", ""))
        self.batch = batch
        self.check = check
        super().__init__(
            function, name=title, version=version, queue=queue, retention=retention, local_names=local_names, undo=undo
        )
        leaf = step_spec(
            function, name=title, retry=retry, timeout=timeout, run_in=run_in, tx=tx, local_names=local_names
        )
        self.leaf = leaf if batch is None else self._gathered(leaf, batch)
        self.priority = None if priority is None else check_priority(priority, f"task {title!r}, priority")
        self.expires_ms = None if expires is None else milliseconds(expires, field=f"task {title!r}, expires")
        self.given: StartOptions = {}
        self._limit_key = self._checked(limit_key)
        self._apps: weakref.WeakSet[Any] = weakref.WeakSet()

    @classmethod
    def of(cls, function: Callable[..., Any], **options: Any) -> Task[..., Any]:
        """Return a function as a task, which `app.add` then registers.

        The options are those of `@app.task`, and `check`, by which graphs and definitions that call it are refused.
        """
        return cls(function, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """Return the coroutine of the task's result: of a child run in workflow code, else of the plain function.

        Raises:
            ChildFailedError: when awaited in workflow code, if the run did not complete.
        """
        loop = running()
        return self._plainly(args, kwargs) if loop is None else self._as_child(loop, args, kwargs)

    def options(
        self,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: Duration | None = None,
        expires: Duration | None = None,
        tags: Mapping[str, str] | None = None,
        retention: Retention | None = None,
        limit_key: str | None = None,
        dedup: Dedup | None = None,
        debounce: Debounce | None = None,
        tx: Any = None,
    ) -> Task[P, R]:
        """Return the same task with options for the runs that it starts: `await task.options(delay="1h").enqueue(...)`.

        Args:
            id: of the run, unique in the store; a second one of the same id and input finds the first run.
            queue: another queue than the task's.
            priority: higher is claimed first; the task's by default, or else the parent's, or 0.
            delay: begin after this duration.
            expires: how long after it is due it may be begun; the task's by default.
            tags: labels to find it by.
            retention: how long it is kept after it ended; the task's, or the engine's, by default.
            limit_key: what it counts as under its queue's limits per key; what the task's `limit_key` says by default.
            dedup: start no second run of this key; the first one is returned instead.
            debounce: begin once nothing more of this key was enqueued for a while, with the last one's arguments.
            tx: a connection to the store's database, in a transaction: the run exists once that is committed.

        Raises:
            UsageError: an option is none that a run can have, or contradicts another one.
        """
        asked = {
            "id": id, "queue": queue, "priority": priority, "delay": delay, "expires": expires, "tags": tags,
            "retention": retention, "limit_key": limit_key, "dedup": dedup, "debounce": debounce, "tx": tx,
        }  # fmt: skip
        given = {**self.given, **{name: value for name, value in asked.items() if value is not None}}
        for name, check in _CHECKS.items():
            if asked[name] is not None:
                check(asked[name], f"task {self.name!r}, {name}")
        if one_of := sorted({"id", "dedup", "debounce"} & given.keys())[1:]:
            raise UsageError(f"task {self.name!r}: {one_of[0]} cannot go with another of id, dedup and debounce")
        if "delay" in given and "debounce" in given:
            raise UsageError(f"task {self.name!r}: delay cannot go with debounce, which says when the run is due")
        other = copy.copy(self)
        other.given = cast(StartOptions, given)
        return other

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Enqueued[R]:
        """Start a run of this task with these arguments, on the application that it is registered with.

        Of a batched task, each call takes one item. Options are given by `options`.

        Raises:
            UsageError: it is registered with no application, or with several; an argument or an option is wrong.
            SerializationError, PayloadTooLargeError: the arguments cannot be stored.
        """
        handle: Enqueued[R] = await self._app().enqueue(self, *args, **kwargs)
        return handle

    async def enqueue_many(self, inputs: Iterable[Any]) -> list[Enqueued[R]]:
        """Start a run for each input, in few store operations.

        Args:
            inputs: the arguments of each run, as a tuple; of a batched task, the items.

        Raises:
            As for `enqueue`; nothing is started if one input is wrong.
        """
        return await self._app().enqueue_many(self, inputs)

    def joined(self, app: Enqueuer) -> None:
        """Take note that it was registered with an application."""
        self._apps.add(app)

    def limit_key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return what a run of these arguments counts as under its queue's limits per key; empty for none.

        The task's `limit_key` gets all arguments of the function, those with defaults too, by their places.

        Raises:
            UsageError: the task's `limit_key` gave neither text nor None; the arguments are not the task's.
        """
        if self._limit_key is None:
            return ""
        try:
            bound = self.parameters.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(f"task {self.name!r}: {error}") from None
        bound.apply_defaults()
        key = self._limit_key(*bound.args, **bound.kwargs)
        return check_limit_key("" if key is None else key, f"task {self.name!r}, limit_key")

    def child(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int, **options: Any) -> ChildSpec:
        """Return what starts this task as a child.

        Raises:
            UsageError: it has an option that a child cannot have.
        """
        given: dict[str, Any] = dict(self.given)
        if wrong := sorted(given.keys() - _OF_A_CHILD):
            raise UsageError(f"task {self.name!r}: {wrong[0]} is not for tasks that workflow code waits for")
        given["run_id"] = given.pop("id", None)
        given.update({name: value for name, value in options.items() if value is not None and value != {}})
        queue = given.pop("queue", self.queue)
        delay, expires = given.pop("delay", None), given.pop("expires", None)
        key = given.pop("limit_key", None)
        given.setdefault("priority", self.priority)
        return dataclasses.replace(
            super().child(args, kwargs, limit, **given),
            queue=queue,
            limit_key=self.limit_key(args, kwargs) if key is None else key,
            delay_ms=0 if delay is None else milliseconds(delay, field="delay"),
            expires_ms=self.expires_ms if expires is None else milliseconds(expires, field="expires"),
        )

    def details(self) -> dict[str, Any]:
        """Return what workers announce of it beside its name, version, queue and schemas, as JSON data."""
        known = {"priority": self.priority, "expires_ms": self.expires_ms}
        return {"kind": "task", **{name: value for name, value in known.items() if value is not None}}

    async def _plainly(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.batch is not None:
            args, kwargs = ([self._item(args, kwargs)],), {}
        result = self.function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    def _gathered(self, spec: StepSpec, batch: Batch) -> StepSpec:
        """Return the step of one item, which waits for a call of the function with others."""
        if spec.tx:
            raise DefinitionError(f"task {spec.name!r}: a batch has no transaction; take tx or batch away")

        async def gathered(*args: Any, **kwargs: Any) -> Any:
            step = step_or_raise(f"task {spec.name!r}")
            return await step.gathered(batch, spec, self._item(args, kwargs))

        return dataclasses.replace(spec, function=gathered, run_in="loop", timeout=None, is_native=True)

    def _checked(self, limit_key: Callable[..., str | None] | None) -> Callable[..., str | None] | None:
        """Return a function that takes what the task does."""
        if limit_key is None:
            return None
        if not callable(limit_key):
            raise DefinitionError(f"task {self.name!r}, limit_key: {limit_key!r} must be a function of its arguments")
        every = self.parameters.signature.parameters.values()
        named = [parameter.name for parameter in every if parameter.kind is parameter.KEYWORD_ONLY]
        try:
            inspect.signature(limit_key).bind(*[None] * (len(every) - len(named)), **dict.fromkeys(named))
        except ValueError:  # written in C, with a signature that nobody knows
            pass
        except TypeError as error:
            taken = ", ".join(self.parameters.signature.parameters)
            raise DefinitionError(
                f"task {self.name!r}, limit_key: it must take all of the task's arguments ({taken}): {error}"
            ) from None
        return limit_key

    def _item(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the one item that a batched task is called with."""
        return next(iter((*args, *kwargs.values())))

    def _app(self) -> Enqueuer:
        apps = list(self._apps)
        if len(apps) == 1:
            app: Enqueuer = apps[0]
            return app
        which = "several applications" if apps else "no application"
        fix = "app.enqueue(task, ...)" if apps else "app.add(task)"
        raise UsageError(f"task {self.name!r} is registered with {which}; use {fix}")

    def _require_callable(self, function: Callable[..., Any], what: str) -> None:
        if not callable(function):
            raise DefinitionError(f"{what}: {function!r} cannot be called")

    def _parameters(self, function: Callable[..., Any], hints: Mapping[str, Any], what: str) -> Parameters:
        signature = inspect.signature(function)
        if self.batch is None:
            return Parameters(signature, hints, what)
        names = list(signature.parameters)
        hint = hints.get(names[0], list) if len(names) == 1 else None
        if hint is not list and typing.get_origin(hint) is not list:
            raise DefinitionError(f"{what} has batch=..., so it must take one parameter, a list of items: list[...]")
        item = inspect.Parameter(names[0], inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return Parameters(inspect.Signature([item]), {names[0]: (*typing.get_args(hint), Any)[0]}, what)
