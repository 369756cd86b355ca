"""Steps: functions whose result is journaled when workflow code calls them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Hashable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from perdure.authoring.context import current_step, replay_or_raise
from perdure.authoring.undo import Durable, Undoing, signature_of
from perdure.core.ask import RunIn, StepSpec
from perdure.core.loop import running
from perdure.model.codec import Shape, annotations_of
from perdure.model.duration import Duration, seconds
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_RETRY = Retry()


class Step(Generic[P, R]):
    """A function whose call in workflow code is durable.

    Called in workflow code, it runs on the worker, and its result is journaled. Called in the body of another step, it
    is journaled under that step. Called anywhere else, it is the plain function. In each case, await the call.

    Attributes:
        name: its name in the journal.
        function: the plain function.
        spec: how it runs.
        undo: what undoes it; None for nothing.
        undoing: how that is called.
    """

    def __init__(self, function: Callable[P, Any], spec: StepSpec, undo: Callable[..., Any] | None = None) -> None:
        self.name = spec.name
        self.function = function
        self.spec = spec
        self.undo = undo
        self.undoing = undoing(undo, signature_of(function), f"step {spec.name!r}")
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """Return the coroutine of the step's result (its type holds no Any, on which type checkers lose `gather`).

        Raises:
            NonRetryableError, StepTimeoutError, StepRetriesExceededError: when awaited, if the step failed for good.
        """
        return perform(self.spec, args, kwargs, self.undoing)

    def signature(self) -> inspect.Signature | None:
        """Return what its function takes; None where that is not known."""
        return signature_of(self.function)

    async def called_as(self, key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call it in workflow code, recorded under a key of its own, and without its undo."""
        replay = replay_or_raise("an undo")
        return await replay.wait_for(replay.ask_step(self.spec, args, kwargs, name=key))

    def options(
        self,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        run_in: RunIn | None = None,
        tx: bool | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> Step[P, R]:
        """Return the same step with other options; see `Perdure.step`."""
        spec = self.spec
        changed = step_spec(
            self.function,
            name=name or spec.name,
            retry=retry or spec.retry,
            timeout=spec.timeout if timeout is None else timeout,
            run_in=run_in or spec.run_in,
            tx=spec.tx if tx is None else tx,
            result=spec.result,
        )
        return Step(self.function, changed, undo or self.undo)


def perform(
    spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], undoing: Undoing | None = None
) -> Coroutine[Any, Any, Any]:
    """Return the coroutine of a step's result, for wherever the running code stands."""
    loop = running()
    if loop is not None:
        return _durable(loop, spec, args, kwargs, undoing)
    step = current_step.get()
    if step is not None:
        return _refused(spec.name, step.key) if undoing is not None else step.nested(spec, args, dict(kwargs))
    return _plain(spec, args, kwargs)


def undoing(undo: Callable[..., Any] | None, signature: inspect.Signature | None, what: str) -> Undoing | None:
    """Return how something is undone, checked against what it takes itself; None for not at all.

    Raises:
        DefinitionError: the undo cannot be called, or takes what is not known.
    """
    if undo is None:
        return None
    title = f"the undo of {what}"
    if isinstance(undo, Durable):
        return Undoing(undo, signature, title)
    spec = step_spec(undo, name=title[:NAME_LENGTH], result=_ANY)  # nobody reads what it returns
    return Undoing(Step(undo, spec), signature, title)


async def _durable(
    loop: Any, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], undoing: Undoing | None
) -> Any:
    replay = loop.replay
    undo = None if undoing is None else undoing.of(args, kwargs)
    return await replay.wait_for(replay.ask_step(spec, args, kwargs, undo))


async def _refused(name: str, key: str) -> Any:
    raise UsageError(
        f"step {name!r} has an undo and was called in step {key!r}, where it could not be found to be undone; call it "
        "in workflow code, or its plain function here"
    )


async def _plain(spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    result = spec.function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def step_spec(
    function: Callable[..., Any],
    *,
    name: str,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    run_in: RunIn | None = None,
    tx: bool = False,
    result: Shape | None = None,
    local_names: Mapping[str, Any] | None = None,
) -> StepSpec:
    """Return how a function runs as a step.

    Args:
        function: what the step calls.
        name: its name in the journal.
        retry: when it is attempted again; three attempts by default.
        timeout: of one attempt (a duration); None for none.
        run_in: `loop` (the default for `async def`), `thread` (for `def`) or `process`.
        tx: whether its body works in a transaction of the store.
        result: how its result is read back; None takes the return annotation.
        local_names: names of the scope the function was written in.

    Raises:
        DefinitionError: the function cannot be a step. UsageError: an option is out of its range.
    """
    check_name(name, "step name")
    if not callable(function):
        raise DefinitionError(f"step {name!r}: {function!r} cannot be called")
    is_async = inspect.iscoroutinefunction(inspect.unwrap(function, stop=_is_coroutine_function))
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise DefinitionError(f"step {name!r} is a generator; return a list, or call a step per item")
    where: RunIn = run_in or ("loop" if is_async else "thread")
    if where not in ("loop", "thread", "process"):
        raise DefinitionError(f"step {name!r}: run_in={run_in!r} must be 'loop', 'thread' or 'process'")
    if where != "loop" and is_async:
        raise DefinitionError(f"step {name!r} is async and runs on the loop; write it as a plain def for a {where}")
    if where == "process" and tx:
        raise DefinitionError(
            f"step {name!r}: a transaction cannot go to another process; take tx or run_in='process' away"
        )
    return StepSpec(
        name=name,
        function=function,
        run_in=where,
        retry=retry or DEFAULT_RETRY,
        timeout=None if timeout is None else seconds(timeout, field=f"step {name!r}, timeout"),
        result=result or _result_shape(function, name, local_names),
        is_native=inspect.iscoroutinefunction(function),
        tx=tx,
    )


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function)


_ANY = Shape(Any, "the result")
_SHAPES: dict[tuple[object, ...], Shape] = {}
_SHAPES_KEPT = 1_000


def _result_shape(function: Callable[..., Any], name: str, local_names: Mapping[str, Any] | None) -> Shape:
    """Return the shape of a return annotation.

    Those of `flow.do` are kept: workflow code makes its functions anew for every run. Code alone does not tell two
    functions apart, as it compares by its text.
    """
    target = inspect.unwrap(function)
    annotation = getattr(target, "__annotations__", {}).get("return", inspect.Parameter.empty)
    if annotation is inspect.Parameter.empty:
        return _ANY
    key = (getattr(target, "__code__", None), target.__module__, annotation)
    is_kept = local_names is None and isinstance(annotation, Hashable)
    if is_kept and key in _SHAPES:
        return _SHAPES[key]
    hints = annotations_of(target, f"step {name!r}", local_names)
    shape = Shape(hints.get("return", Any), f"the result of step {name!r}")
    if is_kept:
        if len(_SHAPES) >= _SHAPES_KEPT:
            _SHAPES.clear()
        _SHAPES[key] = shape
    return shape
