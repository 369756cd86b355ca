"""`perdure.workflow("name")`: builds a DAG step by step.

```
order = (
    workflow("order.process", input=Order)
    .step("validate", validate)
    .step("charge", charge, after="validate", compensate=refund)
    .build()
)
```
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

import msgspec

from perdure.authoring.decorators import caller_scope
from perdure.authoring.expressions import FlawsError
from perdure.authoring.graphs.compiling import Compiler
from perdure.authoring.graphs.context import Context
from perdure.authoring.graphs.dag import Dag
from perdure.authoring.graphs.drafts import Draft
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.graphs.writing import written
from perdure.authoring.spreading import LIMIT, Bounds, Tolerate
from perdure.core.ask import RunIn
from perdure.model.duration import Duration
from perdure.model.errors import DefinitionError
from perdure.model.name import check_name
from perdure.model.retry import Retry
from perdure.model.run import Retention

Function = TypeVar("Function", bound=Callable[..., Any])
When = Callable[[Context], bool] | str
Data = Callable[[Context], Any] | Mapping[str, Any] | str


_OPTIONS = (
    "after", "when", "when_unmet", "compensate", "data", "retry", "timeout", "run_in", "tx", "queue", "priority",
    "over",
)  # fmt: skip


def workflow(
    name: str,
    *,
    version: str = "",
    queue: str = "default",
    input: Any = Any,
    retention: Retention | None = None,
    output: Data | None = None,
) -> DagBuilder:
    """Begin a workflow that is a graph of steps.

    Args:
        name: its name in the store.
        version: a label of its code, recorded with each run.
        queue: where its runs go.
        input: the type of its input, or its JSON Schema; plain JSON values by default. See `DagBuilder.input`.
        retention: how long its ended runs are kept; the engine's by default.
        output: its result: the name of the step that has it, a function of the context, or data with references; by
            default the results of all steps that ran, by name.
    """
    builder = DagBuilder(
        check_name(name, "workflow name"), output, {"version": version, "queue": queue, "retention": retention}
    )
    return builder.input(input)


class DagBuilder:
    """A DAG that is being built; see `workflow`."""

    def __init__(self, name: str, output: Data | None, options: dict[str, Any]) -> None:
        self.name = name
        self._output = output
        self._options = options
        self._input: Any = Any
        self._drafts: list[Draft] = []

    def input(self, taken: Any, /) -> DagBuilder:
        """Say what the workflow's input is.

        Args:
            taken: its type, or its JSON Schema (2020-12): an input that does not fit is refused when a run is started,
                and properties that are not given get the schema's defaults.

        Raises:
            DefinitionError: it is a schema that is wrong or cannot be used.
        """
        if isinstance(taken, Mapping):
            try:
                taken = InputSchema(taken)
            except FlawsError as error:
                raise DefinitionError(f"workflow {self.name!r}: {error}") from None
        self._input = taken
        return self

    @overload
    def step(
        self, name: str, calls: Callable[..., Any], /, *, after: str | Sequence[str] = ..., when: When | None = ...,
        when_unmet: str = ..., compensate: Callable[..., Any] | None = ..., data: Data | None = ...,
        retry: Retry | None = ..., timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool = ...,
        queue: str | None = ..., priority: int | None = ...,
    ) -> DagBuilder: ...  # fmt: skip
    @overload
    def step(
        self, *, name: str | None = ..., after: str | Sequence[str] = ..., when: When | None = ...,
        when_unmet: str = ..., compensate: Callable[..., Any] | None = ..., data: Data | None = ...,
        retry: Retry | None = ..., timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool = ...,
    ) -> Callable[[Function], Function]: ...  # fmt: skip
    def step(self, *given: Any, name: str | None = None, after: str | Sequence[str] = (), **options: Any) -> Any:
        """Add a step: `step(name, function, after=...)`, or `@builder.step(after=...)` above a function.

        Args:
            given: its name, and what it calls: a function, which becomes a step of the run, a step, a task, which runs
                on its queue, a workflow or another DAG. Which arguments that gets, says
                `perdure.authoring.graphs.binding`.
            name: for the decorator, the step's name; the function's by default.
            after: the step that it comes after, or several; by default none, so that it begins with the run.
            when: whether it runs: a function of the context, or a JMESPath expression; it runs by default.
            when_unmet: `"skip"` goes on with the steps behind it, `"skip-cascade"` skips them too.
            compensate: undoes it if the run fails later; it is called like a step, with its result among the results.
            data: its arguments: a function of the context, or data with references such as `"${steps.charge.id}"`.
            retry: when it is attempted again; three attempts by default, for a task what that says.
            timeout: of one attempt (a duration); None for none, for a task for what that says.
            run_in: for a function or a step, `"thread"`, `"loop"` or `"process"`.
            tx: for a function, that its own SQL is committed together with its record.
            queue: for a task or a workflow, another queue than its own.
            priority: for a task or a workflow, another priority than its own.
        """
        return self._add(given, name, after, None, sys._getframe(1), options)

    @overload
    def map(
        self, name: str, calls: Callable[..., Any], /, *, over: Data, after: str | Sequence[str] = ...,
        limit: int = ..., tolerate: Tolerate = ..., collect: bool = ..., when: When | None = ..., when_unmet: str = ...,
        compensate: Callable[..., Any] | None = ..., data: Data | None = ..., retry: Retry | None = ...,
        timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool = ..., queue: str | None = ...,
        priority: int | None = ...,
    ) -> DagBuilder: ...  # fmt: skip
    @overload
    def map(
        self, *, over: Data, name: str | None = ..., after: str | Sequence[str] = ..., limit: int = ...,
        tolerate: Tolerate = ..., when: When | None = ..., when_unmet: str = ...,
        compensate: Callable[..., Any] | None = ..., data: Data | None = ..., retry: Retry | None = ...,
        timeout: Duration | None = ..., run_in: RunIn | None = ..., tx: bool = ...,
    ) -> Callable[[Function], Function]: ...  # fmt: skip
    def map(
        self,
        *given: Any,
        over: Data,
        name: str | None = None,
        after: str | Sequence[str] = (),
        limit: int = LIMIT,
        tolerate: Tolerate = 0,
        collect: bool = True,
        **options: Any,
    ) -> Any:
        """Add a step that is done for each of many items: `map(name, function, over=...)`, or as a decorator.

        Its result is the list of the items' results, in their order, with a `perdure.ItemFailure` for each that failed.

        Args:
            given: its name, and what it calls for each item; see `step`.
            over: the items: the name of a step before it whose result they are, a function of the context, or a
                reference.
            name, after: as for `step`, and so are the other options.
            limit: how many items are under way at once.
            tolerate: how many may fail: a number of them, or a share such as `0.05` or `"5%"`.
            collect: False counts the results instead of keeping them; its result is then a `perdure.MapSummary`.
        """
        return self._add(
            given, name, after, Bounds(limit, tolerate, collect), sys._getframe(1), {"over": over, **options}
        )

    def build(self) -> Dag:
        """Return the workflow, which `app.add` then registers.

        Raises:
            DefinitionError: something is wrong with it; the message lists everything, each with its place.
        """
        schema = self._input if isinstance(self._input, InputSchema) else None
        compiler = Compiler(self._drafts, Any if schema is not None else self._input, schema)
        try:
            graph, nodes, output = compiler.compile(self._output)
        except FlawsError as error:
            lines = "".join(f"\n  {each}" for each in error.found)
            raise DefinitionError(f"workflow {self.name!r} cannot be built:{lines}") from None
        drafts, given, options = list(self._drafts), self._output, {**self._options, "input": self._input}
        return Dag(
            graph,
            nodes,
            name=self.name,
            output=output,
            uses_expressions=compiler.uses_expressions,
            written=lambda: _json(written(self.name, drafts, given, options)),
            **options,
        )

    def _add(
        self,
        given: tuple[Any, ...],
        name: str | None,
        after: str | Sequence[str],
        bounds: Bounds | None,
        frame: Any,
        options: dict[str, Any],
    ) -> Any:
        scope = caller_scope(frame)

        def add(title: str, calls: Any) -> None:
            def at(field: str) -> str:
                return f"step {title!r}, {field}" if field else f"step {title!r}, "

            if not isinstance(after, Iterable):
                raise DefinitionError(f"{at('after')}: {after!r} must be a step's name or a list of them")
            earlier = [after] if isinstance(after, str) else list(after)
            if unknown := sorted(options.keys() - _OPTIONS):
                raise DefinitionError(
                    f"step {title!r}: there is no option {unknown[0]!r}; known: {', '.join(_OPTIONS)}"
                )
            self._drafts.append(Draft(title, calls, at, after=earlier, bounds=bounds, local_names=scope, **options))

        if len(given) == 2:
            add(*given)
            return self
        if given:
            raise DefinitionError(
                "give a step's name and what it calls: step('charge', charge); or use it as a decorator"
            )

        def decorate(function: Any) -> Any:
            add(name or str(getattr(function, "__name__", "")), function)
            return function

        return decorate


def _json(data: Mapping[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
