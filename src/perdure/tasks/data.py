"""`data.transform`: an expression over data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from perdure.authoring.expressions import Expression
from perdure.authoring.task import Task
from perdure.model.errors import NonRetryableError, UsageError
from perdure.tasks.checking import raised


class DataExpressionError(NonRetryableError):
    """An expression does not parse, does not fit its data, or takes too much work."""


async def _transform(expression: str, data: Any) -> Any:  # on the loop: what it may cost is bounded
    """Return what an expression makes of data.

    Args:
        expression: in JMESPath, in which `@` is the data.
        data: any JSON data.

    Raises:
        DataExpressionError: it does not parse, does not fit the data, or takes too much work.
    """
    try:
        return _parsed(expression).evaluate(data)
    except UsageError as error:
        raise DataExpressionError(f"expression: {error}") from error


def _check(known: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    if "expression" in known:
        yield from raised(_parsed, known["expression"])


def _parsed(expression: str) -> Expression:
    try:
        return Expression(expression, roots=None)
    except UsageError as error:
        raise DataExpressionError(f"expression: {error}") from error


data_transform: Task[..., Any] = Task.of(_transform, name="data.transform", check=_check)
