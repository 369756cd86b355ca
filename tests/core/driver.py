"""Runs turns by hand: a store of one run, a clock that is a number, and steps that end when the test says so.

run = Driver(workflow, 1, 2)          # claimed and begun; nothing has happened yet
run.end("charge", 5)                  # a running step ended
run.wait(60)                          # a minute passed
run.send("paid", {"by": "card"})      # an event came
run.crash()                           # the worker is gone, another one claims
run.finish()                          # whatever is left ends by itself
run.result, run.error, run.journal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from perdure.authoring.step import Step, step_spec
from perdure.authoring.workflow import Workflow
from perdure.core.ask import EventAsk
from perdure.core.launching import Launch
from perdure.core.saga import CANCEL
from perdure.core.turn import Turn
from perdure.core.wait import Wait, decode_waits
from perdure.model import codec, failure
from perdure.model.codec import Shape
from perdure.model.decision import Claim, Committed, Decision, Message
from perdure.model.limits import Limits
from perdure.model.record import Record
from perdure.model.run import MOVES, NewRun, Run, RunStatus

BEGAN = 1_700_000_000_000
"""When every run here is created, in milliseconds since the epoch."""

LIMITS = Limits()
DRIVERS: list[Driver] = []
"""Those of the running test."""


def step(
    name: str, result: Any = Any, *, body: Callable[..., Any] | None = None, undo: Any = None, **options: Any
) -> Step[..., Any]:
    """A step that gives its first argument back, read as `result`, when it is left to `finish`."""

    def echo(value: Any = None, *more: Any) -> Any:
        return value

    spec = step_spec(body or echo, name=name, result=Shape(result, f"the result of step {name!r}"), **options)
    return Step(body or echo, spec, undo)


def steps(*names: str) -> tuple[Step[..., Any], ...]:
    return tuple(step(name) for name in names)


class Driver:
    def __init__(
        self,
        function: Any,
        *args: Any,
        journal: Sequence[Record] | None = None,
        limits: Limits = LIMITS,
        now: int = BEGAN,
        is_manual: bool = False,
        entropy: Callable[[int], bytes] | None = None,
        **fields: Any,
    ) -> None:
        self.program = function if isinstance(function, Workflow) else Workflow(function, name="flow")
        self.limits = limits
        self.now = now
        self.hold = 0
        self.lingers = False
        self.is_manual = is_manual
        self.entropy = entropy or (lambda count: bytes(range(count)))
        payload = self.program.parameters.encode(args, {}, limits.payload_bytes)
        first = Record(0, "input", "input", "ok", BEGAN, payload)
        self.journal: list[Record] = list(journal or [first])
        fields = {"id": "r", "created_at": BEGAN, "updated_at": BEGAN, "started_at": BEGAN, **fields}
        self.run = Run(workflow="flow", status=RunStatus.QUEUED, **fields)
        self.inbox: list[Message] = []
        self.running: dict[str, Launch] = {}
        self.stopped: list[str] = []
        self.children: dict[str, NewRun] = {}
        self.terminated: list[str] = []
        self.unclaimed: list[str] = []
        self.posts: list[Message] = []
        self.decisions: list[Decision] = []
        self.pending: Decision | None = None
        self.types: dict[str, str] = {}
        self.turn: Turn | None = None
        DRIVERS.append(self)
        self.unreadable: str | None = None
        self.claim()

    # The worker's side.

    def claim(self) -> None:
        """A worker takes the run, with its whole journal and what is unread."""
        assert self.turn is None
        self.run = msgspec.structs.replace(
            self.run, status=self.claimed, epoch=self.run.epoch + 1, seq=0, journal_length=len(self.journal)
        )
        claim = Claim(self.run, list(self.journal), list(self.inbox), self.unreadable)
        self.turn = Turn(claim, self.program, self.limits, self.entropy)
        self.turn.begin(self.now)
        self.go()

    @property
    def claimed(self) -> RunStatus:
        """What the store makes of the run's status when it is claimed."""
        is_undone = self.run.status in (RunStatus.COMPENSATING, RunStatus.COMPENSATION_FAILED)
        return RunStatus.COMPENSATING if is_undone else RunStatus.RUNNING

    def go(self) -> None:
        """What a runner does after everything that happens."""
        while self.turn is not None:
            asks = self.turn.replay.asks.values()
            self.types.update((ask.key, ask.type) for ask in asks if isinstance(ask, EventAsk))
            for key in self.turn.cancels():
                self.stopped.append(key)
                del self.running[key]
            decision = self.turn.decide(self.now, self.hold, lingers=self.lingers)
            if decision is not None:
                self.pending = decision
                if not self.is_manual:
                    self.acknowledge(go=False)
                    continue
            if self.turn is not None and not self.turn.is_ended:
                for launch in self.turn.launches():
                    assert launch.ask.key not in self.running
                    self.running[launch.ask.key] = launch
            return

    def acknowledge(self, *, go: bool = True, **answer: Any) -> None:
        """The decision that is under way is durable."""
        decision, self.pending = self.pending, None
        assert decision is not None
        self._store(decision)
        arrived = tuple(message for message in self.inbox if message.seq > decision.seen)
        turn = self.turn
        assert turn is not None
        turn.committed(Committed("r", arrived=arrived, **answer), self.now)
        if turn.is_ended:
            self.drop()
        elif go:
            self.go()

    def drop(self) -> None:
        """The run leaves the worker's memory."""
        if self.turn is not None:
            self.turn.close()
        self.turn = None
        self.running.clear()

    def crash(self, program: Any = None, *, keep: int | None = None) -> None:
        """The worker is gone with all it had; another one, perhaps with newer code, claims what was committed."""
        self.drop()
        self.pending = None
        del self.journal[len(self.journal) if keep is None else keep :]
        if program is not None:
            self.program = program if isinstance(program, Workflow) else Workflow(program, name="flow")
        self.claim()

    def _store(self, decision: Decision) -> None:
        assert decision.epoch == self.run.epoch
        assert decision.seq == self.run.seq + 1
        assert self.run.status in (RunStatus.RUNNING, RunStatus.COMPENSATING)
        assert decision.status is self.run.status or decision.status in MOVES[self.run.status]
        if decision.renew is not None:
            self.journal = list(decision.renew)
        self.journal += decision.records
        assert [record.position for record in self.journal] == list(range(len(self.journal)))
        assert [record.at for record in self.journal] == sorted(record.at for record in self.journal)
        assert "output" not in [record.kind for record in self.journal[:-1]]
        self.decisions.append(decision)
        self.inbox = [message for message in self.inbox if message.id not in decision.consumed]
        self.children.update((child.id, child) for child in decision.children)
        self.terminated += decision.terminate
        self.unclaimed += decision.unclaimed
        self.posts += decision.posts
        self.run = msgspec.structs.replace(
            self.run,
            seq=decision.seq,
            status=decision.status,
            due_at=self.run.due_at if decision.keeps_lease else decision.due_at,
            wait=decision.wait,
            incarnation=self.run.incarnation + (decision.renew is not None),
            state=self.run.state if decision.state is None else decision.state,
            crashes=0,
        )

    # What happens.

    def end(self, key: str, value: Any = None, *, error: Exception | None = None, after: float = 0) -> None:
        """A running step ends, with a value or an error."""
        self.now += round(after * 1000)
        launch = self.running.pop(key)
        assert self.turn is not None
        if error is None:
            self.turn.step_ended(key, "ok", encode(value), self.now, attempt=launch.attempt, started_at=self.now)
        else:
            payload = encode_error(error)
            self.turn.step_ended(key, "error", payload, self.now, attempt=launch.attempt, started_at=self.now)
        self.go()

    def fail(self, key: str, error: Exception, *, retry_in: float, progress: str | None = None) -> None:
        """An attempt of a running step fails; the next one is due after `retry_in` seconds."""
        launch = self.running.pop(key)
        assert self.turn is not None
        self.turn.step_failed(
            key,
            encode_error(error),
            self.now,
            attempt=launch.attempt,
            started_at=self.now,
            due_at=self.now + round(retry_in * 1000),
            progress=progress,
        )
        self.go()

    def wait(self, seconds: float) -> None:
        """Time passes; a released run is claimed again when it is due."""
        self.now += round(seconds * 1000)
        if self.turn is not None:
            self.turn.tick(self.now)
            self.go()
        elif self.run.due_at is not None and self.run.due_at <= self.now and not self.run.status.is_finished:
            self.claim()

    def post(self, *messages: Message) -> None:
        """Messages come in."""
        seq = self.run.inbox_seq
        placed = [msgspec.structs.replace(message, seq=seq + n) for n, message in enumerate(messages, 1)]
        self.inbox += placed
        self.run = msgspec.structs.replace(self.run, inbox_seq=seq + len(placed))
        if self.turn is not None:
            self.turn.arrive(placed, self.now)
            self.go()
        elif not self.run.status.is_finished and self.run.status is not RunStatus.PAUSED:
            self.claim()

    def send(self, type: str, payload: Any = None) -> None:
        """An event comes in."""
        self.post(event(type, payload, id=f"e{self.run.inbox_seq + 1}"))

    def child_ends(self, key: str, value: Any = None, *, error: Exception | None = None, run_id: str = "") -> None:
        """The run that a child's key stands for ended."""
        ref = run_id or next(child.id for child in self.children.values() if child.parent_key == key)
        payload = encode(value) if error is None else encode_error(error)
        self.post(Message("r", ref, "child", key, payload, self.now, "ok" if error is None else "error", ref))

    def finish(self) -> Driver:
        """Let every step end with what its function gives, every timer fire, every child give None."""
        for _ in range(2_000):
            if self.run.status.is_finished:
                return self
            if self.turn is None:
                self.wait(max(0, (self.run.due_at or self.now) - self.now) / 1000)
            elif self.running:
                key, launch = next(iter(self.running.items()))
                self.end(key, result_of(launch))
            else:
                due = self.turn.next_due()
                assert due is not None, self.turn.replay.asks
                self.wait(max(0, due - self.now) / 1000)
        raise AssertionError("it does not come to an end")

    # What is there.

    @property
    def status(self) -> RunStatus:
        return self.run.status

    @property
    def result(self) -> Any:
        last = self.journal[-1]
        assert (last.kind, last.state) == ("output", "ok"), last
        assert self.status is RunStatus.COMPLETE
        return self.program.result.decode(last.payload)

    @property
    def error(self) -> Exception:
        last = self.journal[-1]
        assert (last.kind, last.state) == ("output", "error"), last
        assert self.status in (RunStatus.ERRORED, RunStatus.COMPENSATED, RunStatus.TERMINATED)
        return failure.rebuild(failure.decode_error(last.payload or "{}"))

    @property
    def waits(self) -> list[Wait]:
        return decode_waits(self.run.wait).waits

    @property
    def parked(self) -> str:
        (wait,) = self.waits
        assert wait.kind == "parked"
        assert self.status is RunStatus.PAUSED
        return wait.detail

    @property
    def keys(self) -> list[str]:
        """The keys of the records behind the input, in the journal's order."""
        return [record.key for record in self.journal[1:]]


