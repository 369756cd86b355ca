from __future__ import annotations

import pytest

from perdure.core.wait import Wait, encode_waits
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.server.dashboard.graphs import MOST, Step, draw, states_of, steps_of_definition, steps_of_details

DIAMOND = [Step("a", ()), Step("b", ("a",)), Step("c", ("a",)), Step("d", ("b", "c"))]


def test_each_step_stands_below_all_that_it_comes_after():
    steps = [Step("d", ("b", "c", "a")), Step("b", ("a",)), Step("c", ("b",)), Step("a", ())]
    drawing = draw(steps)
    at = {box.step.name: box for box in drawing.boxes}
    assert at["a"].y < at["b"].y < at["c"].y < at["d"].y
    assert len(drawing.lines) == 5


def test_no_two_boxes_touch_and_all_are_inside():
    steps = [Step(f"step-{n}", tuple(f"step-{m}" for m in range(n) if n % (m + 2) == 0)) for n in range(60)]
    drawing = draw(steps)
    boxes = drawing.boxes
    for number, one in enumerate(boxes):
        assert one.x >= 0
        assert one.x + one.width <= drawing.width
        assert one.y + one.height <= drawing.height
        for other in boxes[number + 1 :]:
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert apart or one.y != other.y


def test_lines_that_would_cross_are_untangled():
    drawing = draw([Step("a", ()), Step("b", ()), Step("to-b", ("b",)), Step("to-a", ("a",))])
    at = {box.step.name: box.x for box in drawing.boxes}
    assert (at["a"] < at["b"]) == (at["to-a"] < at["to-b"])


@pytest.mark.parametrize("steps", [[], [Step(str(n), ()) for n in range(MOST + 1)]])
def test_nothing_and_too_much_are_not_drawn(steps):
    assert draw(steps) is None


def test_what_is_no_graph_is_drawn_as_far_as_it_goes():
    assert len(draw([Step("a", ("b",)), Step("b", ("a",)), Step("c", ("gone",))]).boxes) == 3


def run(status: RunStatus, *waits: Wait) -> Run:
    return Run("r", "w", status, 0, 0, wait=encode_waits(waits) if waits else None)


def record(key: str, kind: str, state: str) -> Record:
    return Record(1, key, kind, state, 0)


def test_what_became_of_each_step():
    journal = [record("a", "step", "ok"), record("b", "step", "open"), record("c", "child", "open")]
    assert states_of(DIAMOND, journal, run(RunStatus.WAITING)) == {
        "a": "ok",
        "b": "retry",
        "c": "open",
        "d": "pending",
    }


def test_steps_of_an_ended_run_were_done_or_failed_or_skipped():
    journal = [record("a", "step", "ok"), record("b", "step", "open"), record("c", "step", "error")]
    assert states_of(DIAMOND, journal, run(RunStatus.ERRORED)) == {
        "a": "ok",
        "b": "error",
        "c": "error",
        "d": "skipped",
    }


def test_a_step_is_skipped_once_one_behind_it_was_begun():
    journal = [record("a", "step", "ok"), record("b", "step", "ok"), record("d", "step", "ok")]
    assert states_of(DIAMOND, journal, run(RunStatus.RUNNING))["c"] == "skipped"


def test_steps_that_nothing_is_left_before_are_under_way_while_the_run_is():
    journal = [record("a", "step", "ok")]
    states = states_of(DIAMOND, journal, run(RunStatus.RUNNING))
    assert (states["b"], states["c"], states["d"]) == ("open", "open", "pending")
    assert states_of(DIAMOND, [], run(RunStatus.WAITING, Wait("child", "a", detail="x")))["a"] == "open"


def test_items_of_a_map_are_their_step():
    states = states_of([Step("m", ())], [record("m/3", "child", "ok")], run(RunStatus.WAITING))
    assert states == {"m": "open"}


def test_steps_of_definitions_and_of_what_is_announced():
    data = {
        "definition": {
            "steps": [
                {"name": "a", "task": "t", "after": []},
                {"name": "b", "task": "u", "after": ["a"], "when": "x", "map": {}, "compensate": {}},
            ]
        }
    }
    assert steps_of_definition(data) == [Step("a", (), "t"), Step("b", ("a",), "u", True, True, True)]
    assert steps_of_details({"steps": ["a", "b"], "after": [[], [0]]}) == [Step("a", ()), Step("b", ("a",))]
    assert steps_of_details({"steps": ["a"]}) == []
    assert steps_of_details({}) == []
