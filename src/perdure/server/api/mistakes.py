"""What the engine finds wrong with a request, told under its place in the request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from perdure.model.errors import (
    DefinitionError,
    PerdureError,
    RunFinishedError,
    RunNotFoundError,
    ScheduleExistsError,
    UnknownWorkflowError,
    UsageError,
)
from perdure.server.errors import Problem, ProblemError, invalid, problem_of

_PLACE = re.compile(r"([A-Za-z_]+)((?:\[\d+\]|\.[^\s.:\[]+)*): ")
_GRAPH = ("steps", "output", "input", "queue")


@contextmanager
def told_of(path: str) -> Iterator[None]:
    """Tell of the mistakes in a part of a request under its place.

    Args:
        path: of the part, as in `body`.

    Raises:
        Problem: something was wrong with it.
    """
    try:
        yield
    except ScheduleExistsError:
        raise
    except UsageError as error:
        raise problem_at(error, path) from None


def problem_at(error: PerdureError, path: str) -> Problem:
    """Return the problem with a part of a request, under its place.

    Args:
        error: what the engine says of it.
        path: of the part, as in `body.runs[3]`.
    """
    problem = problem_of(error)
    if isinstance(error, UnknownWorkflowError):
        path = f"{path}.workflow"
    found = [ProblemError(f"{path}.{each.path}", each.message) for each in problem.errors]
    problem.errors = tuple(found) or (ProblemError(path, problem.detail),)
    return problem


@contextmanager
def of_schedule() -> Iterator[None]:
    """Tell of a schedule that is not there, or is over: not of the run that it is.

    Raises:
        Problem: so it is.
    """
    try:
        yield
    except ScheduleExistsError as error:
        raise Problem(409, "Schedule exists", str(error), errors=[ProblemError("body.name", str(error))]) from None
    except RunNotFoundError as error:
        raise Problem(404, "Schedule not found", str(error)) from None
    except RunFinishedError as error:
        raise Problem(409, "Schedule finished", f"{error}; it has nothing more to fire") from None


@contextmanager
def of_definition(data: Mapping[str, object], path: str = "body") -> Iterator[None]:
    """Tell of everything that is wrong with a definition, each under its place in what was sent.

    Args:
        data: what was sent.
        path: where it stands.

    Raises:
        Problem: something was wrong with it.
    """
    try:
        yield
    except DefinitionError as error:
        found = [_flaw(each, data, path) for each in error.found or (str(error),)]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise invalid(f"{found[0].path}: {found[0].message}{more}", found) from None


def _flaw(text: str, data: Mapping[str, object], path: str) -> ProblemError:
    place = _PLACE.match(text)
    if place is None:
        return ProblemError(path, text)
    first, rest = place.groups()
    inner = data.get("definition")
    if first == "steps" and isinstance(inner, list):
        first = "definition"
    elif first in _GRAPH and first not in data and isinstance(inner, dict):
        first = f"definition.{first}"
    return ProblemError(f"{path}.{first}{rest}", text[place.end() :])
