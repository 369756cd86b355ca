"""What stands in for a step in a test, and what it was called with."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self

from perdure.authoring.context import StepContext
from perdure.authoring.step import Step
from perdure.authoring.task import Task
from perdure.core.ask import StepSpec
from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError

Raises = BaseException | type[BaseException]


class _Nothing:
    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()
"""The default where None is a value like any other."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a mocked step.

    Attributes:
        args, kwargs: what it was called with.
        run_id, key, attempt: the run, the step's key in its journal, and the number of the attempt, from 1.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    run_id: str
    key: str
    attempt: int


class Mock:
    """What stands in for a step from now on; leave its `with` block, or call `stop`, to end that.

    Its result goes through the codec and the step's annotation like the real one's, and what it raises through the
    step's retry policy. `Engine.mock` makes it.

    Attributes:
        name: the step's name, or its key in the journal.
        calls: every call so far, attempts that failed included.
    """

    def __init__(
        self, mocks: Mocks, name: str, answer: Callable[[int], Callable[..., Any]] | None, takes: float
    ) -> None:
        self.name = name
        self.calls: list[StepCall] = []
        self.takes = takes
        self._mocks = mocks
        self._answer = answer

    def __repr__(self) -> str:
        return f"Mock({self.name!r}, {len(self.calls)} calls)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the real step, or the mock before this one, run again."""
        self._mocks.remove(self)

    def called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], step: StepContext) -> None:
        """Take note of a call."""
        self.calls.append(StepCall(args, dict(kwargs), step.run_id, step.key, step.attempt))

    def in_place_of(self, spec: StepSpec, wait: Callable[[float], Awaitable[None]]) -> StepSpec:
        """Return the step with this mock as its body; the step itself where the mock only takes note of calls.

        Args:
            spec: the step.
            wait: waits for virtual seconds.
        """
        if self._answer is None:
            return spec
        stand_in = self._answer(len(self.calls))

        async def body(*args: Any, **kwargs: Any) -> Any:
            if self.takes:
                await wait(self.takes)
            result = stand_in(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return dataclasses.replace(spec, function=body, run_in="loop", is_native=True, tx=False)


class Mocks:
    """The mocks of one engine, the latest first."""

    def __init__(self) -> None:
        self._mocks: list[Mock] = []

    def add(
        self,
        step: Step[..., Any] | Task[..., Any] | str,
        *,
        returns: object,
        raises: Raises | Sequence[Raises] | None,
        then: object,
        does: Callable[..., Any] | None,
        takes: Duration,
    ) -> Mock:
        """Put a mock in place of a step; see `Engine.mock`."""
        name = step.name if isinstance(step, Step | Task) else step
        if not isinstance(name, str):
            raise UsageError(f"mock: {step!r} is no step; give a step or a task of the application, or its name")
        given = [
            word
            for word, is_given in (
                ("returns", returns is not NOTHING),
                ("raises", raises is not None),
                ("does", does is not None),
            )
            if is_given
        ]
        if len(given) > 1:
            raise UsageError(f"mock of {name!r}: {' and '.join(given)} exclude each other; see `then` for raises")
        if then is not NOTHING and raises is None:
            raise UsageError(f"mock of {name!r}: `then` says what comes after `raises`; use `returns`")
        if takes and not given:
            raise UsageError(f"mock of {name!r}: `takes` delays what the mock does; give returns, raises or does too")
        mock = Mock(self, name, _answer(name, returns, raises, then, does), seconds(takes, field="takes"))
        self._mocks.insert(0, mock)
        return mock

    def remove(self, mock: Mock) -> None:
        """Take a mock away, if it is still there."""
        if mock in self._mocks:
            self._mocks.remove(mock)

    def find(self, spec: StepSpec, step: StepContext) -> Mock | None:
        """Return the mock of a step; one by its journal key goes before one by its name."""
        by_key = next((mock for mock in self._mocks if mock.name == step.key), None)
        return by_key or next((mock for mock in self._mocks if mock.name == spec.name), None)


def _answer(
    name: str,
    returns: object,
    raises: Raises | Sequence[Raises] | None,
    then: object,
    does: Callable[..., Any] | None,
) -> Callable[[int], Callable[..., Any]] | None:
    """Return what a mock's n-th call does, counted from 1; None for the real step."""
    if does is not None:
        return lambda number: does
    if raises is None:
        return None if returns is NOTHING else lambda number: lambda *args, **kwargs: returns
    is_one = isinstance(raises, BaseException) or (isinstance(raises, type) and issubclass(raises, BaseException))
    errors: list[Any] = [raises] if is_one else list(raises)  # type: ignore[arg-type]  # mypy does not follow is_one
    for error in errors:
        if not (isinstance(error, BaseException) or (isinstance(error, type) and issubclass(error, BaseException))):
            raise UsageError(f"mock of {name!r}: raises {error!r} is no exception")
    if not errors:
        raise UsageError(f"mock of {name!r}: raises is empty; name an exception, or use `returns`")

    def fail_or_return(number: int) -> Callable[..., Any]:
        def body(*args: Any, **kwargs: Any) -> Any:
            if number <= len(errors):
                raise errors[number - 1]
            if then is NOTHING:
                raise errors[-1]
            return then

        return body

    return fail_or_return
