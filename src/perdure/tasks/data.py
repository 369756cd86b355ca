"""`data.transform`: an expression over data."""

from __future__ import annotations

from typing import Any

from perdure.authoring.expressions import Expression
from perdure.authoring.task import Task
from perdure.model.errors import NonRetryableError, UsageError


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
        return Expression(expression, roots=None).evaluate(data)
    except UsageError as error:
        raise DataExpressionError(f"expression: {error}") from error


data_transform: Task[..., Any] = Task.of(_transform, name="data.transform")
