from __future__ import annotations

from perdure.core.wait import Wait, encode_waits
from perdure.model.failure import encode_error
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import Run, RunStatus
from perdure.server.dashboard.timeline import LANES, timeline

ERROR = encode_error(ErrorInfo("builtins:ValueError", "no"))


def run(**about) -> Run:
    given = {"status": RunStatus.WAITING, "started_at": 1_000, **about}
    return Run("r", "w", given.pop("status"), 1_000, 1_000, **given)


def records(*found: tuple) -> list[Record]:
    """Each as (key, kind, state, at) and what else there is."""
    made = [Record(0, "input", "input", "ok", 1_000)]
    made += [Record(number, *each[:4], **(each[4] if len(each) > 4 else {})) for number, each in enumerate(found, 1)]
    return made


def looks(lane) -> list[str]:
    return [bar.look for bar in lane.bars]


def test_attempts_and_the_waits_between_them_are_bars_of_one_lane():
    journal = records(
        ("charge", "step", "open", 1_400, {"payload": ERROR, "started_at": 1_000, "due_at": 2_000}),
        ("charge", "step", "open", 2_400, {"payload": ERROR, "started_at": 2_000, "due_at": 3_000, "attempt": 2}),
        ("charge", "step", "ok", 3_500, {"payload": "1", "started_at": 3_100, "attempt": 3}),
    )
    (lane,) = timeline(run(status=RunStatus.COMPLETE, finished_at=3_500), journal, 9_000).lanes
    assert looks(lane) == ["error", "retry", "error", "retry", "ok"]
    assert (lane.attempts, lane.is_over, lane.is_error, lane.took) == (3, True, False, "2.5 s")
    assert lane.bars[0].x == 0
    assert "ValueError: no" in lane.bars[0].title
    assert lane.bars[1].x + lane.bars[1].width <= lane.bars[2].x + 0.01
    assert round(lane.bars[-1].x + lane.bars[-1].width) == 100


def test_the_next_attempt_is_waited_for_up_to_now():
    journal = records(("a", "step", "open", 1_400, {"payload": ERROR, "started_at": 1_000, "due_at": 60_000}))
    (lane,) = timeline(run(), journal, 3_000).lanes
    assert looks(lane) == ["error", "retry"]
    assert not lane.is_over


def test_waits_are_drawn_from_what_led_to_them():
    journal = records(
        ("a", "step", "ok", 2_000, {"started_at": 1_000}),
        ("nap", "timer", "ok", 4_000),
        ("approval", "event", "error", 5_000, {"payload": ERROR}),
    )
    picture = timeline(run(status=RunStatus.COMPLETE, finished_at=5_000), journal, 9_000)
    a, nap, approval = picture.lanes
    assert (looks(a), looks(nap), looks(approval)) == (["ok"], ["wait"], ["error"])
    assert nap.took == "2 s"
    assert approval.is_error
    assert picture.took == "4 s"


def test_what_is_waited_for_now_is_under_way():
    waits = encode_waits([Wait("event", "approval", detail="approved"), Wait("timer", "nap", due_at=99_000)])
    picture = timeline(run(wait=waits), records(), 3_000)
    assert [(lane.key, looks(lane)) for lane in picture.lanes] == [("approval", ["open"]), ("nap", ["open"])]
    assert "'approved'" in picture.lanes[0].bars[0].title


def test_children_are_lanes_that_lead_to_their_runs():
    journal = records(
        ("child", "child", "open", 1_100, {"ref": "r/child"}),
        ("child", "child", "ok", 2_000, {"ref": "r/child"}),
        ("other", "child", "open", 2_000, {"ref": "r/other"}),
    )
    done, other = timeline(run(), journal, 3_000).lanes
    assert (looks(done), done.run_id, done.took) == (["child"], "r/child", "900 ms")
    assert (looks(other), other.run_id) == (["open"], "r/other")


def test_steps_inside_a_step_stand_below_it():
    journal = records(
        ("a/inner", "step", "ok", 1_500, {"started_at": 1_200}),
        ("b", "step", "ok", 1_600, {"started_at": 1_100}),
        ("a", "step", "ok", 1_700, {"started_at": 1_000}),
        ("lost/inner", "step", "ok", 1_800, {"started_at": 1_700}),
    )
    lanes = timeline(run(), journal, 2_000).lanes
    assert [(lane.name, lane.depth) for lane in lanes] == [("a", 0), ("inner", 1), ("b", 0), ("lost/inner", 0)]


def test_a_time_in_the_queue_that_is_worth_it_is_a_lane_of_its_own():
    (lane,) = timeline(run(started_at=6_000, status=RunStatus.PAUSED), records(), 6_000).lanes
    assert (lane.kind, looks(lane)) == ("queue", ["wait"])
    (lane,) = timeline(run(started_at=None, status=RunStatus.QUEUED), records(), 1_010).lanes
    assert lane.kind == "queue"


def test_a_worker_that_has_the_run_is_seen():
    leased = run(status=RunStatus.RUNNING, worker="w1")
    (lane,) = timeline(leased, records(), 2_000).lanes
    assert (lane.key, looks(lane)) == ("…", ["open"])
    telling = run(status=RunStatus.RUNNING, worker="w1", progress='{"load": {"done": 5}}')
    (lane,) = timeline(telling, records(), 2_000).lanes
    assert lane.key == "load"


def test_undos_have_a_look_of_their_own():
    journal = records(("undo:charge", "step", "ok", 2_000, {"started_at": 1_500}))
    (lane,) = timeline(run(), journal, 3_000).lanes
    assert lane.kind == "undo"


def test_a_picture_ends_somewhere():
    steps = [(f"s{number}", "step", "ok", 2_000 + number, {"started_at": 1_000}) for number in range(LANES + 7)]
    picture = timeline(run(), records(*steps), 3_000)
    assert len(picture.lanes) == LANES
    assert picture.more == 7


def test_an_error_that_cannot_be_read_is_drawn_all_the_same():
    journal = records(("a", "step", "error", 2_000, {"payload": "{", "started_at": 1_000}))
    (lane,) = timeline(run(progress="["), journal, 3_000).lanes
    assert "cannot be read" in lane.bars[0].title


def test_two_days_of_waiting_do_not_hide_the_rest():
    day = 86_400_000
    journal = records(
        ("a", "step", "ok", 2_000, {"started_at": 1_000}),
        ("approval", "event", "ok", 2 * day),
        ("b", "step", "ok", 2 * day + 1_000, {"started_at": 2 * day}),
    )
    picture = timeline(run(status=RunStatus.COMPLETE, finished_at=2 * day + 1_000), journal, 9 * day)
    assert [label for _, _, label in picture.breaks] == ["1 d 23 h of waiting"]
    assert all(bar.width > 30 for lane in picture.lanes if lane.kind == "step" for bar in lane.bars)
