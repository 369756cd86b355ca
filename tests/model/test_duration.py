"""Durations, as seconds and as stored milliseconds."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.model.duration import in_words, instant, milliseconds, seconds
from perdure.model.errors import UsageError

CENTURY = 100 * 366 * 86_400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        (dt.timedelta(minutes=2, milliseconds=5), 120.005),
        ("30", None),
        ("30s", 30),
        ("30 seconds", 30),
        ("1 second", 1),
        ("250ms", 0.25),
        ("1 millisecond", 0.001),
        ("2 sec", 2),
        ("5m", 300),
        ("5 min", 300),
        ("5 mins", 300),
        ("10 Minutes", 600),
        ("1h 30m", 5_400),
        ("1h30m", 5_400),
        ("1 hour, 30 minutes", 5_400),
        ("1.5 days", 129_600),
        ("2 d", 172_800),
        ("1 week", 604_800),
        ("1w", 604_800),
        ("  3 s", 3),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_a_timedelta_or_text(value, expected):
    if expected is None:
        with pytest.raises(UsageError, match="write it like"):
            seconds(value)
    else:
        assert seconds(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value", ["", " ", "soon", "10 fortnights", "5m and more", "m5", "-5s", "5 s s", "1e3s", "5m x 3s"]
)
def test_text_that_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(UsageError, match=r"^delay: .* is no duration; write it like '30 seconds'"):
        seconds(value, field="delay")


@pytest.mark.parametrize("value", [None, True, False, b"5s", [5], 1j, dt.date(2026, 1, 1)])
def test_other_types_are_refused(value):
    with pytest.raises(UsageError, match="is no duration; give seconds, a timedelta or text"):
        seconds(value)


@pytest.mark.parametrize(
    "value", [-1, -0.001, math.inf, -math.inf, math.nan, CENTURY + 1, "6000 weeks", dt.timedelta(seconds=-1)]
)
def test_a_duration_is_neither_negative_nor_over_a_century(value):
    with pytest.raises(UsageError, match="between 0 seconds and 100 years"):
        seconds(value)


def test_a_century_is_allowed():
    assert seconds(CENTURY) == CENTURY


def test_the_error_names_the_argument():
    with pytest.raises(UsageError, match="^retry.delay: "):
        milliseconds("never", field="retry.delay")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (1, 1_000), ("250ms", 250), (0.0001, 1), (0.001, 1), (0.0010001, 2), (0.3, 300), ("1.1s", 1_100)],
)
def test_milliseconds_round_up_so_that_nothing_is_early(value, expected):
    assert milliseconds(value) == expected


@given(st.integers(0, 10**11))
def test_whole_milliseconds_survive_the_way_through_seconds(whole):
    assert milliseconds(whole / 1000) == whole


@given(st.floats(0, CENTURY))
def test_milliseconds_are_at_most_one_too_long(value):
    assert -max(1e-3, 4 * math.ulp(value * 1000)) <= milliseconds(value) - value * 1000 < 1


def test_an_instant_is_an_aware_datetime_or_seconds_since_the_epoch():
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=dt.UTC)
    abroad = moment.astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert instant(moment) == instant(abroad) == instant(moment.timestamp()) == 1_767_323_045_678
    assert instant(0) == 0
    assert instant(1.5) == 1_500
    assert instant(-1) == -1_000


@given(st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)))  # noqa: DTZ001 - bounds
def test_an_instant_is_never_early(moment):
    exact = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1)
    assert -0.01 <= instant(moment) - exact < 1.01


def test_a_datetime_without_a_zone_is_refused():
    with pytest.raises(UsageError, match=r"^until: .* has no time zone; use datetime"):
        instant(dt.datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake that is tested


@pytest.mark.parametrize("value", [None, True, "tomorrow", math.nan, math.inf, dt.timedelta(1)])
def test_what_is_no_moment_is_refused(value):
    with pytest.raises(UsageError, match="^at: .* is no moment"):
        instant(value, field="at")


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1_240, "1.24 s"),
        (59_900, "59.9 s"),
        (60_000, "1 min"),
        (125_000, "2 min 5 s"),
        (3_600_000, "1 h"),
        (3_605_000, "1 h"),
        (90_000_000, "1 d 1 h"),
        (864_000_000, "10 d"),
    ],
)
def test_durations_are_told_in_the_two_units_that_matter(length, text):
    assert in_words(length) == text
