"""The class entrypoint of Cloudflare-style engines: `run(event, step)`, on the same machinery as functions.

Numbers are seconds here, as everywhere in Perdure. A step of such a class is called with `step.do`.
"""

from __future__ import annotations

import datetime as dt
import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, overload

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.model.codec import Parameters
from perdure.model.duration import Duration
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.retry import NO_RETRY, Backoff, Retry
from perdure.model.run import Retention, Run

EnvT = TypeVar("EnvT")
ParamsT = TypeVar("ParamsT")
T = TypeVar("T")

_NO_CAP = "36500 days"


class StepRetries(TypedDict, total=False):
    """How often a step is retried: `limit` attempts after the first one, `delay` apart, growing by `backoff`."""

    limit: int
    delay: Duration
    backoff: Backoff


class StepConfig(TypedDict, total=False):
    """The options of `step.do`: `retries`, and the `timeout` of one attempt."""

    retries: StepRetries
    timeout: Duration


@dataclass(frozen=True, slots=True)
class WorkflowEvent(Generic[ParamsT]):
    """What a run was created with: its `payload`, when, and under which id."""

    payload: ParamsT
    timestamp: dt.datetime
    instance_id: str


class WorkflowStep:
    """What `run` does its durable work with."""

    @overload
    async def do(
        self, name: str, callback: Callable[[], Awaitable[T]], /, *, rollback: Callable[..., Any] | None = ...
    ) -> T: ...
    @overload
    async def do(self, name: str, callback: Callable[[], T], /, *, rollback: Callable[..., Any] | None = ...) -> T: ...
    @overload
    async def do(
        self,
        name: str,
        config: StepConfig,
        callback: Callable[[], Awaitable[T]],
        /,
        *,
        rollback: Callable[..., Any] | None = ...,
    ) -> T: ...
    @overload
    async def do(
        self, name: str, config: StepConfig, callback: Callable[[], T], /, *, rollback: Callable[..., Any] | None = ...
    ) -> T: ...
    async def do(self, name: str, *rest: Any, rollback: Callable[..., Any] | None = None) -> Any:
        """Run a callback as a step: `do(name, callback)` or `do(name, config, callback)`.

        Args:
            name: the step's name in the journal; a second step of the same name has a result of its own.
            rest: the callback, an async function or a plain one (which runs in a thread), after its `StepConfig`.
            rollback: what undoes it if the run fails later; it gets the callback's result if it has a parameter
                `result`.

        Raises:
            StepError: the step failed for good. UsageError: the config has an unknown field or a bad value.
        """
        config, callback = rest if len(rest) == 2 else ({}, *rest)
        if unknown := set(config) - {"retries", "timeout"}:
            raise UsageError(f"step {name!r}: unknown config field {min(unknown)!r}; known: retries, timeout")
        retry = _retry(name, config["retries"]) if "retries" in config else None
        return await flow.do(name, callback, retry=retry, timeout=config.get("timeout"), undo=rollback)

    @overload
    async def sleep(self, duration: Duration, /) -> None: ...
    @overload
    async def sleep(self, name: str, duration: Duration, /) -> None: ...
    async def sleep(self, *rest: Any) -> None:
        """Wait durably: `sleep(duration)` or `sleep(name, duration)`."""
        name, duration = rest if len(rest) == 2 else ("sleep", *rest)
        await flow.sleep(duration, name=name)

    @overload
    async def sleep_until(self, moment: dt.datetime | float, /) -> None: ...
    @overload
    async def sleep_until(self, name: str, moment: dt.datetime | float, /) -> None: ...
    async def sleep_until(self, *rest: Any) -> None:
        """Wait durably for a moment: `sleep_until(moment)` or `sleep_until(name, moment)`; see `flow.sleep_until`."""
        name, moment = rest if len(rest) == 2 else ("sleep", *rest)
        await flow.sleep_until(moment, name=name)

    @overload
    async def wait_for_event(self, name: str, *, type: str, timeout: Duration | None = ..., into: type[T]) -> T: ...
    @overload
    async def wait_for_event(self, name: str, *, type: str, timeout: Duration | None = ...) -> Any: ...
    async def wait_for_event(
        self,
        name: str,
        *,
        type: str,  # the field's word for it
        timeout: Duration | None = flow.EVENT_TIMEOUT,  # durable: it survives the process
        into: Any = Any,
    ) -> Any:
        """Wait for an event and return its payload; see `flow.wait_for_event`."""
        return await flow.wait_for_event(name, type=type, timeout=timeout, into=into)


