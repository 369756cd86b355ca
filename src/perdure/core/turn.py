"""One claim of a run by a worker, as a pure state machine.

What happens comes in as a call with its time (`begin`, `step_ended`, `step_failed`, `arrive`, `tick`); what is to be
done comes out as values: `decide` gives the decision to commit, `launches` the steps that may start, `cancels` those
to stop. A step may start only once everything that led to it is committed: speculate, then commit, then act.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perdure.core.ask import ChildAsk, EventAsk, Program, StepAsk, TimerAsk
from perdure.core.child import Children, child_failure, told_parent
from perdure.core.due import Dues
from perdure.core.inbox import Inbox
from perdure.core.launching import Launch, Launches
from perdure.core.leaf import Leaf
from perdure.core.loop import LATEST
from perdure.core.replay import Replay
from perdure.core.saga import RECALL
from perdure.core.wait import DEADLOCK, encode_waits, parked, took_workers_down, waits_of
from perdure.model.decision import Claim, Committed, Decision, Message
from perdure.model.limits import Limits
from perdure.model.record import State
from perdure.model.run import RunStatus


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
        self._seq = claim.run.seq
        self._crashes = claim.run.crashes if claim.run.crashes >= limits.crashes else 0
        self._parked = claim.unreadable or (took_workers_down(self._crashes) if self._crashes else None)
        self.inbox = Inbox(claim.run, self.replay.asks)
        self._due = Dues(self.replay.asks)
        self._children = Children(claim.run, self.inbox.children, self.replay.history)
        self._steps = Launches(self.replay.asks, self.replay.history, self._children)
        self.replay.may_run = self._steps.may_run
        self._consumed: list[str] = []
        self._is_committing = False
        self._is_leaving = False
        self._is_compensating = claim.run.status is RunStatus.COMPENSATING
        self.inbox.take_in(claim.inbox)
        self.inbox.seen = max(self.inbox.seen, claim.run.inbox_seq)

    # What happens.

    def begin(self, now: int) -> None:
        """Run the code as far as the journal and what has arrived carry it."""
        if self._parked is not None:
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
        if self._steps.running.pop(key, None) is not None and not self.is_ended:
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
        ask = self._steps.running.get(key)
        if ask is not None and ask.left_at is not None:
            self.step_ended(key, "error", payload, now, attempt=attempt, started_at=started_at)
            return
        self._steps.running.pop(key, None)
        if ask is None or self.is_ended or self.replay.is_over:
            return
        self.replay.now = now
        self.replay.loop.at = max(self.replay.loop.at, now)
        self.replay.history.opened[key] = self.replay.record(
            key, "step", "open", payload, attempt=attempt, started_at=started_at, due_at=due_at, ref=progress
        )
        self._due.push(due_at, ask, attempt)
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
        self._steps.clear()
        self.is_pausing = self.is_pausing or answer.is_pausing
        if answer.arrived and not self.is_ended:
            self.inbox.take_in(answer.arrived)
            self._pump(now)

    def close(self) -> None:
        """Drop the code of the run."""
        self.is_ended = True
        self.replay.close()

    # What is to be done.

    def decide(self, now: int, hold: int, *, lingers: bool = False) -> Decision | None:
        """Return the next decision; None when there is nothing to say or one is on its way.

        Args:
            now: the present.
            hold: how long, in milliseconds, an idle run is kept in memory for a timer rather than released.
            lingers: whether an idle run is kept in memory for its children.
        """
        if self._is_committing or self.is_ended or self._just_goes_on():
            return None
        status, due_at, wait = self._fate(now, hold, lingers=lingers)
        state = self.replay.changed_state()
        is_kept = due_at is None and (status is RunStatus.RUNNING or status is RunStatus.COMPENSATING)
        if is_kept and not self._has_news() and state is None:
            return None
        self._seq += 1
        self._is_committing = True
        self._is_compensating = self.replay.is_undoing
        self._steps.cover()
        self.is_ended = not is_kept
        is_renewed = self.replay.renewal is not None
        if is_renewed or (status.is_finished and status is not RunStatus.COMPLETE):
            self._children.orphan()
        if status.is_finished:
            self._consumed += self.inbox.take_orders()  # lest one meets a restart
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
            children=tuple(self._children.new),
            posts=self._posts(status),
            terminate=tuple(self._children.ended),
            unclaimed=tuple(self._children.recalled),
            wait=wait,
            state=state,
            renew=(self.replay.renewed(now),) if is_renewed else None,
        )
        self._consumed = []
        self._children.clear()
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
            status=self._given_back(),
            due_at=now,
            seen=self.inbox.seen,
            consumed=tuple(self._consumed),
            children=tuple(self._children.new),
            posts=tuple(self._children.recalls),
            terminate=tuple(self._children.ended),
            unclaimed=tuple(self._children.recalled),
        )

    def launches(self) -> list[Launch]:
        """Return the steps that may start now: everything that led to them is committed."""
        steps = self._steps
        if self.is_ended:
            return []
        if steps.ready and not self._is_committing and not self._has_news():
            steps.clear_ready()
        if not steps.cleared or self.is_pausing or self._is_leaving:
            return []
        return steps.start(are_left=self.replay.is_winding_down)

    def cancels(self) -> list[str]:
        """Return the keys of running steps that nobody waits for any more."""
        stopped, self._steps.stopped = self._steps.stopped, []
        return stopped

    def next_due(self) -> int | None:
        """Return when time alone will change something, in milliseconds since the epoch."""
        return self._due.next()

    @property
    def is_busy(self) -> bool:
        """Whether steps run, whose ends may come in this very moment."""
        return bool(self._steps.running) and not self.replay.is_over

    @property
    def is_idle(self) -> bool:
        """Whether no step runs or is about to."""
        return not self._steps.are_any

    # Inside.

    def _just_goes_on(self) -> bool:
        """Return whether steps run, or may start, and nothing else is to be said: what `decide` finds most often."""
        steps = self._steps
        if not (steps.running or steps.cleared or steps.ready) or self.is_pausing or self._is_leaving:
            return False
        return not (self._has_news() or self.replay.is_over or self.replay.state or self._parked)

    def _has_news(self) -> bool:
        if self.replay.records or self._consumed or self._children.are_told:
            return True
        return self._is_compensating is not self.replay.is_undoing

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
        if not self.replay.fresh or (self.replay.is_winding_down and not self.replay.is_over):
            return
        fresh, self.replay.fresh = self.replay.fresh, []
        recorded = self.replay.history.keys_left() if self.replay.is_replaying else ()
        for ask in fresh:
            if self.replay.asks.get(ask.key) is not ask:
                if isinstance(ask, ChildAsk) and ask.spec.is_detached:
                    self._children.let_go(ask, now)
                continue
            if ask.key in recorded:
                continue
            if isinstance(ask, StepAsk):
                failed = self.replay.history.opened.get(ask.key)
                if failed is None:
                    self._steps.ready.append(Launch(ask, 1))
                else:
                    self._due.push(failed.due_at or now, ask, failed.attempt)
            elif isinstance(ask, TimerAsk):
                self._due.push(ask.due_at, ask)
            elif isinstance(ask, EventAsk):
                self.inbox.wait(ask)
                if ask.due_at is not None:
                    self._due.push(ask.due_at, ask)
            else:
                assert isinstance(ask, ChildAsk)
                self._children.adopt(ask, now)

    def _settle_next(self, now: int) -> bool:
        """Settle one thing; return whether there was one."""
        if self._steps.settle_left(self.replay, now):
            return True
        order = self.inbox.order
        if order is not None and not self.replay.is_replaying and self._turn_back(order, now):
            self._consumed += self.inbox.take_orders()
            return True
        match = self.inbox.match()
        if match is not None:
            ask, message = match
            self._consumed.append(message.id)
            payload = message.payload
            if isinstance(ask, ChildAsk) and message.state == "error":
                payload = child_failure(ask, payload)
            ref = message.ref if message.kind == "child" else message.id
            self.replay.settle(ask.key, message.state, payload, now, ref=ref)
            return True
        due = self.next_due()
        if due is None or due > now:
            return False
        late, attempt = self._due.pop()
        if isinstance(late, StepAsk):
            self._steps.ready.append(Launch(late, attempt + 1))
        else:
            self.replay.settle(late.key, "ok" if isinstance(late, TimerAsk) else "error", None, now)
        return True

    def _turn_back(self, order: Message, now: int) -> bool:
        """Turn the code back, of a run that is recalled once what is under way has ended; return whether that is."""
        replay = self.replay
        if replay.cause is not None:
            return True
        if order.type == RECALL:
            if not replay.is_winding_down:
                replay.wind_down(now, self._steps.left_under_way(now, is_inherited=self.run.epoch > 1))
            if not replay.is_wound_down:
                return False
        replay.turn_back(now, order.id)
        return True

    def _drop(self) -> None:
        if not self.replay.dropped:
            return
        dropped, self.replay.dropped = self.replay.dropped, []
        self._steps.forget()
        for ask in dropped:
            if not self._steps.stop(ask) and isinstance(ask, ChildAsk):
                self._children.drop(ask)

    def _fate(self, now: int, hold: int, *, lingers: bool) -> tuple[RunStatus, int | None, str | None]:
        """Return what becomes of the run: its status, when it is due and why it waits."""
        replay = self.replay
        if self._parked is not None or replay.drift is not None:
            reason = self._parked or f"its code and its journal differ: {replay.drift}"
            return RunStatus.PAUSED, None, parked(reason, self._crashes)
        if replay.outcome is not None:
            return replay.end, None, None
        if replay.renewal is not None:
            return RunStatus.QUEUED, now, None
        keeping = RunStatus.COMPENSATING if replay.is_undoing else RunStatus.RUNNING
        if self._steps.running:
            return keeping, None, None
        if replay.saga is not None and replay.saga.is_stuck:
            return RunStatus.COMPENSATION_FAILED, None, encode_waits(replay.saga.waits())
        due = self.next_due()
        if self.is_pausing:
            return RunStatus.PAUSED, due if self.is_idle else now, self._waits()
        if self._is_leaving and not self.is_idle:
            return self._given_back(), now, None
        stays = (due is not None and due - now <= hold) or (lingers and self.inbox.children)
        if not self.is_idle or (stays and not self._is_leaving):
            return keeping, None, None
        if not replay.asks:
            return RunStatus.PAUSED, None, parked(DEADLOCK)
        if replay.is_undoing:  # without a time to be due at, it would keep its lease
            return RunStatus.COMPENSATING, LATEST if due is None else due, self._waits()
        return RunStatus.WAITING, due, self._waits()

    def _given_back(self) -> RunStatus:
        return RunStatus.COMPENSATING if self.replay.is_undoing else RunStatus.QUEUED

    def _waits(self) -> str:
        return encode_waits(waits_of(self.replay.asks.values(), self.replay.history.opened))

    def _posts(self, status: RunStatus) -> tuple[Message, ...]:
        """Return what children are told, and a parent: of the end, or that an operator is needed once a run failed."""
        replay, outcome = self.replay, self.replay.outcome
        if status is RunStatus.COMPENSATION_FAILED and replay.cause is not None:
            outcome = ("error", replay.begin_saga().failure(replay.cause))
        is_undone = status is RunStatus.COMPENSATED
        return (*self._children.recalls, *told_parent(self.run, outcome, replay.loop.at, is_undone=is_undone))
