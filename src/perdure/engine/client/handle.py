"""A run, from outside: ask how it is, wait for its result, send it events, move it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from perdure.core.saga import compensation_failure
from perdure.core.undos import UndoInfo, failure_of, undos_of
from perdure.engine.client.client import Client
from perdure.engine.client.explain import Explanation, explain
from perdure.engine.client.holding import held_back
from perdure.engine.ending import End, Ending
from perdure.model import codec, failure
from perdure.model.codec import Shape
from perdure.model.decision import Action
from perdure.model.duration import Duration, seconds
from perdure.model.errors import (
    RunCompensatedError,
    RunFailedError,
    RunNotFinishedError,
    RunParkedError,
    RunTerminatedError,
    UsageError,
)
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import NewRun, Run, RunStatus

R = TypeVar("R")


class RunSummary(msgspec.Struct, frozen=True):
    """A run's status, its output if it completed and its error's message if it errored."""

    status: RunStatus
    output: Any = None
    error: str | None = None


class RunHandle(Generic[R]):
    """One run of a workflow; making a handle looks nothing up.

    Attributes:
        id: the run's id.
        is_new: whether the call that returned this handle created the run; False where one of that id was there
            already, or one that stands for its key. None for a handle of `app.run(id)`.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        shape: Shape | None = None,
        ending: Ending | None = None,
        *,
        is_new: bool | None = None,
    ) -> None:
        self.id = run_id
        self.is_new = is_new
        self._client = client
        self._shape = shape
        self._ending = ending or client.endings.of(run_id)

    def __repr__(self) -> str:
        return f"RunHandle({self.id!r})"

    async def result(self, timeout: Duration | None = None) -> R:  # of the wait; the run goes on
        """Wait for the run's result.

        The end of a run that this process works is told at once; others are looked up in the store, whenever it hints
        that something has changed, and every few seconds.

        Args:
            timeout: how long to wait (a duration), after one look; None waits for ever.

        Raises:
            RunFailedError: the run errored; its `__cause__` is the error. RunTerminatedError: it was ended.
            RunCompensatedError: a RunFailedError; what the run did was undone. CompensationFailedError: not all of it.
            RunParkedError: it needs somebody's help. RunNotFinishedError: the timeout passed.
            RunNotFoundError: it is not there, or was removed. StoreUnavailableError: the engine was closed.
        """
        if timeout is None:
            known = await self._client.look_for_end(self._ending)
            return await self._read(known or await self._client.wait_for_end(self._ending))
        limit = seconds(timeout, field="timeout")
        deadline = asyncio.get_running_loop().time() + limit
        end = await self._client.look_for_end(self._ending)
        if end is None:
            try:
                async with asyncio.timeout_at(deadline):
                    end = await self._client.wait_for_end(self._ending)
            except TimeoutError:
                raise RunNotFinishedError(f"run {self.id!r} has not ended within {limit:g} s; it goes on") from None
        return await self._read(end)

    async def _read(self, end: End) -> R:
        status, payload = end
        if status is RunStatus.COMPLETE:
            value = codec.decode_any(payload) if self._shape is None else self._shape.decode(payload)
            return cast(R, value)
        if status is RunStatus.ERRORED:
            cause = failure.decode_error(payload or "{}")
            raise RunFailedError(f"run {self.id!r} failed: {cause.told}") from failure.rebuild(cause)
        if status is RunStatus.COMPENSATED:
            cause = failure.decode_error(payload or "{}")
            raise RunCompensatedError(
                f"run {self.id!r} failed, and what it did was undone: {cause.told}"
            ) from failure.rebuild(cause)
        if status is RunStatus.COMPENSATION_FAILED:
            raise failure.rebuild(await self._compensation_failure())
        if status is RunStatus.PAUSED:
            raise RunParkedError(f"run {self.id!r} is parked: {payload}; mend it, then resume it")
        raise RunTerminatedError(f"run {self.id!r} was terminated")

    async def get(self) -> Run:
        """Return the run as the store has it.

        Raises:
            RunNotFoundError: there is none.
        """
        return await self._client.get(self.id)

    async def status(self) -> RunSummary:
        """Return the run's status, with its output or its error's message."""
        run = await self.get()
        if run.status is RunStatus.COMPLETE:
            output = codec.decode_any(run.output) if self._shape is None else self._shape.decode(run.output)
            return RunSummary(run.status, output)
        if run.status in (RunStatus.ERRORED, RunStatus.COMPENSATED):
            return RunSummary(run.status, None, failure.decode_error(run.output or "{}").told)
        if run.status is RunStatus.COMPENSATION_FAILED:
            return RunSummary(run.status, None, (await self._compensation_failure()).told)
        return RunSummary(run.status)

    async def state(self, name: str) -> Any:
        """Return what the run's code last gave to `flow.set` under a name; None for nothing."""
        stored = (await self.get()).state
        return None if stored is None else codec.decode_any(stored).get(name)

    async def journal(self) -> list[Record]:
        """Return the run's records, in order."""
        return await self._client.journal(self.id)

    async def explain(self) -> Explanation:
        """Return why the run is where it is, in sentences."""
        run = await self.get()
        store, now = self._client.store, self._client.env.now()
        held = await held_back(store, run, now)
        return explain(run, await store.inbox(self.id), await store.catalog(), now, held)

    async def send_event(self, type: str, payload: object = None, *, id: str | None = None) -> bool:
        """Send the run an event; it is kept until the run's code waits for its type.

        Args:
            type: the event's type.
            payload: anything that can be stored.
            id: to tell a repeated event by; a second one of that id is dropped. None makes each event a new one.

        Returns:
            Whether the event is new.

        Raises:
            RunNotFoundError, RunFinishedError, InboxFullError: the run takes none.
        """
        return await self._client.send_event(self.id, type, payload, id)

    async def pause(self) -> RunStatus:
        """Pause the run; steps that run finish first. Return the status it has now."""
        return await self._client.control(self.id, Action.PAUSE)

    async def resume(self) -> RunStatus:
        """Let a paused or parked run go on. Return the status it has now."""
        return await self._client.control(self.id, Action.RESUME)

    async def terminate(self, *, undo: bool = False) -> RunStatus:
        """End the run, and its children, for good. Return the status it has now.

        Args:
            undo: have a worker drop its code first and undo what it did; it then ends `compensated`, or `terminated` if
                there was nothing to undo. A paused run is resumed for it.

        Raises:
            RunNotFoundError: there is no such run. RunFinishedError: it has ended.
            UsageError: it was to be undone, but its undos have failed, and an operator decides on them.
        """
        return await (self._client.turn_back(self.id) if undo else self._client.control(self.id, Action.TERMINATE))

    async def undos(self) -> list[UndoInfo]:
        """Return what of the run can be undone, or was, in the order in which that was registered."""
        return undos_of(await self.journal())

    async def retry_undo(self, key: str | None = None) -> None:
        """Have a failed undo tried again, in a run whose compensation failed.

        Args:
            key: of the step or child that it undoes, as `undos()` shows it; None for all that failed.

        Raises:
            UsageError: that undo has not failed.
        """
        await self._client.decide_undo(self.id, key, {"verb": "retry"})

    async def mark_undone(self, key: str | None = None, *, reason: str | None = None) -> None:
        """Have a failed undo count as done, because it was seen to by hand or need not be.

        Args:
            key: of the step or child that it undoes, as `undos()` shows it; None for all that failed.
            reason: why; it is kept in the journal.

        Raises:
            UsageError: that undo has not failed.
        """
        await self._client.decide_undo(self.id, key, {"verb": "done", "reason": reason})

    async def restart(self) -> RunStatus:
        """Begin the run anew from its input, whatever its state. Return the status it has now."""
        return await self._client.control(self.id, Action.RESTART)

    async def fork(self, *, from_step: str, id: str | None = None) -> RunHandle[R]:
        """Start a new run that has everything this one recorded ahead of a step, and goes on from there by itself.

        Args:
            from_step: the step's key in the journal (`run.journal()` shows it).
            id: of the new run; None for a new one.

        Raises:
            UsageError: no such step is recorded.
        """
        source = await self.get()
        records = await self.journal()
        over = next((r.position for r in records if r.kind == "undo" and r.state != "open"), len(records))
        names = {r.key: r.position for r in reversed(records[:over]) if r.kind not in ("input", "undo", "output")}
        first = names.get(from_step)
        if first is None:
            known = ", ".join(reversed(names)) or "nothing"
            raise UsageError(f"run {self.id!r} has no record {from_step!r} to fork from; recorded: {known}")
        now = self._client.env.now()
        new = NewRun(
            id=id or self._client.new_id(),
            workflow=source.workflow,
            version=source.version,
            queue=source.queue,
            priority=source.priority,
            created_at=now,
            due_at=now,
            records=_forked(records[:first]),
            fingerprint=f"{source.fingerprint}:{self.id}:{from_step}",
            tags=source.tags,
            retention=source.retention,
            limit_key=source.limit_key,
        )
        ending, created = await self._client.create(new)
        return RunHandle(self._client, new.id, self._shape, ending, is_new=created.is_new)

    async def _compensation_failure(self) -> ErrorInfo:
        """Return the error of a run some of whose undos failed, caused by what it failed with."""
        records = await self.journal()
        failed = {info.key: info.error.message for info in undos_of(records) if info.error is not None}
        return compensation_failure(self.id, failed, failure_of(self.id, records))

    # The names that Cloudflare-style engines have for the same.

    async def wait_for_completion(
        self,
        timeout: Duration | None = None,  # of the wait; the run goes on
        poll_interval: Duration | None = None,
    ) -> R:
        """Wait for the run's result; see `result`.

        Args:
            timeout: how long to wait (a duration).
            poll_interval: taken for compatibility and checked; how a run's end becomes known, `result` says.
        """
        if poll_interval is not None:
            seconds(poll_interval, field="poll_interval")
        return await self.result(timeout)


def _forked(records: Sequence[Record]) -> tuple[Record, ...]:
    """Return the settled records, numbered anew: attempts and children under way are the other run's affair.

    A task that is forked is no longer too late.
    """
    settled = [record for record in records if record.state != "open"]
    numbers: dict[int | None, int] = {record.position: number for number, record in enumerate(settled)}
    return tuple(
        msgspec.structs.replace(record, position=number, before=numbers.get(record.before), due_at=None)
        for number, record in enumerate(settled)
    )