class WorkflowEntrypoint(ABC, Generic[EnvT, ParamsT]):
    """The base of a workflow written as a class.

    Attributes:
        env: what the engine was given as `env`.
    """

    env: EnvT

    @abstractmethod
    async def run(self, event: WorkflowEvent[ParamsT], step: WorkflowStep) -> Any:
        """The workflow."""


class EntrypointWorkflow(Workflow[[Any], Any]):
    """A class entrypoint as a workflow.

    Args:
        entrypoint: the class.
        env: what its instances get as `env`.
        name: its name in the store.
        retention: how long its ended runs are kept.
    """

    def __init__(
        self,
        entrypoint: type[WorkflowEntrypoint[Any, Any]],
        env: object,
        *,
        name: str,
        retention: Retention | None = None,
        local_names: Mapping[str, Any] | None = None,
    ) -> None:
        if not (isinstance(entrypoint, type) and issubclass(entrypoint, WorkflowEntrypoint)):
            raise DefinitionError(f"{entrypoint!r} must be a subclass of WorkflowEntrypoint")
        if inspect.isabstract(entrypoint):
            raise DefinitionError(f"workflow {name!r}: its class must define `async def run(self, event, step)`")
        self.entrypoint = entrypoint
        self._env = env
        super().__init__(
            entrypoint.run,  # type: ignore[arg-type]  # `self` and `event` are bound in `begin`
            name=name,
            retention=retention,
            local_names=local_names,
        )
        self.doc = entrypoint.run.__doc__ or entrypoint.__doc__ or ""

    def begin(self, payload: str, run: Run) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of a run over an input payload."""
        _, kwargs = self.parameters.decode(payload)
        instance = self.entrypoint()
        instance.env = self._env
        event = WorkflowEvent(kwargs.get("payload"), dt.datetime.fromtimestamp(run.created_at / 1000, dt.UTC), run.id)
        return instance.run(event, WorkflowStep())

    def _parameters(self, function: Callable[..., Any], hints: Mapping[str, Any], what: str) -> Parameters:
        payload = inspect.Parameter("payload", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        return Parameters(inspect.Signature([payload]), {"payload": _params_type(self.entrypoint)}, what)


def _params_type(entrypoint: type) -> Any:
    """Return the second argument of `WorkflowEntrypoint[Env, Params]`; Any where there is none."""
    for kind in entrypoint.__mro__:
        for base in getattr(kind, "__orig_bases__", ()):
            if typing.get_origin(base) is WorkflowEntrypoint:
                argument = typing.get_args(base)[1]
                return Any if isinstance(argument, TypeVar) else argument
    return Any


def _retry(name: str, retries: StepRetries) -> Retry:
    if unknown := set(retries) - {"limit", "delay", "backoff"}:
        raise UsageError(f"step {name!r}: unknown retries field {min(unknown)!r}; known: limit, delay, backoff")
    limit = retries.get("limit", NO_RETRY.attempts)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise UsageError(f"step {name!r}: retries.limit {limit!r} must be a whole number, at least 0")
    return Retry(
        attempts=limit + 1,
        delay=retries.get("delay", 1.0),
        backoff=retries.get("backoff", "exponential"),
        max_delay=_NO_CAP,
        jitter=0,
    )
