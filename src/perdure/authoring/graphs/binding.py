"""Which arguments a step of a DAG is called with.

With `data`, those. Without, each parameter by its name: one that is named like a step before this one gets its result,
`input` gets the run's input, `ctx` the context, and in a map `item` and `index` the item and its number. One required
parameter may have another name: a function gets the context in it, anything else the run's input, and in a map
both get the item.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from perdure.authoring.graphs.context import Context
from perdure.authoring.schemas import WHOLE, flaws, input_of
from perdure.authoring.workflow import Check, Workflow
from perdure.model.errors import UsageError

Bind = Callable[[Context], tuple[tuple[Any, ...], dict[str, Any]]]
Source = Callable[[Context], Any]

_EMPTY = inspect.Parameter.empty
_MISSING = object()


class Takes:
    """The parameters of what a step calls.

    Attributes:
        required, optional: their names.
        types: their annotations, where there are some.
        is_positional: the parameters are given by place.
        takes_whole: the name of the one parameter that takes all of `data`; empty for none.
        is_open: it takes whatever it is given.
        is_value: it takes one value, which is all of its input.
        check: says what is wrong with arguments before the call; None where nothing is known of them.
    """

    def __init__(
        self,
        required: Iterable[str],
        optional: Iterable[str] = (),
        annotations: Mapping[str, Any] | None = None,
        *,
        positional: Iterable[str] = (),
        is_open: bool = False,
        is_value: bool = False,
    ) -> None:
        self.required = list(required)
        self.optional = list(optional)
        self.types = dict(annotations or {})
        self.positional = list(positional)
        self.is_open = is_open
        self.is_value = is_value
        every = [*self.required, *self.optional]
        self.check: Check | None = None
        self.takes_whole = every[0] if len(every) == 1 and every[0] in WHOLE else ""

    @classmethod
    def function(cls, function: Callable[..., Any], hints: Mapping[str, Any]) -> Takes:
        """Return what a plain function takes."""
        return cls._of(inspect.signature(function), hints)

    @classmethod
    def of(cls, workflow: Workflow[..., Any]) -> Takes:
        """Return what a workflow takes."""
        parameters = workflow.parameters
        if getattr(parameters, "is_whole", False):
            return cls((), is_value=True)
        hints = {name: shape.annotation for name, shape in parameters.shapes.items()}
        takes = cls._of(parameters.signature, hints)
        takes.check = workflow.flaws
        return takes

    @classmethod
    def step(cls, function: Callable[..., Any]) -> Takes:
        """Return what a registered step takes; its annotations are not looked at again."""
        hints = getattr(inspect.unwrap(function), "__annotations__", {})
        return cls._of(inspect.signature(function), {n: hint for n, hint in hints.items() if not isinstance(hint, str)})

    @classmethod
    def schema(cls, schema: Mapping[str, Any]) -> Takes:
        """Return what a workflow takes by the JSON Schema of its input."""
        found = input_of(schema)
        if "properties" not in found:
            return cls((), is_open=True)
        required = found.get("required", [])
        takes = cls(required, [name for name in found["properties"] if name not in required])
        takes.check = functools.partial(flaws, schema)
        return takes

    @classmethod
    def _of(cls, signature: inspect.Signature, hints: Mapping[str, Any]) -> Takes:
        required: list[str] = []
        optional: list[str] = []
        positional: list[str] = []
        is_open = False
        for name, parameter in signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                is_open = is_open or parameter.kind is parameter.VAR_KEYWORD
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(name)
            (required if parameter.default is _EMPTY else optional).append(name)
        return cls(required, optional, hints, positional=positional, is_open=is_open)

    def misfits(self, names: Iterable[str]) -> Iterator[str]:
        """Yield what is wrong with arguments of these names."""
        given = set(names)
        every = {*self.required, *self.optional}
        if not self.is_open:
            for name in sorted(given - every):
                yield f"there is no parameter {name!r}; there is {', '.join(sorted(every)) or 'none'}"
        for name in self.required:
            if name not in given:
                yield f"the parameter {name!r} is not given"


def by_name(
    takes: Takes, before: Iterable[str], rest: str, *, in_map: bool, more: tuple[str, ...] = ()
) -> tuple[dict[str, str], list[str]]:
    """Return what each parameter gets (see the module's text), and what is wrong.

    Args:
        takes: the parameters.
        before: the names of the steps whose results there are.
        rest: what the one parameter of another name gets: `ctx` or `input`.
        in_map: whether there are items.
        more: further names, which parameters get under their own: `ctx` where it need not be stored, `result`.

    Returns:
        For each parameter `steps.<name>`, `input`, `ctx`, `item`, `index` or one of `more`; and complaints.
    """
    own = {"input", *more, *(("item", "index") if in_map else ())}
    before = set(before)
    given: dict[str, str] = {}
    left = []
    for name in [*takes.required, *takes.optional]:
        if name in before:
            given[name] = f"steps.{name}"
        elif name in own:
            given[name] = name
        elif name in takes.required:
            left.append(name)
    if len(left) == 1:
        given[left[0]] = "item" if in_map else rest
        left = []
    names = ", ".join(map(repr, left))
    flaws = [f"it is not said what the parameters {names} get; give data={{...}}"] if left else []
    return given, flaws


def binding(takes: Takes, given: Mapping[str, str]) -> Bind:
    """Return what makes the arguments, of what `by_name` gave."""
    if list(given.values()) == ["ctx"] and not takes.optional:
        return lambda ctx: ((ctx,), {})
    positional = [_source(given[name]) for name in takes.positional if name in given]
    sources = {name: _source(what) for name, what in given.items() if name not in takes.positional}
    optional = frozenset(takes.optional)

    def bind(ctx: Context) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = {}
        for name, source in sources.items():
            value = source(ctx)
            if value is not _MISSING:
                kwargs[name] = value
            elif name not in optional:  # the step was skipped
                kwargs[name] = None
        return tuple(None if (value := source(ctx)) is _MISSING else value for source in positional), kwargs

    return bind


def from_data(takes: Takes, make: Source, where: str) -> Bind:
    """Return what makes the arguments of a step that has `data`."""
    whole = takes.takes_whole

    def bind(ctx: Context) -> tuple[tuple[Any, ...], dict[str, Any]]:
        data = make(ctx)
        if whole and not (isinstance(data, Mapping) and whole in data):
            return (data,), {}
        if not isinstance(data, Mapping):
            raise UsageError(f"{where} gave {type(data).__name__}; it must give an object, the arguments by name")
        kwargs = {str(name): value for name, value in data.items()}
        return tuple(kwargs.pop(name) for name in takes.positional if name in kwargs), kwargs

    return bind


def _source(what: str) -> Source:
    if what.startswith("steps."):
        name = what.removeprefix("steps.")
        return lambda ctx: ctx.results.get(name, _MISSING)
    return {
        "ctx": lambda ctx: ctx,
        "input": lambda ctx: ctx.input,
        "item": lambda ctx: ctx.item,
        "index": lambda ctx: ctx.index,
        "result": lambda ctx: ctx.results[ctx.workflow.step_id],
    }[what]


# Whether a result can be what a parameter is annotated as, where both are known.


def fits(result: Any, parameter: Any) -> bool:
    """Return whether a value of one annotation may be one of another; in doubt it may."""
    if result is parameter:
        return True
    return any(_may_be(one, other) for one in _members(result) for other in _members(parameter))


def items_of(annotation: Any) -> Any:
    """Return the type of the items of a list of that annotation; Any where it is not known."""
    args = typing.get_args(annotation)
    return args[0] if typing.get_origin(annotation) in (list, Sequence) and args else Any


def _members(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin is typing.Union or origin is types.UnionType:
        for member in typing.get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _may_be(one: Any, other: Any) -> bool:
    kinds = _json_kind(one), _json_kind(other)
    if "" in kinds:
        return True
    if kinds[0] != kinds[1]:
        return False
    if kinds[0] != "object" or not (isinstance(one, type) and isinstance(other, type)):
        return True
    return one is dict or other is dict or _is_typed_dict(one) or _is_typed_dict(other) or issubclass(one, other)


def _json_kind(annotation: Any) -> str:
    """Return which kind of JSON value an annotation stands for; empty where that is not known."""
    kind = typing.get_origin(annotation) or annotation
    if kind is None or kind is type(None):
        return "null"
    if not isinstance(kind, type) or kind is object:
        return ""
    if issubclass(kind, bool):
        return "boolean"
    if kind in (int, float):
        return "number"
    if issubclass(kind, str | bytes | dt.date) and not hasattr(kind, "__members__"):
        return "text"
    if issubclass(kind, list | tuple | set | frozenset):
        return "list"
    is_model = dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) or hasattr(kind, "model_validate")
    return "object" if is_model or issubclass(kind, dict) or _is_typed_dict(kind) else ""


def _is_typed_dict(kind: Any) -> bool:
    return typing.is_typeddict(kind)
