"""How tasks say what is wrong with arguments before they are called; see `perdure.authoring.workflow.Check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from perdure.model.errors import NonRetryableError, UsageError


def raised(look: Callable[..., object], *args: object) -> Iterator[str]:
    """Yield what is wrong by a look that raises it."""
    try:
        look(*args)
    except (NonRetryableError, UsageError) as error:
        yield str(error)
