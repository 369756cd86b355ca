"""One claim of a run by a worker, as a pure state machine.

What happens comes in as a call with its time (`begin`, `step_ended`, `step_failed`, `arrive`, `tick`); what is to be
done comes out as values: `decide` gives the decision to commit, `launches` the steps that may start, `cancels` those
to stop. A step may start only once everything that led to it is committed: speculate, then commit, then act.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from perdure.core.ask import Ask, ChildAsk, EventAsk, Program, StepAsk, TimerAsk
from perdure.core.child import child_failure, child_run
from perdure.core.inbox import Inbox
from perdure.core.leaf import Leaf
from perdure.core.replay import Replay
from perdure.core.wait import DEADLOCK, Wait, encode_waits, waits_of
from perdure.model import codec
from perdure.model.decision import Claim, Committed, Decision, Message
from perdure.model.limits import Limits
from perdure.model.record import Record, State
from perdure.model.run import NewRun, RunStatus


class Launch(NamedTuple):
    """A step to start: what was asked, and the number of this attempt."""

    ask: StepAsk
    attempt: int


class Turn:
    """See the module's text.

    Args:
        claim: the run, its journal and its inbox.
        program: its workflow.
        limits: the bounds to keep.
        entropy: returns that many random bytes.
    """

    def __init__(self, claim: Claim, program: Program, limits: Limits, entropy: Callable[[int], bytes]) -> None:
        self.run = claim.run
        follow = Replay if program.leaf is None else Leaf
        self.replay = follow(program, claim.run, claim.journal, limits, entropy)
        self.limits = limits
        self.is_pausing = claim.run.is_pausing
        self.is_ended = False
        self._input = claim.journal[0]
        self._seq = claim.run.seq
        self._parked: str | None = None
        self.inbox = Inbox(self.replay.asks)
        self._due: list[tuple[int, int, Ask, int]] = []
        self._pushed = 0
        self._sent_state = claim.run.state
        self._ready: list[Launch] = []
        self._covered: list[Launch] = []
        self._cleared: list[Launch] = []
        self._running: dict[str, StepAsk] = {}
        self._stopped: list[str] = []
        self._consumed: list[str] = []
        self._new_children: list[NewRun] = []
        self._terminate: list[str] = []
        self._is_committing = False
        self._is_leaving = False
        self.inbox.take_in(claim.inbox)
        self.inbox.seen = max(self.inbox.seen, claim.run.inbox_seq)

    # What happens.

    def begin(self, now: int) -> None:
        """Run the code as far as the journal and what has arrived carry it."""
        if self.run.crashes >= self.limits.crashes:
            self._parked = f"it took its worker down {self.run.crashes} times in a row, without a commit in between"
            return
        self.replay.start(now)
        if self.replay.drift is not None:
            self.replay.take()  # what drifted code made up before it was found out is not worth keeping
        self._pump(now)

    def hand_back(self) -> None:
        """Start no further step, and give the run back as soon as none is running: this worker is stopping."""
        self._is_leaving = True

    def step_ended(
        self, key: str, state: State, payload: str | None, now: int, *, attempt: int, started_at: int
    ) -> None:
        """A running step has its result, or failed for good."""
        if self._running.pop(key, None) is not None and not self.is_ended:
            self.replay.settle(key, state, payload, now, attempt=attempt, started_at=started_at)
            self._pump(now)

    def step_failed(
        self,
        key: str,
        payload: str,
        now: int,
        *,
        attempt: int,
        started_at: int,
        due_at: int,
        progress: str | None = None,
    ) -> None:
        """A running step's attempt failed after this progress; the next one is due at `due_at`."""
        ask = self._running.pop(key, None)
        if ask is None or self.is_ended or self.replay.is_over:
            return
        self.replay.now = now
        self.replay.loop.at = max(self.replay.loop.at, now)
        self.replay.history.opened[key] = self.replay.record(
            key, "step", "open", payload, attempt=attempt, started_at=started_at, due_at=due_at, ref=progress
        )
        self._push(due_at, ask, attempt)
        self._pump(now)

    def nested_ended(
        self,
        key: str,
        state: State,
        payload: str | None,
        now: int,
        *,
        attempt: int,
        started_at: int,
        due_at: int | None = None,
    ) -> None:
        """An attempt of a step inside a running step ended; its record goes out with the next decision."""
        if not self.is_ended and not self.replay.is_over:
            self.replay.loop.at = max(self.replay.loop.at, now)
            record = self.replay.record(
                key, "step", state, payload, attempt=attempt, started_at=started_at, due_at=due_at
            )
            (self.replay.history.opened if state == "open" else self.replay.history.nested)[key] = record

    def arrive(self, messages: Sequence[Message], now: int) -> None:
        """Messages came in."""
        if not self.is_ended:
            self.inbox.take_in(messages)
            self._pump(now)

    def tick(self, now: int) -> None:
        """Time has passed."""
        if not self.is_ended:
            self._pump(now)

    def committed(self, answer: Committed, now: int) -> None:
        """The decision is durable: what it led to may start."""
        self._is_committing = False
        self._cleared, self._covered = self._cleared + self._covered, []
        self.is_pausing = self.is_pausing or answer.is_pausing
        if answer.arrived and not self.is_ended:
            self.inbox.take_in(answer.arrived)
            self._pump(now)

    def close(self) -> None:
        """Drop the code of the run."""
        self.is_ended = True
        self.replay.close()

    # What is to be done.

    def decide(self, now: int, hold: int) -> Decision | None:
        """Return the next decision; None when there is nothing to say or one is on its way.

        Args:
            now: the present.
            hold: how long, in milliseconds, an idle run is kept in memory for a timer rather than released.
        """
        if self._is_committing or self.is_ended or self._just_goes_on():
            return None
        status, due_at, wait = self._fate(now, hold)
        state = self._changed_state()
        if status is RunStatus.RUNNING and not self._has_news() and state is None:
            return None
        self._seq += 1
        self._is_committing = True
        self._covered, self._ready = self._ready, []
        self.is_ended = status is not RunStatus.RUNNING
        is_renewed = self.replay.renewal is not None
        decision = Decision(
            run_id=self.run.id,
            epoch=self.run.epoch,
            seq=self._seq,
            at=now,
            records=() if is_renewed else tuple(self.replay.take()),
            status=status,
            due_at=due_at,
            seen=self.inbox.seen,
            consumed=tuple(self._consumed),
            children=tuple(self._new_children),
            posts=self._posts(),
            terminate=tuple(self._terminate + self._orphans(status, is_renewed)),
            wait=wait,
            state=state,
            renew=self._renewed(now) if is_renewed else None,
        )
        self._consumed, self._new_children, self._terminate = [], [], []
        return decision

    def as_it_stands(self, now: int) -> Decision:
        """Return the decision that would hand the run back at this point, to fall back on; nothing is decided yet.

        It begins anew from there, so what has been made known with `flow.set` is left to that.
        """
        return Decision(
            run_id=self.run.id,
            epoch=self.run.epoch,
            seq=self._seq + 1,
            at=now,
            records=tuple(self.replay.records),
            status=RunStatus.QUEUED,
            due_at=now,
            seen=self.inbox.seen,
            consumed=tuple(self._consumed),
            children=tuple(self._new_children),
            terminate=tuple(self._terminate),
        )

    def launches(self) -> list[Launch]:
        """Return the steps that may start now: everything that led to them is committed."""
        if self.is_ended:
            return []
        if not self._is_committing and not self._has_news():
            self._cleared, self._ready = self._cleared + self._ready, []
        if self.is_pausing or self._is_leaving:
            return []
        waiting, self._cleared = self._cleared, []
        for launch in waiting:
            self._running[launch.ask.key] = launch.ask
        return waiting

    def cancels(self) -> list[str]:
        """Return the keys of running steps that nobody waits for any more."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def next_due(self) -> int | None:
        """Return when time alone will change something, in milliseconds since the epoch."""
        while self._due and not self._is_waited_for(self._due[0][2]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    @property
    def is_busy(self) -> bool:
        """Whether steps run, whose ends may come in this very moment."""
        return bool(self._running) and not self.replay.is_over

    @property
    def is_idle(self) -> bool:
        """Whether no step runs or is about to."""
        return not (self._running or self._ready or self._covered or self._cleared)

    # Inside.

    def _just_goes_on(self) -> bool:
        """Return whether steps run, or may start, and nothing else is to be said: what `decide` finds most often."""
        if not (self._running or self._cleared or self._ready) or self.is_pausing or self._is_leaving:
            return False
        return not (self._has_news() or self.replay.is_over or self.replay.state or self._parked)

    def _has_news(self) -> bool:
        return bool(self.replay.records or self._consumed or self._new_children or self._terminate)

    def _pump(self, now: int) -> None:
        """Take up what the code asked for, and settle one thing after the other that can be settled."""
        while not self.replay.is_over:
            self._drop()
            self._take_up(now)
            if not self._settle_next(now):
                break
        self._drop()
        if self.replay.drift is None:
            self._take_up(now)  # children that were started in the last breath

    def _take_up(self, now: int) -> None:
        if not self.replay.fresh:
            return
        fresh, self.replay.fresh = self.replay.fresh, []
        recorded = self.replay.history.keys_left() if self.replay.is_replaying else ()
        for ask in fresh:
            if self.replay.asks.get(ask.key) is not ask or ask.key in recorded:
                continue
            if isinstance(ask, StepAsk):
                failed = self.replay.history.opened.get(ask.key)
                if failed is None:
                    self._ready.append(Launch(ask, 1))
                else:
                    self._push(failed.due_at or now, ask, failed.attempt)
            elif isinstance(ask, TimerAsk):
                self._push(ask.due_at, ask)
            elif isinstance(ask, EventAsk):
                self.inbox.wait(ask)
                if ask.due_at is not None:
                    self._push(ask.due_at, ask)
            else:
                assert isinstance(ask, ChildAsk)
                self._adopt(ask, now)

    def _settle_next(self, now: int) -> bool:
        """Settle one thing; return whether there was one."""
        match = self.inbox.match()
        if match is not None:
            ask, message = match
            self._consumed.append(message.id)
            payload = message.payload
            if isinstance(ask, ChildAsk) and message.state == "error":
                payload = child_failure(ask, payload)
            self.replay.settle(ask.key, message.state, payload, now, ref=message.ref or message.id)
            return True
        due = self.next_due()
        if due is None or due > now:
            return False
        _, _, late, attempt = heapq.heappop(self._due)
        if isinstance(late, StepAsk):
            self._ready.append(Launch(late, attempt + 1))
        else:
            self.replay.settle(late.key, "ok" if isinstance(late, TimerAsk) else "error", None, now)
        return True

    def _drop(self) -> None:
        if not self.replay.dropped:
            return
        dropped, self.replay.dropped = self.replay.dropped, []
        self._ready = [launch for launch in self._ready if self._is_waited_for(launch.ask)]
        self._covered = [launch for launch in self._covered if self._is_waited_for(launch.ask)]
        self._cleared = [launch for launch in self._cleared if self._is_waited_for(launch.ask)]
        for ask in dropped:
            if self._running.pop(ask.key, None) is not None:
                self._stopped.append(ask.key)
            elif self.inbox.children.pop(ask.key, None) is not None and isinstance(ask, ChildAsk):
                self._terminate.append(ask.run_id)

    def _adopt(self, ask: ChildAsk, now: int) -> None:
        """Begin a child, unless it was begun in an earlier turn."""
        self.inbox.children[ask.key] = ask
        if ask.key not in self.replay.history.opened:
            self._new_children.append(child_run(self.run, ask, now))

    def _fate(self, now: int, hold: int) -> tuple[RunStatus, int | None, str | None]:
        """Return what becomes of the run: its status, when it is due and why it waits."""
        replay = self.replay
        if self._parked is not None or replay.drift is not None:
            reason = self._parked or f"its code and its journal differ: {replay.drift}"
            return RunStatus.PAUSED, None, encode_waits([Wait("parked", detail=reason)])
        if replay.outcome is not None:
            return (RunStatus.COMPLETE if replay.outcome[0] == "ok" else RunStatus.ERRORED), None, None
        if replay.renewal is not None:
            return RunStatus.QUEUED, now, None
        if self._running:
            return RunStatus.RUNNING, None, None
        due = self.next_due()
        if self.is_pausing:
            return RunStatus.PAUSED, due if self.is_idle else now, self._waits()
        if self._is_leaving and not self.is_idle:
            return RunStatus.QUEUED, now, None
        if not self.is_idle or (due is not None and due - now <= hold and not self._is_leaving):
            return RunStatus.RUNNING, None, None
        if not replay.asks:
            return RunStatus.PAUSED, None, encode_waits([Wait("parked", detail=DEADLOCK)])
        return RunStatus.WAITING, due, self._waits()

    def _waits(self) -> str:
        return encode_waits(waits_of(self.replay.asks.values(), self.replay.history.opened))

    def _posts(self) -> tuple[Message, ...]:
        """Return the message that tells a parent of the end."""
        outcome, parent = self.replay.outcome, self.run.parent_id
        if outcome is None or parent is None or self.run.parent_key is None:
            return ()
        state, payload = outcome
        run_id = self.run.id
        at = self.replay.loop.at
        return (Message(parent, run_id, "child", self.run.parent_key, payload, at, state, run_id),)

    def _orphans(self, status: RunStatus, is_renewed: bool) -> list[str]:
        """Return the children that end with a run that failed, or began anew."""
        if status is not RunStatus.ERRORED and not is_renewed:
            return []
        return [ask.run_id for ask in self.inbox.children.values() if not ask.spec.is_detached]

    def _renewed(self, now: int) -> tuple[Record, ...]:
        return (Record(0, "input", "input", "ok", max(now, self.replay.loop.at), self.replay.renewal),)

    def _changed_state(self) -> str | None:
        if not self.replay.state or self.replay.drift is not None:
            return None
        text = codec.encode_object(self.replay.state)
        if text == self._sent_state:
            return None
        self._sent_state = text
        return text

    def _push(self, due_at: int, ask: Ask, attempt: int = 0) -> None:
        self._pushed += 1
        heapq.heappush(self._due, (due_at, self._pushed, ask, attempt))

    def _is_waited_for(self, ask: Ask) -> bool:
        return self.replay.asks.get(ask.key) is ask
