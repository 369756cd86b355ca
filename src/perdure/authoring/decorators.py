"""The decorators that make functions steps and workflows, and fill the registry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping
from types import FrameType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from perdure.authoring.enqueuing import Batch
from perdure.authoring.purity import warn_of_impure_calls
from perdure.authoring.registry import Registry
from perdure.authoring.step import Step, step_spec
from perdure.authoring.task import Task
from perdure.authoring.workflow import Workflow
from perdure.core.ask import RunIn
from perdure.model.duration import Duration
from perdure.model.errors import DefinitionError
from perdure.model.retry import Retry
from perdure.model.run import Retention

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class StepDecorator(Protocol):
    """What `@app.step(...)` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


class WorkflowDecorator(Protocol):
    """What `@app.workflow(...)` returns."""

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]:
        """Register the function."""


class TaskDecorator(Protocol):
    """What `@app.task(...)` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BatchTaskDecorator(Protocol):
    """What `@app.task(batch=...)` returns: the function takes a list, the task one item."""

    @overload
    def __call__(self, function: Callable[[list[T]], Coroutine[Any, Any, R]], /) -> Task[[T], R]: ...
    @overload
    def __call__(self, function: Callable[[list[T]], R], /) -> Task[[T], R]: ...


class Decorators:
    """Registers functions. `registry` holds what it has registered."""

    def __init__(self) -> None:
        self.registry = Registry()

    @overload
    def step(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def step(self, function: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def step(
        self,
        *,
        name: str | None = ...,
        retry: Retry | None = ...,
        timeout: Duration | None = ...,
        run_in: RunIn | None = ...,
        tx: bool = ...,
        undo: Callable[..., Any] | None = ...,
    ) -> StepDecorator: ...
    def step(  # type: ignore[misc]  # mypy does not match ParamSpec overloads with their implementation
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        run_in: RunIn | None = None,
        tx: bool = False,
        undo: Callable[..., Any] | None = None,
    ) -> Any:
        """Make a function a step: its result is journaled when workflow code calls it.

        Args:
            function: an `async def`, which runs on the worker's loop, or a plain `def`, which runs in a thread.
            name: its name in the journal; the function's by default.
            retry: when it is attempted again; three attempts by default.
            timeout: of one attempt (a duration), after which it is stopped; None for none.
            run_in: `"process"` runs a plain `def` in a process of its own.
            tx: its own SQL, on the connection that `flow.transaction()` returns, is committed together with its record.
            undo: what undoes it if the run, or its `flow.saga()` block, fails later: a function, a step, a task or a
                workflow that takes the same arguments, or fewer, and `result=` if it has such a parameter.

        Raises:
            DefinitionError: the name is taken, the annotations cannot be stored, or the undo takes something else.
        """
        scope = caller_scope(sys._getframe(1))

        def register(function: Callable[..., Any]) -> Step[..., Any]:
            title = name or str(getattr(function, "__name__", ""))
            spec = step_spec(
                function, name=title, retry=retry, timeout=timeout, run_in=run_in, tx=tx, local_names=scope
            )
            step: Step[..., Any] = Step(function, spec, undo)
            self.registry.add_step(step)
            return step

        return register if function is None else register(function)

    @overload
    def workflow(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self, *, name: str | None = ..., version: str = ..., queue: str = ..., retention: Retention | None = ...,
        undo: Callable[..., Any] | None = ...,
    ) -> WorkflowDecorator: ...  # fmt: skip
    def workflow(  # type: ignore[misc]  # see step
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        version: str = "",
        queue: str = "default",
        retention: Retention | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> Any:
        """Make an `async def` function a workflow.

        Args:
            function: the workflow.
            name: its name in the store; the function's by default.
            version: a label of its code, recorded with each run.
            queue: where its runs go.
            retention: how long its ended runs are kept; the engine's by default.
            undo: what undoes a completed run of it that another workflow called as a child; see `step`.

        Raises:
            DefinitionError: the name is taken, parameters or result cannot be stored, or the undo takes something else.
        """
        scope = caller_scope(sys._getframe(1))

        def register(function: Callable[..., Any]) -> Workflow[..., Any]:
            title = name or str(getattr(function, "__name__", ""))
            workflow: Workflow[..., Any] = Workflow(
                function, name=title, version=version, queue=queue, retention=retention, local_names=scope, undo=undo
            )
            warn_of_impure_calls(function, f"workflow {title!r}")
            self.registry.add_workflow(workflow)
            return workflow

        return register if function is None else register(function)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, *, name: str | None = ..., version: str = ..., queue: str = ..., priority: int = ...,
        retry: Retry | None = ..., timeout: Duration | None = ..., expires: Duration | None = ...,
        run_in: RunIn | None = ..., retention: Retention | None = ...,
        limit_key: Callable[..., str | None] | None = ..., batch: Batch,
    ) -> BatchTaskDecorator: ...  # fmt: skip
    @overload
    def task(
        self, *, name: str | None = ..., version: str = ..., queue: str = ..., priority: int = ...,
        retry: Retry | None = ..., timeout: Duration | None = ..., expires: Duration | None = ...,
        run_in: RunIn | None = ..., tx: bool = ..., retention: Retention | None = ...,
        limit_key: Callable[..., str | None] | None = ..., undo: Callable[..., Any] | None = ...,
    ) -> TaskDecorator: ...  # fmt: skip
    def task(  # type: ignore[misc]  # see step
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function a task: a workflow whose one step is the function, each call a run of its own on a queue.

        Args:
            function: an `async def`, which runs on the worker's loop, or a plain `def`, which runs in a thread.
            options: those below.
            name: its name in the store; the function's by default.
            version: a label of its code, recorded with each run.
            queue: where its runs go.
            priority: higher is claimed first; 0 by default, and for a child its parent's.
            retry: when it is attempted again; three attempts by default.
            timeout: of one attempt (a duration), after which it is stopped; None for none.
            expires: a run that is not begun within this duration after it became due fails instead; None for no bound.
            run_in: `"process"` runs a plain `def` in a process of its own.
            tx: its own SQL, on the connection that `flow.transaction()` returns, is committed together with its result.
            retention: how long its ended runs are kept; the engine's by default.
            limit_key: called with a run's arguments, it says what the run counts as under its queue's limits per key.
            undo: what undoes a completed run of it that a workflow called as a child; see `step`.
            batch: the function takes a list of what a call takes one of; calls are gathered.

        Raises:
            DefinitionError: the name is taken, or parameters or result cannot be stored.
        """
        scope = caller_scope(sys._getframe(1))

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            task: Task[..., Any] = Task(function, local_names=scope, **options)
            self.add(task)
            return task

        return register if function is None else register(function)

    def add(self, *workflows: Workflow[..., Any]) -> None:
        """Register workflows that were made without a decorator: tasks by `Task.of`, graphs, tasks that come along.

        Raises:
            DefinitionError: a name is taken, or something is no workflow.
        """
        for workflow in workflows:
            if not isinstance(workflow, Workflow):
                raise DefinitionError(f"{workflow!r} is no workflow; make a function a task with Task.of(function)")
            self.registry.add_workflow(workflow)
            workflow.joined(self)


def caller_scope(frame: FrameType) -> Mapping[str, Any]:
    """Return the local names where a decorator stands, for annotations of types that are defined there."""
    return {} if frame.f_code.co_name == "<module>" else dict(frame.f_locals)
