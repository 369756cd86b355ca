from __future__ import annotations

import itertools

import pytest

from perdure.server.dashboard.scale import Scale

DAY = 86_400_000


def test_without_waits_time_is_even():
    scale = Scale(0, 1_000, [(0, 1_000)])
    assert scale.breaks == []
    assert [scale.place(time) for time in (0, 250, 500, 1_000)] == [0, 25, 50, 100]
    assert scale.place(-5) == 0
    assert scale.place(2_000) == 100


def test_a_long_wait_is_shortened_and_what_happened_is_seen():
    scale = Scale(0, 3 * DAY, [(0, 1_000), (3 * DAY - 1_000, 3 * DAY)])
    assert scale.breaks == [(1_000, 3 * DAY - 1_000)]
    left, right = scale.place(1_000), scale.place(3 * DAY - 1_000)
    assert left == pytest.approx(100 - right)
    assert left > 30
    assert left < scale.place(DAY) < right


def test_a_short_wait_stays_as_it_is():
    scale = Scale(0, 3_000, [(0, 1_000), (2_000, 3_000)])
    assert scale.breaks == []
    assert scale.place(1_500) == 50


def test_where_nothing_but_waiting_happened_time_is_even():
    scale = Scale(0, DAY, [])
    assert scale.breaks == []
    assert scale.place(DAY // 2) == 50


def test_many_waits_leave_room_for_what_happened():
    busy = [(at * DAY, at * DAY + 1_000) for at in range(50)]
    scale = Scale(0, 50 * DAY, busy)
    assert sum(scale.place(until) - scale.place(since) for since, until in busy) > 25


def test_spans_that_overlap_are_one_and_what_is_outside_is_left_out():
    scale = Scale(0, 100, [(-50, 10), (5, 20), (90, 300), (400, 500)])
    assert scale.place(50) == 50


@pytest.mark.parametrize("length", [1, 7, 1_000, 12_345, DAY, 400 * DAY, 4_000 * DAY])
def test_labels_are_few_and_not_upon_each_other(length):
    ticks = Scale(1_000, 1_000 + length, [(1_000, 1_000 + length)]).ticks()
    assert ticks[0] == (0, 0)
    assert ticks[-1] == (100, length)
    assert 2 <= len(ticks) <= 8
    places = [place for place, _ in ticks]
    assert all(later - earlier >= 9 for earlier, later in itertools.pairwise(places))


def test_behind_a_shortened_wait_there_is_a_label():
    ticks = Scale(0, DAY, [(0, 1_000), (DAY - 1_000, DAY)]).ticks()
    assert [after for _, after in ticks] == [0, 1_000, DAY - 1_000, DAY]


def test_what_took_a_moment_does_not_look_long_beside_a_long_wait():
    scale = Scale(0, 600_000, [(0, 1), (599_999, 600_000)])
    assert scale.breaks == [(1, 599_999)]
    assert scale.place(1) < 5
    assert [after for _, after in scale.ticks()] == [0, 600_000]


def test_where_all_waits_are_short_none_is_shortened():
    scale = Scale(0, 1_000, [(10, 11), (60, 60), (980, 981)])
    assert scale.breaks == []
    assert scale.place(500) == 50


def test_a_wait_that_is_drawn_as_it_is_counts_beside_one_that_is_shortened():
    scale = Scale(0, 600_000, [(0, 1), (900, 900)])
    assert scale.breaks == [(900, 600_000)]
    assert scale.place(900) == pytest.approx(100 / 1.5)
