"""What an endpoint cannot decide."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from perdure.core.saga import RECALL
from perdure.dispatch import breaker
from perdure.dispatch.breaker import Breaker
from perdure.dispatch.decisions import APART_MS, require_fitting
from perdure.model.decision import Decision, Message
from perdure.model.errors import FanOutTooWideError, JournalTooLongError, PayloadTooLargeError, UsageError
from perdure.model.limits import Limits
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus

NOW = 1_700_000_000_000
RUN = Run("a", "w", RunStatus.RUNNING, NOW, NOW, epoch=2, seq=1, parent_id="p", parent_key="child")
INPUT = Record(0, "input", "input", "ok", NOW, "{}")
STEP = Record(1, "charge", "step", "ok", NOW, "1")
OUTPUT = Record(2, "output", "output", "ok", NOW, "1")
CHILD = NewRun("a/b", "w", NOW, NOW, (INPUT,), parent_id="a", parent_key="b", depth=1)
END = Message("p", "a", "child", "child", "1", NOW, ref="a")
FITTING = Decision(
    "a",
    2,
    2,
    NOW,
    RunStatus.COMPLETE,
    None,
    records=(STEP, OUTPUT),
    children=(CHILD,),
    posts=(END,),
    terminate=("a/c",),
)


def check(**changes):
    require_fitting(replace(FITTING, **changes), RUN, Limits(payload_bytes=100, journal_records=5, fan_out=2), NOW)


def test_what_fits():
    check()
    check(posts=(Message("a/b", "x", "event", RECALL, None, NOW, ref="a"),))
    check(children=(replace(CHILD, id="a/webhook:x", parent_id=None, parent_key=None, depth=0),))
    check(status=RunStatus.QUEUED, due_at=NOW, renew=(INPUT,), records=())


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"run_id": "b"}, UsageError, "decision.run_id"),
        ({"epoch": 3}, UsageError, "decision.run_id"),
        ({"status": RunStatus.TERMINATED}, UsageError, "decision.status"),
        ({"at": NOW + APART_MS + 1}, UsageError, "decision.at"),
        ({"at": NOW - APART_MS - 1}, UsageError, "decision.at"),
        ({"status": RunStatus.WAITING, "due_at": -1}, UsageError, "decision.due_at"),
        ({"records": (STEP,)}, UsageError, "its output as its last record"),
        ({"records": ()}, UsageError, "its output as its last record"),
        ({"records": (INPUT, OUTPUT)}, UsageError, r"decision.records\[0\].kind"),
        ({"records": (replace(STEP, payload='"' + 100 * "x" + '"'), OUTPUT)}, PayloadTooLargeError, r"records\[0\]"),
        ({"records": (STEP,) * 5 + (OUTPUT,)}, JournalTooLongError, "decision.records"),
        ({"wait": "x" * 2_000_000}, PayloadTooLargeError, "decision.wait"),
        ({"state": "x" * 2_000_000}, PayloadTooLargeError, "decision.state"),
        ({"children": (CHILD,) * 3}, FanOutTooWideError, "decision.children"),
        ({"children": (replace(CHILD, parent_id="b"),)}, UsageError, r"children\[0\].parent_id"),
        ({"children": (replace(CHILD, parent_id=None, id="other"),)}, UsageError, r"children\[0\].parent_id"),
        ({"children": (replace(CHILD, worker="w"),)}, UsageError, r"children\[0\].worker"),
        ({"children": (replace(CHILD, records=()),)}, UsageError, r"children\[0\].records"),
        ({"children": (replace(CHILD, workflow=""),)}, UsageError, r"children\[0\].workflow"),
        ({"posts": (replace(END, run_id="q"),)}, UsageError, r"posts\[0\]"),
        ({"posts": (replace(END, type="other"),)}, UsageError, r"posts\[0\]"),
        ({"posts": (replace(END, id="b"),)}, UsageError, r"posts\[0\]"),
        ({"posts": (Message("q", "x", "event", "paid", None, NOW),)}, UsageError, r"posts\[0\]"),
        ({"posts": (Message("q", "x", "event", RECALL, None, NOW, ref="b"),)}, UsageError, r"posts\[0\]"),
    ],
)
def test_what_does_not(changes, error, told):
    with pytest.raises(error, match=told):
        check(**changes)


class Still:
    """A world whose clock a test moves."""

    at = NOW

    def now(self):
        return self.at

    def roll(self):
        return 0.5


class TestTheBreaker:
    def test_it_opens_after_failures_in_a_row(self):
        world = Still()
        found = Breaker(world)
        for _ in range(breaker.FAILURES - 1):
            found.failed()
            assert found.left() == 0
        found.failed()
        assert found.left() == breaker.FIRST_MS

    def test_one_is_let_through_and_the_others_wait(self):
        world = Still()
        found = Breaker(world)
        for _ in range(breaker.FAILURES):
            found.failed()
        world.at += breaker.FIRST_MS
        assert found.left() == 0
        assert found.left() > 0
        found.worked()
        assert found.left() == 0

    def test_it_stays_open_longer_and_longer_up_to_a_bound(self):
        world = Still()
        found = Breaker(world)
        waits = []
        for _ in range(breaker.FAILURES + 10):
            found.failed()
            waits.append(found.left())
        assert waits[breaker.FAILURES - 1 : breaker.FAILURES + 2] == [2_000, 4_000, 8_000]
        assert waits[-1] == breaker.LONGEST_MS

    def test_what_works_in_between_closes_it(self):
        found = Breaker(Still())
        dice = random.Random(1)
        for _ in range(100):
            for _ in range(dice.randrange(breaker.FAILURES)):
                found.failed()
            assert found.left() == 0
            found.worked()
