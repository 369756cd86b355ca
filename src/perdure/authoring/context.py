"""Where the running code stands: in workflow code, in a step, or outside."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

from perdure.authoring.enqueuing import Batch
from perdure.core.ask import StepSpec
from perdure.core.loop import running
from perdure.core.replay import Replay
from perdure.model.errors import UsageError


class StepContext(Protocol):
    """A running step, as its body can see it; the engine provides it.

    Attributes:
        run_id, workflow: the run, and what it is a run of.
        key: the step's key in the journal.
        attempt: the number of this attempt, from 1.
        idempotency_key: the same on every attempt of it, and in a restart of its run; no other step's.
        last_progress: what the attempt before this one last gave to `flow.heartbeat`; None for nothing.
        client: the verbs of the engine that runs it.
    """

    run_id: str
    workflow: str
    key: str
    attempt: int
    idempotency_key: str
    last_progress: Any

    @property
    def client(self) -> Any:
        """See the class."""

    def heartbeat(self, progress: object) -> None:
        """Keep the progress where a crash does not reach it."""

    def event_id(self) -> str:
        """Return an id for the next event that its body gives off: the same in every attempt, and no other event's."""

    def transaction(self) -> Any:
        """Return the connection of the transaction that the step's record is committed in."""

    async def nested(self, spec: StepSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a step inside this one, or return what it returned before."""

    async def gathered(self, batch: Batch, spec: StepSpec, item: Any) -> Any:
        """Wait for what a call of a batched task's function, with this item among others, comes to."""


current_step: ContextVar[StepContext | None] = ContextVar("perdure_step", default=None)

current_trace: ContextVar[str | None] = ContextVar("perdure_trace", default=None)
"""The trace that the running code belongs to, as a W3C `traceparent`; what it starts joins it."""


def where_it_runs(step: StepContext) -> dict[str, Any]:
    """Return where a running step stands, for logs; with its trace, if it has one."""
    about = {"run_id": step.run_id, "workflow": step.workflow, "step": step.key, "attempt": step.attempt}
    place = current_trace.get()
    if place is not None:
        _, about["trace_id"], about["span_id"], _ = place.split("-")
    return about


def replay_or_raise(call: str) -> Replay:
    """Return the replay of the running workflow code.

    Raises:
        UsageError: `call` was made outside workflow code.
    """
    loop = running()
    if loop is None:
        where = "in a step" if current_step.get() is not None else "outside a workflow"
        raise UsageError(f"{call} was called {where}; it belongs into workflow code")
    return loop.replay


def no_transaction(key: str) -> UsageError:
    """Return the error of a step that asks for a transaction and has none."""
    return UsageError(f"flow.transaction was called in step {key!r}, which has none; register it with tx=True")


def step_or_raise(call: str) -> StepContext:
    """Return the running step.

    Raises:
        UsageError: `call` was made outside a step.
    """
    step = None if running() is not None else current_step.get()
    if step is None:
        raise UsageError(f"{call} was called outside a step; call it in the step's body")
    return step