def settle(run: Driver, record: Record) -> None:
    """Make happen what a record of an earlier journal tells; what code makes by itself is left to it."""
    run.now = max(run.now, record.at)
    if record.kind in ("event", "child") and record.payload is not None:
        kind = run.types.get(record.key, record.key)
        payload: str | None = record.payload
        if record.kind == "child" and record.state == "error":  # what the child failed with, not how it is told
            cause = failure.decode_error(record.payload).cause
            payload = None if cause is None else failure.encode_error(cause)
        run.post(Message("r", record.ref or "", record.kind, kind, payload, run.now, record.state, record.ref))
        return
    if record.kind == "undo" and record.ref is not None:
        run.post(event(CANCEL, id=record.ref))
        return
    if record.key not in run.running:  # a timer, or a step whose next attempt is due
        run.wait(0)
    if record.kind == "step" and run.turn is not None:
        launch = run.running.pop(record.key)
        details: Any = {"attempt": launch.attempt, "started_at": record.started_at or run.now}
        if launch.ask.left_at is not None:  # it may have been settled without being begun, which this turn cannot know
            details = {"attempt": record.attempt, "started_at": record.started_at}
        if record.state == "open":
            details["due_at"] = record.due_at or run.now
            run.turn.step_failed(record.key, record.payload or "", run.now, **details)
        else:
            run.turn.step_ended(record.key, record.state, record.payload, run.now, **details)
        run.go()


def replayed(journal: Sequence[Record], program: Any, *, keep: int, **options: Any) -> Driver:
    """Claim the first `keep` records of a journal and make the rest of it happen again."""
    run = Driver(program, *options.pop("args", ()), journal=journal[:keep], now=journal[keep].at, **options)
    for position in range(keep, len(journal)):
        if position >= len(run.journal):
            settle(run, journal[position])
    return run


def result_of(launch: Launch) -> Any:
    value = launch.ask.spec.function(*launch.ask.args, **launch.ask.kwargs)
    if not hasattr(value, "send"):
        return value
    try:
        value.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("step bodies do not wait here")


def event(type: str, payload: Any = None, *, id: str = "e1", seq: int = 0) -> Message:
    return Message("r", id, "event", type, encode(payload), BEGAN, seq=seq)


def encode(value: Any) -> str:
    return codec.encode(value, "a test's value", 1_000_000)


def encode_error(error: BaseException) -> str:
    return failure.encode_error(failure.describe(error))
