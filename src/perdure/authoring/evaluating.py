"""Evaluation that cannot run away: what an expression may cost, and how much a template may put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jmespath.functions
import jmespath.visitor

from perdure.model.errors import UsageError

BUDGET = 200_000
"""How much work one evaluation may be: nodes visited, and values put together."""

TEXT = 1_000_000
"""Characters in a text that an expression or a template puts together."""

SIZE = 10_000_000
"""Values, and characters of texts, that the references of one template stand for together."""


class Bounded(jmespath.visitor.TreeInterpreter):
    """An interpreter with a budget."""

    _shared = jmespath.functions.Functions()

    def __init__(self) -> None:
        super().__init__(jmespath.visitor.Options(custom_functions=self._shared))
        self.left = BUDGET

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a node; its work is counted."""
        self._spend(1)
        value = super().visit(node, *args, **kwargs)
        kind = node["type"]
        if kind == "function_expression" and type(value) is str and len(value) > TEXT:
            raise ValueError(f"it makes a text longer than {TEXT:,} characters")
        if kind.startswith("multi_select"):  # alone can put one value into another twice
            self._measure(value)
        elif type(value) is list and kind not in ("field", "literal", "current", "identity"):
            self._spend(len(value))
        return value

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        """Return what a function gives, if neither what it is given nor that is too much."""
        args = [self.visit(child, value) for child in node["children"]]
        if node["value"] in ("join", "to_string", "sort", "sort_by", "max", "min", "max_by", "min_by", "merge", "map"):
            for arg in args:
                self._measure(arg)
        if node["value"] == "join":
            self._require_short_join(args)
        return self._shared.call_function(node["value"], args)

    def _require_short_join(self, args: list[Any]) -> None:
        if len(args) == 2 and isinstance(args[0], str) and isinstance(args[1], list):
            length = len(args[0]) * len(args[1]) + sum(len(part) for part in args[1] if isinstance(part, str))
            if length > TEXT:
                raise ValueError(f"join would make a text longer than {TEXT:,} characters")

    def _measure(self, value: Any) -> None:
        """Spend what a value is when it is written out, however often one part of it stands in it."""
        for size in _parts_of(value, 100):
            self._spend(size)

    def _spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise ValueError(f"it takes more than {BUDGET:,} steps of work; give it less data")


class Meter:
    """Adds up what the references of a template stand for: few of them can stand for much, many times."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = SIZE

    def measured(self, value: Any, path: str) -> Any:
        """Return a value that is not too large, together with those before it."""
        for part in _parts_of(value):
            self._left -= part
            if self._left < 0:
                raise UsageError(f"{path}: the data becomes larger than {SIZE:,} values and characters")
        return value


def _parts_of(value: Any, characters: int = 1) -> Iterator[int]:
    """Yield the sizes of the lists, objects and texts that a value consists of, as often as they stand in it.

    Args:
        value: JSON data.
        characters: how many characters of a text count as one.
    """
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            yield len(part) // characters
        elif isinstance(part, list):
            yield len(part)
            rest += part
        elif isinstance(part, dict):
            yield len(part)
            rest += part.values()
