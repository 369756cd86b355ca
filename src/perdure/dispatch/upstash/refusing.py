"""Why something is not taken in, as clients of the workflow protocol tell it apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from perdure.model.errors import UsageError


class RunEndedError(UsageError):
    """What was handed in is for a run that has ended, or never was: clients take this for the end of their work."""


class RefusedError(UsageError):
    """What was handed in is taken neither now nor later, as it passes a bound, or is none: clients give up at once.

    As for other mistakes, they would take it for the end of their run, and it would stand still.
    """


class RunFullError(UsageError):
    """A run has too much to take in already: it may be tried again later."""


@contextmanager
def refusing(*, is_needed: bool = True) -> Iterator[None]:
    """Have mistakes in what is handed in be refusals.

    Raises:
        RefusedError: there is one.
    """
    try:
        yield
    except (RunEndedError, RefusedError, RunFullError):
        raise
    except UsageError as error:
        if not is_needed:
            raise
        raise RefusedError(str(error)) from None
