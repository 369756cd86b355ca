"""Conditions and references in definitions: JMESPath, read when a definition is made and bounded when it is evaluated.

An expression sees `input`, `steps.<name>` (results), `workflow.id`, `workflow.name`, and in a map `item` and `index`.
Which steps it names is known before anything runs. JMESPath has no loops, no I/O and no way to anything but its data;
what is left to bound is work: evaluation spends a budget, one for each node visited and each value it puts together.

In data, `"${expression}"` stands for a value and keeps its type; text around it makes it part of the text. `$${` is a
plain `${`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jmespath
import jmespath.exceptions
import jmespath.functions

from perdure.authoring.evaluating import TEXT, Bounded, Meter
from perdure.model import codec
from perdure.model.errors import UsageError

LENGTH = 1_000
"""Characters in one expression."""

DEPTH = 30
"""How deep an expression may be nested."""

ROOTS = ("input", "steps", "workflow")
ITEM_ROOTS = (*ROOTS, "item", "index")

_BARE_NUMBER = re.compile(r"[<>=]\s*-?\d")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Path = list[str]

Read = Callable[[Mapping[str, Any], Meter], Any]
"""Fills one part of a template."""


class Expression:
    """One JMESPath expression.

    Args:
        text: the expression.
        roots: what it may begin with; None where it is over any data, which it finds as `@`.

    Attributes:
        text: as it was written.
        steps: the names of the steps that it refers to.
        inputs: what it takes from the input: the names that each access begins with.

    Raises:
        UsageError: it does not parse, is too long or nested too deep, or refers to something that is not there.
    """

    def __init__(self, text: str, roots: tuple[str, ...] | None = ROOTS) -> None:
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f'{text!r} must be an expression, such as "input.total > `100`"')
        if len(text) > LENGTH:
            raise UsageError(f"the expression is longer than {LENGTH:,} characters")
        try:
            self._tree: Any = jmespath.compile(text).parsed
        except (jmespath.exceptions.JMESPathError, RecursionError, ValueError) as error:
            hint = "; numbers are written in backticks, as in `100`" if _BARE_NUMBER.search(text) else ""
            raise UsageError(f"{_shown(text)} is no expression: {_first_line(error)}{hint}") from None
        self.text = text
        _check(self._tree)
        names, is_all = _leading(self._tree)
        self._names = names if is_all else None  # most expressions are: a replay evaluates each again
        paths = list(_paths(self._tree)) if roots is not None else []
        self.steps = frozenset(_steps_of(paths, roots or ()))
        self.inputs = [path[1:] for path in paths if path[:1] == ["input"]]

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """Return the value over plain JSON data.

        Raises:
            UsageError: it cannot be evaluated, or takes more work than `BUDGET`.
        """
        if self._names is not None:
            value: Any = scope
            for name in self._names:
                value = value.get(name) if isinstance(value, dict) else None
            return value
        try:
            return Bounded().visit(self._tree, scope)
        except (jmespath.exceptions.JMESPathError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{_shown(self.text)} cannot be evaluated: {error}") from error

    def holds(self, scope: Mapping[str, Any]) -> bool:
        """Return whether the value counts as true: all but null, false and empty text, lists and objects do."""
        value = self.evaluate(scope)
        return not (value is None or value is False or value in ("", [], {}))


class Template:
    """Data with references in it.

    Args:
        data: JSON data; texts in it may hold `${expression}`.
        roots: what expressions may begin with.
        path: where the data stands, for errors.

    Attributes:
        data: as it was written.
        steps: the names of the steps that it refers to, each with where it does.
        inputs: what it takes from the input (see `Expression`), each with where it does.
        has_expressions: there are references in it at all.

    Raises:
        FlawsError: what is wrong in it, all at once.
    """

    def __init__(self, data: object, roots: tuple[str, ...] = ROOTS, path: str = "data") -> None:
        self.data = data
        self.steps: list[tuple[str, str]] = []
        self.inputs: list[tuple[Path, str]] = []
        self.has_expressions = False
        found: list[str] = []
        self._fill = self._reader(data, roots, path, found, 0)
        if found:
            raise FlawsError(found)

    def fill(self, scope: Mapping[str, Any]) -> Any:
        """Return the data with every reference replaced by what it refers to.

        Raises:
            UsageError: a reference cannot be evaluated, or a text becomes too long.
        """
        return self._fill(scope, Meter())

    def _reader(self, data: object, roots: tuple[str, ...], path: str, found: list[str], depth: int) -> Read:
        if depth > DEPTH:
            found.append(f"{path}: nested deeper than {DEPTH}")
        elif isinstance(data, str):
            try:
                return self._text(data, roots, path)
            except UsageError as error:
                found.append(f"{path}: {error}")
        elif isinstance(data, Mapping):
            if odd := [name for name in data if not isinstance(name, str)]:
                found.append(f"{path}: the field {odd[0]!r} must be text; put it in quotes")
            fields = {
                str(name): self._reader(value, roots, f"{path}.{name}", found, depth + 1)
                for name, value in data.items()
            }
            return lambda scope, meter: {name: read(scope, meter) for name, read in fields.items()}
        elif isinstance(data, list | tuple):
            items = [self._reader(value, roots, f"{path}[{at}]", found, depth + 1) for at, value in enumerate(data)]
            return lambda scope, meter: [read(scope, meter) for read in items]
        elif data is not None and (not isinstance(data, bool | int | float) or data - data != 0):  # nan and infinity
            found.append(f"{path}: {data!r} is no JSON data; give text, numbers, true, false, null, lists and objects")
        return lambda scope, meter: data

    def _text(self, text: str, roots: tuple[str, ...], path: str) -> Read:
        parts = [Expression(part, roots) if is_expression else part for part, is_expression in _parts(text)]
        for part in parts:
            if isinstance(part, Expression):
                self.has_expressions = True
                self.steps += [(name, path) for name in sorted(part.steps)]
                self.inputs += [(names, path) for names in part.inputs]
        if len(parts) == 1 and isinstance(parts[0], Expression):
            whole = parts[0]
            return lambda scope, meter: meter.measured(whole.evaluate(scope), path)
        if not any(isinstance(part, Expression) for part in parts):
            plain = "".join(map(str, parts))
            return lambda scope, meter: plain

        def join(scope: Mapping[str, Any], meter: Meter) -> str:
            joined = "".join(part if isinstance(part, str) else _as_text(part.evaluate(scope)) for part in parts)
            if len(joined) > TEXT:
                raise UsageError(f"{path}: the text becomes longer than {TEXT:,} characters")
            meter.measured(joined, path)
            return joined

        return join


class FlawsError(UsageError):
    """Several things that are wrong, each with its path; `found` lists them."""

    def __init__(self, found: list[str]) -> None:
        super().__init__("; ".join(found))
        self.found = found


def constants(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that have no references in them, as they will be."""
    found = {}
    for name, value in data.items():
        try:
            template = Template(value, ITEM_ROOTS)
        except FlawsError:
            continue
        if not template.has_expressions:
            found[name] = template.fill({})
    return found


