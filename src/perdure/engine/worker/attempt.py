"""One attempt of a step, between its body and the run it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perdure.authoring.context import no_transaction
from perdure.authoring.enqueuing import Batch
from perdure.core.ask import StepSpec
from perdure.engine.worker.executor import Execution
from perdure.model import codec, failure
from perdure.model.errors import StepRetriesExceededError, UsageError
from perdure.model.record import State
from perdure.model.run import Run
from perdure.store.contract import Transaction

if TYPE_CHECKING:
    from perdure.engine.worker.runner import Runner


class StepRun:
    """One attempt of a step, as its body sees it (see `perdure.authoring.context.StepContext`).

    Attributes:
        runner: of its run.
        started_at: when it began, in milliseconds since the epoch.
        execution: its body, on its way; gone once that is over.
        opened: the transaction that its body works in, once it is open; None where it has none.
    """

    __slots__ = (
        *("_uses", "attempt", "execution", "idempotency_key", "key", "last_progress", "opened", "run_id", "runner"),
        *("started_at", "workflow"),
    )

    def __init__(self, runner: Runner, key: str, attempt: int, started_at: int) -> None:
        self.runner = runner
        self.run_id = runner.run_id
        self.workflow = runner.turn.run.workflow
        self.key = key
        self.attempt = attempt
        self.started_at = started_at
        self.last_progress = runner.last_progress(key)
        renewals = runner.turn.replay.renewals
        self.idempotency_key = f"{self.run_id}~{renewals}:{key}" if renewals else f"{self.run_id}:{key}"
        self.execution: Execution
        self.opened: Transaction | None = None
        self._uses: dict[str, int] = {}

    @property
    def run(self) -> Run:
        """Its run, as it was claimed."""
        return self.runner.turn.run

    @property
    def client(self) -> Any:
        """The verbs of the engine that runs it."""
        return self.runner.worker.client

    def heartbeat(self, progress: object) -> None:
        """Keep the progress where a crash does not reach it; from any thread."""
        self._require_wanted()
        limit = self.runner.turn.limits.payload_bytes
        self.runner.progress[self.key] = codec.encode(progress, f"the progress of step {self.key!r}", limit)
        self.runner.worker.keeper.note_progress(self.runner)

    async def begin(self) -> None:
        """Begin the transaction that the body works in."""
        assert self.runner.transactional is not None
        self.opened = await self.runner.transactional.begin()
        if self.execution.spec.run_in == "thread" and inspect.iscoroutinefunction(self.opened.connection.execute):
            raise UsageError(
                f"step {self.key!r}: the connection of this store is used with await, which a plain def cannot; "
                "write the step as async def"
            )

    def event_id(self) -> str:
        """Return an id for the next event that its body gives off: the same in every attempt, and no other event's."""
        use = self._uses[""] = self._uses.get("", 0) + 1
        incarnation = self.runner.turn.run.incarnation
        lineage = f"~{incarnation}" if incarnation else ""
        return f"{self.run_id}{lineage}:{self.key}" + (f"/#{use}" if use > 1 else "")

    def transaction(self) -> Any:
        """Return the connection of the transaction that the step's record is committed in."""
        self._require_wanted()
        if self.opened is None:
            raise no_transaction(self.key)
        return self.opened.connection

    async def nested(self, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a step inside this one, or return what it returned before."""
        self._require_wanted()
        if self.execution.spec.tx or spec.tx:
            raise UsageError(
                f"step {spec.name!r} was called in step {self.key!r}, and one of them is transactional: its record is "
                "committed alone, at its end; call both in workflow code, or the inner one's plain function"
            )
        use = self._uses[spec.name] = self._uses.get(spec.name, 0) + 1
        key = f"{self.key}/{spec.name}" + (f"#{use}" if use > 1 else "")
        return await self.runner.nested(key, spec, args, kwargs)

    async def gathered(self, batch: Batch, spec: StepSpec, item: Any) -> Any:
        """Wait for what a call of a batched task's function, with this item among others, comes to."""
        return await self.runner.worker.gathering.join(self, batch, spec, item)

    def failed(self, spec: StepSpec, error: BaseException, now: int) -> tuple[State, str, int | None]:
        """Return the state and payload of this attempt that failed, and when the next one is due; None for never."""
        is_hopeless = isinstance(error, UsageError)  # a mistake in the code does not mend itself
        roll = self.runner.worker.env.roll
        delay = None if is_hopeless else spec.retry.next_delay(self.attempt, error, roll())
        if delay is not None:
            payload = failure.encode_error(failure.describe(error, attempts=self.attempt))
            return "open", payload, now + round(delay * 1000)
        if 1 < self.attempt >= spec.retry.policy_for(error).attempts:
            last, error = (
                error,
                StepRetriesExceededError(
                    f"step {self.key!r} failed {self.attempt} times, at last with {type(error).__name__}: {error}"
                ),
            )
            error.__cause__ = last
        return "error", failure.encode_error(failure.describe(error, attempts=self.attempt)), None

    def _require_wanted(self) -> None:
        if not hasattr(self, "execution"):
            raise UsageError(f"step {self.key!r} was stopped; what its body still does reaches no journal")
