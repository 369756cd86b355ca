"""Child runs: how one begins, is recalled or ended, and how its parent and its parent's code are told of its end."""

from __future__ import annotations

import msgspec

from perdure.core.ask import ChildAsk
from perdure.core.history import History
from perdure.core.saga import RECALL
from perdure.model import failure
from perdure.model.decision import Message
from perdure.model.errors import ChildFailedError, RunExistsError, StepError
from perdure.model.record import Outcome, Record
from perdure.model.run import NewRun, Run

NOT_BEGUN = failure.encode_error(failure.describe(StepError("it was not begun before its run had no use for it")))
"""What becomes of a step or a child that is left before it has begun."""


class Children:
    """The children of a turn's run, and what its next decision has in store for them.

    Args:
        run: the parent.
        asks: the children that exist, or will by the next decision, by key; the inbox's own.
        history: of the replay.

    Attributes:
        new: are to be created.
        recalls: are to end, but not in the middle of something.
        recalled: the ids of those; which were never claimed end at once.
        ended: the ids of those that are to end at once.
    """

    def __init__(self, run: Run, asks: dict[str, ChildAsk], history: History) -> None:
        self.new: list[NewRun] = []
        self.recalls: list[Message] = []
        self.recalled: list[str] = []
        self.ended: list[str] = []
        self._run = run
        self._asks = asks
        self._history = history

    @property
    def are_told(self) -> bool:
        """Whether the next decision has anything for them."""
        return bool(self.new or self.recalls or self.ended)

    def adopt(self, ask: ChildAsk, now: int) -> None:
        """Have a child that was asked for, unless an earlier turn has begun it."""
        self._asks[ask.key] = ask
        self.let_go(ask, now)

    def let_go(self, ask: ChildAsk, now: int) -> None:
        """Begin a child that nothing will be heard of, unless an earlier turn has begun it."""
        if ask.key not in self._history.opened:
            self.new.append(child_run(self._run, ask, now))

    def drop(self, ask: ChildAsk) -> None:
        """End a child that the code took back, unless it goes on without."""
        if self._asks.pop(ask.key, None) is not None and not ask.spec.is_detached:
            self.ended.append(ask.run_id)

    def may_run(self, ask: ChildAsk) -> bool:
        """Return whether a child was begun by a decision."""
        if ask.key in self._history.opened:
            return True
        return ask.key in self._asks and all(new.id != ask.run_id for new in self.new)

    def recall(self, ask: ChildAsk, now: int) -> None:
        """Have a child that was begun end, but not in the middle of something; one that nobody has claimed, at once."""
        self.recalled.append(ask.run_id)
        self.recalls.append(Message(ask.run_id, recall_id(ask.key), "event", RECALL, None, now, "ok", self._run.id))

    def withdraw(self, ask: ChildAsk) -> None:
        """Begin a child neither now nor later."""
        self._asks.pop(ask.key, None)
        self.new = [new for new in self.new if new.id != ask.run_id]

    def orphan(self) -> None:
        """End all that do not go on without their parent, which failed, or begins anew."""
        self.ended += [ask.run_id for ask in self._asks.values() if not ask.spec.is_detached]

    def clear(self) -> None:
        """The decision goes out."""
        self.new, self.recalls, self.recalled, self.ended = [], [], [], []


def recall_id(key: str) -> str:
    """Return the id of the message that recalls the child of a key."""
    return f"{RECALL}:{key}"


def is_recalled(run: Run, message: Message) -> bool:
    """Return whether a recall is from a run's own parent, and not from one that was refused it as a child."""
    return message.ref == run.parent_id and message.id == recall_id(run.parent_key or "")


def child_failure(ask: ChildAsk, payload: str | None) -> str:
    """Return the error that a parent's code gets of a child that did not complete, as a payload.

    It says too whether a child that was recalled has undone what it did. One of those that was not begun says nothing.
    """
    if payload is None and ask.left_at is not None:
        payload = NOT_BEGUN
    cause = None if payload is None else failure.decode_error(payload)
    message = f"child {ask.run_id!r} of workflow {ask.spec.workflow!r} did not complete"
    if cause is not None:
        message += f": {cause.message}"
    info = failure.describe(ChildFailedError(message))
    is_undone = cause is not None and cause.is_undone and ask.left_at is not None
    return failure.encode_error(msgspec.structs.replace(info, cause=cause, is_undone=is_undone))


def child_run(run: Run, ask: ChildAsk, now: int) -> NewRun:
    """Return the run that a child's ask wants to exist."""
    spec = ask.spec
    due_at = now + spec.delay_ms
    expires_at = None if spec.expires_ms is None else due_at + spec.expires_ms
    return NewRun(
        id=ask.run_id,
        workflow=spec.workflow,
        version=spec.version,
        queue=spec.queue,
        created_at=now,
        due_at=due_at,
        priority=run.priority if spec.priority is None else spec.priority,
        records=(Record(0, "input", "input", "ok", now, spec.payload, due_at=expires_at, ref=spec.overrides),),
        parent_id=run.id,
        parent_key=ask.key,
        is_detached=spec.is_detached,
        depth=run.depth + 1,
        fingerprint=spec.fingerprint,
        tags=dict(spec.tags),
        retention=spec.retention or run.retention,
        limit_key=spec.limit_key,
        refusal=failure.encode_error(failure.describe(RunExistsError(f"a run {ask.run_id!r} exists already"))),
    )


def told_parent(
    run: Run, outcome: tuple[Outcome, str] | None, at: int, *, is_undone: bool = False
) -> tuple[Message, ...]:
    """Return the message that tells the parent of a run, if it has one, what became of it, if that is known.

    Args:
        run: the run.
        outcome: what became of it, and its output or error as a payload; None for not known.
        at: when, in milliseconds since the epoch.
        is_undone: what it did was undone.
    """
    if outcome is None or run.parent_id is None or run.parent_key is None:
        return ()
    state, payload = outcome
    if is_undone:
        payload = failure.encode_error(msgspec.structs.replace(failure.decode_error(payload), is_undone=True))
    return (Message(run.parent_id, run.id, "child", run.parent_key, payload, at, state, run.id),)