def reference(step: str) -> str:
    """Return the expression of a step's result."""
    return f"steps.{step}" if _IDENTIFIER.fullmatch(step) else "steps." + codec.encode(step, "a name", LENGTH)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _first_line(error: Exception) -> str:
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return told.removesuffix(", for expression:")


def _as_text(value: Any) -> str:
    """Return a value as part of a text: text as it is, nothing for null, JSON for all else."""
    if isinstance(value, str):
        return value
    return "" if value is None else codec.encode(value, "a reference", TEXT)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, and whether each is an expression."""
    plain, at = "", 0
    while True:
        start = text.find("${", at)
        if start < 0:
            break
        if start and text[start - 1] == "$":
            plain += text[at : start - 1] + "${"
            at = start + 2
            continue
        end = _end_of(text, start + 2)
        plain += text[at:start]
        if plain:
            yield plain, False
        yield text[start + 2 : end], True
        plain, at = "", end + 1
    plain += text[at:]
    if plain or not text:
        yield plain, False


def _end_of(text: str, at: int) -> int:
    """Return where the brace is that ends an expression; those in quotes and of objects in it do not count."""
    depth, quote = 0, ""
    while at < len(text):
        sign = text[at]
        if quote:
            if sign == "\\":
                at += 1
            elif sign == quote:
                quote = ""
        elif sign in "'\"`":
            quote = sign
        elif sign == "{":
            depth += 1
        elif sign == "}":
            if not depth:
                return at
            depth -= 1
        at += 1
    raise UsageError(f"{_shown(text)} has a '${{' without its '}}'; write '$${{' for a plain '${{'")


# What an expression refers to, told from its tree.


def _check(node: Mapping[str, Any], depth: int = 0) -> None:
    if depth > DEPTH:
        raise UsageError(f"the expression is nested deeper than {DEPTH}")
    if node["type"] == "function_expression" and node["value"] not in jmespath.functions.Functions.FUNCTION_TABLE:
        raise UsageError(f"there is no function {node['value']!r} in JMESPath")
    for child in _children(node):
        _check(child, depth + 1)


def _children(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (child for child in node["children"] if isinstance(child, Mapping))  # those of a slice are numbers


_SAME_SCOPE = {
    "comparator", "or_expression", "and_expression", "not_expression", "multi_select_list", "multi_select_dict",
    "key_val_pair", "function_expression",
}  # fmt: skip
"""Nodes all of whose parts are evaluated over what the node itself is; of others, only the first part is."""


def _paths(node: Mapping[str, Any]) -> Iterator[Path]:
    """Yield what an expression takes from its outermost scope: the names that each access begins with."""
    kind = node["type"]
    if kind in ("current", "identity"):
        yield []
    elif kind in _SAME_SCOPE:
        for child in _children(node):
            yield from _paths(child)
    elif kind not in ("literal", "expref"):
        path, _ = _leading(node)
        if path:
            yield path
        else:
            yield from _paths(node["children"][0])


def _leading(node: Mapping[str, Any]) -> tuple[Path, bool]:
    """Return the names that a node begins with, and whether it is nothing else."""
    kind = node["type"]
    if kind == "field":
        return [node["value"]], True
    if kind == "subexpression":
        path: Path = []
        for child in node["children"]:
            names, is_all = _leading(child)
            path += names
            if not is_all:
                return path, False
        return path, True
    if kind in _SAME_SCOPE or not node["children"] or kind in ("expref", "slice"):
        return [], False
    return _leading(node["children"][0])[0], False


def _steps_of(paths: list[Path], roots: tuple[str, ...]) -> Iterator[str]:
    for path in paths:
        if not path or path[0] not in roots:
            what = repr(path[0]) if path else "'@'"
            raise UsageError(f"{what} is nothing that can be referred to here; there is {', '.join(roots)}")
        if path[0] == "steps":
            if len(path) < 2:
                raise UsageError("'steps' needs the name of a step, as in steps.orders.total")
            yield path[1]
