"""From steps as they are given to the nodes of a DAG: all that can be wrong with them is found here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from perdure.authoring.enqueuing import check_priority
from perdure.authoring.expressions import ITEM_ROOTS, ROOTS, Expression, FlawsError, Template, constants
from perdure.authoring.graphs.binding import Bind, Takes, binding, by_name, fits, from_data, items_of
from perdure.authoring.graphs.context import Context
from perdure.authoring.graphs.dag import PlayContext
from perdure.authoring.graphs.drafts import ByName, Draft, as_data, own_names, result_type
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.graphs.nodes import Called, Inline, Named, Node, Options, Over, Target
from perdure.authoring.step import Step, step_spec
from perdure.authoring.task import Task
from perdure.authoring.workflow import Workflow
from perdure.core.graph import Graph, flaws
from perdure.core.overrides import Overrides
from perdure.model.codec import annotations_of
from perdure.model.duration import seconds
from perdure.model.errors import DefinitionError, PerdureError, UsageError
from perdure.model.name import check_name
from perdure.model.retry import Retry

STEPS = 1_000
"""How many steps one DAG has at most."""

UNMET = ("skip", "skip-cascade")


class Compiler:
    """Makes the nodes of one DAG.

    Args:
        drafts: its steps.
        input: the type of its input; Any where that is not known.
        schema: that of its input; None where there is none.

    Attributes:
        found: what is wrong, each with its place.
        uses_expressions: whether anything is text that is evaluated.
        inputs: what is called by name is given, by the step's name and whether it is for its undo.
    """

    def __init__(self, drafts: Sequence[Draft], input: Any = Any, schema: InputSchema | None = None) -> None:
        self.drafts = drafts
        self._schema = schema
        self.found: list[str] = []
        self.uses_expressions = False
        self.inputs: dict[tuple[str, bool], Any] = {}
        self._input = input
        self._types: dict[str, Any] = {}

    def compile(self, output: Any) -> tuple[Graph, list[Node], Callable[[Context], Any] | None]:
        """Return the graph, its nodes, and what makes the result of `output`; None for the results of all steps.

        Raises:
            FlawsError: something is wrong; it lists everything.
        """
        self._check_names()
        for flaw in flaws([(draft.name, draft.after) for draft in self.drafts]):
            draft = self.drafts[flaw.node]
            self.found.append(f"{draft.at('name' if flaw.edge is None else f'after[{flaw.edge}]')}: {flaw.message}")
        if self.found:
            raise FlawsError(self.found)
        graph = Graph([(draft.name, draft.after) for draft in self.drafts])
        self._types = {draft.name: result_type(draft) for draft in self.drafts}
        nodes = [self._node(draft, graph.before(number)) for number, draft in enumerate(self.drafts)]
        make = self._output(output, frozenset(graph.names))
        if self.found:
            raise FlawsError(self.found)
        return graph, [node for node in nodes if node is not None], make

    def _output(self, given: Any, names: AbstractSet[str]) -> Callable[[Context], Any] | None:
        if isinstance(given, str) and given in names:
            return lambda ctx: ctx.results.get(given)
        return None if given is None else self._maker(given, names, "output", ROOTS)

    def _check_names(self) -> None:
        if not self.drafts:
            self.found.append("there are no steps")
        if len(self.drafts) > STEPS:
            self.found.append(f"{len(self.drafts):,} steps are more than {STEPS:,}; call another workflow in a step")
        for draft in self.drafts:
            try:
                check_name(draft.name, "step name")
            except UsageError as error:
                self.found.append(f"{draft.at('name')}: {error}")

    def _node(self, draft: Draft, before: AbstractSet[str]) -> Node | None:
        known = len(self.found)
        if draft.retry is not None and not isinstance(draft.retry, Retry):
            self.found.append(f"{draft.at('retry')}: {draft.retry!r} must be a Retry, such as Retry(attempts=5)")
            return None
        if draft.when_unmet not in UNMET:
            self.found.append(f"{draft.at('when_unmet')}: {draft.when_unmet!r} must be {' or '.join(map(repr, UNMET))}")
        when = self._when(draft, before)
        over = self._over(draft, before)
        target = self._target(draft, draft.calls, draft.data, before)
        compensate = self._compensation(draft, before)
        if len(self.found) > known or target is None:
            return None
        return Node(
            name=draft.name,
            where=draft.where,
            target=target,
            before=before,
            when=when,
            cascades=draft.when_unmet == "skip-cascade",
            compensate=compensate,
            over=over,
            is_plain=not draft.is_map and self._types[draft.name] is Any,
        )

    def _when(self, draft: Draft, before: AbstractSet[str]) -> Callable[[Context], bool] | None:
        if draft.when is None:
            return None
        at = draft.at("when")
        if callable(draft.when):
            if inspect.iscoroutinefunction(draft.when):
                self.found.append(f"{at}: it is async; a condition looks at results, and cannot wait")
                return None
            return _told(draft.when, at)
        with _Collecting(self.found, at):
            expression = Expression(draft.when)
            self._require_before(((name, at) for name in sorted(expression.steps)), before)
            self._require_taken((path, at) for path in expression.inputs)
            self.uses_expressions = True
            return _told(lambda ctx: expression.holds(_scope(ctx)), at)
        return None

    def _over(self, draft: Draft, before: AbstractSet[str]) -> Over | None:
        if draft.bounds is None:
            return None
        bounds = draft.bounds
        try:
            bounds.check(draft.at)
        except UsageError as error:
            self.found.append(str(error))
        if isinstance(draft.over, str) and draft.over in before:
            name, kind = draft.over, self._types[draft.over]
            if not fits(kind, list):
                self.found.append(f"{draft.at('over')}: the result of step {name!r} is {_name(kind)}, which is no list")
            return Over(lambda ctx: ctx.results[name], bounds)
        if draft.over is None:
            self.found.append(f"{draft.at('over')}: it is not said what the items are")
            return None
        items = constants({"over": draft.over}).get("over") if not callable(draft.over) else None
        if items is not None and not isinstance(items, list):
            self.found.append(f"{draft.at('over')}: {draft.over!r} is neither a list nor a reference to one")
        make = self._maker(draft.over, before, draft.at("over"), ROOTS)
        return None if make is None else Over(make, bounds)

    def _maker(
        self, given: Any, before: AbstractSet[str], at: str, roots: tuple[str, ...]
    ) -> Callable[[Context], Any] | None:
        """Return what makes a value: a callable of the context as it is, or data with references in it."""
        if callable(given):
            if inspect.iscoroutinefunction(given):
                self.found.append(f"{at}: it is async; it takes values from results, and cannot wait")
                return None
            return _told(given, at)
        with _Collecting(self.found, at):
            template = Template(given, roots, at)
            self._require_before(template.steps, before)
            self._require_taken(template.inputs)
            self.uses_expressions = self.uses_expressions or template.has_expressions
            return _told(lambda ctx: template.fill(_scope(ctx)), at)
        return None

    def _require_before(
        self, steps: Iterator[tuple[str, str]] | list[tuple[str, str]], before: AbstractSet[str]
    ) -> None:
        for name, at in steps:
            if name not in before:
                exists = any(draft.name == name for draft in self.drafts)
                fix = "which does not come before it; add it to after" if exists else "which there is not"
                self.found.append(f"{at}: it refers to step {name!r}, {fix}")

    def _require_taken(self, inputs: Iterable[tuple[list[str], str]]) -> None:
        for path, at in inputs:
            if self._schema is not None and (excluded := self._schema.excludes(path)):
                self.found.append(f"{at}: it refers to {excluded}")

    # What is called, and with what.

    def _target(self, draft: Draft, calls: Any, data: Any, before: AbstractSet[str]) -> Target | None:
        with _Collecting(self.found, draft.where):
            return _target_of(self, draft, calls, data, before)
        return None

    def _compensation(self, draft: Draft, before: AbstractSet[str]) -> Target | None:
        if draft.compensate is None:
            return None
        plain = dataclasses.replace(
            draft,
            at=lambda field: draft.at("compensate" + (f".{field}" if field else "")),
            retry=None, timeout=None, run_in=None, tx=False, queue=None, priority=None,
        )  # fmt: skip
        return self._target(plain, draft.compensate, draft.compensate_data, before | {draft.name})

    def bind(
        self, draft: Draft, takes: Takes, data: Any, before: AbstractSet[str], rest: str, *, is_stored: bool = False
    ) -> Bind:
        """Return what makes the arguments, or whatever where something is wrong.

        Args:
            draft, data, before: the step, its data, and the steps that it sees the results of.
            takes: the parameters of what it calls.
            rest: what the one parameter of another name gets.
            is_stored: the arguments are the input of a run, so the context cannot be among them.
        """
        if data is not None:
            self._check_data(draft, takes, data)
            roots = ITEM_ROOTS if draft.is_map else ROOTS
            make = self._maker(data, before, draft.at("data"), roots)
            return from_data(takes, make or (lambda ctx: None), draft.at("data"))
        more = own_names(draft, before) if is_stored else ("ctx", *own_names(draft, before))
        given, wrong = by_name(takes, before, rest, in_map=draft.is_map, more=more)
        self.found += [f"{draft.at('data')}: {each}" for each in wrong]
        self._check_types(draft, takes, given)
        return binding(takes, given)

    def bind_value(self, draft: Draft, data: Any, before: AbstractSet[str]) -> Bind:
        """Return what makes the input of a graph: `data`, or else the item or the input, whole."""
        if data is None:
            return (lambda ctx: ((ctx.item,), {})) if draft.is_map else (lambda ctx: ((ctx.input,), {}))
        make = self._maker(data, before, draft.at("data"), ITEM_ROOTS if draft.is_map else ROOTS)
        return lambda ctx: ((make(ctx) if make is not None else None,), {})

    def _check_data(self, draft: Draft, takes: Takes, data: Any) -> None:
        at, whole = draft.at("data"), takes.takes_whole
        if callable(data):
            return
        if whole and not (isinstance(data, Mapping) and whole in data):
            self._check_known(takes, {whole: data}, lambda flaw: at + flaw.removeprefix(whole))
        elif isinstance(data, Mapping):
            self.found += [f"{at}: {each}" for each in takes.misfits(map(str, data))]
            self._check_known(takes, data, lambda flaw: f"{at}.{flaw}")
        elif not (takes.is_open or str(data).startswith("${")):
            self.found.append(f"{at}: {data!r} must be an object, the arguments by name")

    def _check_known(self, takes: Takes, data: Mapping[str, Any], told: Callable[[str], str]) -> None:
        """Look at the arguments that refer to nothing, which are what they will be."""
        if takes.check is not None:
            self.found += map(told, takes.check(constants(data), data.keys()))

    def _check_types(self, draft: Draft, takes: Takes, given: Mapping[str, str]) -> None:
        for name, source in given.items():
            if source.startswith("steps."):
                kind = self._types.get(source.removeprefix("steps."), Any)
                said = f"the result of step {source.removeprefix('steps.')!r}"
            elif source == "input":
                kind, said = self._input, "the input"
            elif source == "item" and isinstance(draft.over, str):
                kind, said = items_of(self._types.get(draft.over, Any)), f"an item of step {draft.over!r}"
            else:
                continue
            wanted = takes.types.get(name, Any)
            if not fits(kind, wanted):
                self.found.append(
                    f"{draft.at('data')}: the parameter {name!r} is {_name(wanted)}, and {said} is {_name(kind)}"
                )


class _Collecting:
    """Takes down what goes wrong in a block, and goes on behind it."""

    def __init__(self, found: list[str], at: str) -> None:
        self._found = found
        self._at = at

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, FlawsError):
            self._found += error.found
        elif isinstance(error, UsageError):
            self._found.append(f"{self._at}: {error}")
        else:
            return False
        return True


def _target_of(compiler: Compiler, draft: Draft, calls: Any, data: Any, before: AbstractSet[str]) -> Target:
    timeout = None if draft.timeout is None else seconds(draft.timeout, field="timeout")
    if isinstance(calls, ByName):
        return _named(compiler, draft, calls, data, before, timeout)
    if isinstance(calls, Workflow):
        _refuse(draft, "a task or a workflow", ("run_in", "tx"))
        takes = Takes.of(calls)
        if takes.is_value:
            bind = compiler.bind_value(draft, data, before)
        else:
            bind = compiler.bind(draft, takes, data, before, "input", is_stored=True)
        return Called(calls, bind, _options(draft, timeout, is_task=isinstance(calls, Task)))
    _refuse(draft, "a step of the run itself", ("queue", "priority"))
    if isinstance(calls, Step):
        step = calls.options(
            name=draft.name, retry=draft.retry, timeout=draft.timeout, run_in=draft.run_in, tx=draft.tx or None
        )
        takes = Takes.step(calls.function)
        return Inline(step.spec, compiler.bind(draft, takes, data, before, "input"), step.undoing)
    if not callable(calls):
        raise DefinitionError(f"{calls!r} must be a function, a step, a task or a workflow")
    spec = step_spec(
        calls,
        name=draft.name,
        retry=draft.retry,
        timeout=draft.timeout,
        run_in=draft.run_in,
        tx=draft.tx,
        local_names=draft.local_names or {},
    )
    takes = Takes.function(calls, annotations_of(inspect.unwrap(calls), "it", draft.local_names))
    return Inline(spec, compiler.bind(draft, takes, data, before, "ctx"))


def _named(
    compiler: Compiler, draft: Draft, calls: ByName, data: Any, before: AbstractSet[str], timeout: float | None
) -> Named:
    _refuse(draft, "a task or a workflow", ("run_in", "tx"))
    if data is None and calls.takes is not None:
        data, wrong = as_data(calls.takes, before, draft)
        compiler.found += [f"{draft.at('data')}: {each}" for each in wrong]
    data = {} if data is None else data
    if calls.takes is not None and not calls.takes.is_value:
        compiler._check_data(draft, calls.takes, data)
        whole = calls.takes.takes_whole
        if whole and not (isinstance(data, Mapping) and whole in data):
            data = {whole: data}
    compiler.inputs[draft.name, draft.name in before] = data
    make = compiler._maker(data, before, draft.at("data"), ITEM_ROOTS if draft.is_map else ROOTS)
    return Named(calls.name, make or (lambda ctx: None), _options(draft, timeout, is_task=True), calls.find)


def _options(draft: Draft, timeout: float | None, *, is_task: bool) -> Options:
    if not is_task and (draft.retry is not None or timeout is not None):
        raise DefinitionError("retry and timeout are for functions, steps and tasks; a workflow has those of its steps")
    if draft.retry is not None and (draft.retry.unless or draft.retry.by_error):
        raise DefinitionError("retry: which errors are never retried is said where the task is written")
    queue = None if draft.queue is None else check_name(draft.queue, "queue")
    priority = None if draft.priority is None else check_priority(draft.priority, "priority")
    return Options(queue, priority, Overrides.of(draft.retry, timeout, draft.retry_fields).encode())


def _refuse(draft: Draft, what: str, fields: tuple[str, ...]) -> None:
    for field in fields:
        if not any(getattr(draft, field) is none for none in (None, False)):
            raise DefinitionError(f"{field} is not for {what}")


def _told(make: Callable[[Any], Any], at: str) -> Callable[[Context], Any]:
    """Return a callable whose errors say where it stands."""

    def told(ctx: Context) -> Any:
        try:
            value = make(ctx)
        except PerdureError:
            raise
        except Exception as error:
            raise UsageError(f"{at}: {type(error).__name__}: {error}") from error
        if inspect.iscoroutine(value):  # of a lambda, say, which hides that it is async
            value.close()
            raise UsageError(f"{at}: it is async; it looks at values, and cannot wait")
        return value

    return told


def _scope(ctx: Context) -> dict[str, Any]:
    assert isinstance(ctx, PlayContext)
    return ctx.scope()


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
