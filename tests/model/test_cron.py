"""Cron expressions in time zones, over the changes of the clock."""

from __future__ import annotations

import datetime as dt
import itertools
from zoneinfo import ZoneInfo

import pytest

from perdure.model.cron import Cron, time_zone
from perdure.model.errors import UsageError


def fires(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The first fires behind a time of the wall clock."""
    cron = Cron(expression, zone)
    moment = int(dt.datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)
    found = []
    for _ in range(count):
        moment = cron.after(moment)
        found.append(dt.datetime.fromtimestamp(moment / 1000, ZoneInfo(zone)).strftime("%m-%d %H:%M:%S %z"))
    return found


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("0 9 * * mon-fri", "2026-01-02T09:00", ["01-05 09:00:00 +0000", "01-06 09:00:00 +0000"]),
        ("*/15 * * * *", "2026-01-02T09:50", ["01-02 10:00:00 +0000", "01-02 10:15:00 +0000"]),
        ("0 0 l * *", "2026-02-01T00:00", ["02-28 00:00:00 +0000", "03-31 00:00:00 +0000"]),
        ("0 0 lw * *", "2026-01-01T00:00", ["01-30 00:00:00 +0000", "02-27 00:00:00 +0000"]),
        ("0 0 * * mon#2", "2026-01-01T00:00", ["01-12 00:00:00 +0000", "02-09 00:00:00 +0000"]),
        ("0 0 * * 5L", "2026-01-01T00:00", ["01-30 00:00:00 +0000", "02-27 00:00:00 +0000"]),
        ("0 12 1 jan,jul *", "2026-01-01T12:00", ["07-01 12:00:00 +0000", "01-01 12:00:00 +0000"]),
        ("*/20 * * * * *", "2026-01-01T00:00", ["01-01 00:00:20 +0000", "01-01 00:00:40 +0000"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["02-29 00:00:00 +0000", "02-29 00:00:00 +0000"]),
    ],
)
def test_what_can_be_written(expression, start, expected):
    assert fires(expression, "UTC", start, 2) == expected


def test_it_fires_later_than_the_moment():
    cron = Cron("* * * * *")
    assert [cron.after(moment) for moment in (-1, 0, 59_999, 60_000, 60_500)] == [0, 60_000, 60_000, 120_000, 120_000]


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        # 02:00 to 03:00 does not exist: once, at its end
        ("30 2 * * *", "Europe/Paris", "2026-03-28T12:00", ["03-29 03:00:00 +0200", "03-30 02:30:00 +0200"]),
        ("15,45 2 * * *", "Europe/Paris", "2026-03-28T12:00", ["03-29 03:00:00 +0200", "03-30 02:15:00 +0200"]),
        ("*/10 2-3 * * *", "Europe/Paris", "2026-03-28T12:00", ["03-29 03:00:00 +0200", "03-29 03:10:00 +0200"]),
        ("30 30 2 * * *", "Europe/Paris", "2026-03-28T12:00", ["03-29 03:00:00 +0200", "03-30 02:30:30 +0200"]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 03:00:00 -0400", "03-09 02:30:00 -0400"]),
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00", ["04-24 01:00:00 +0300", "04-25 00:00:00 +0300"]),
        ("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30:00 +1100", "10-05 02:10:00 +1100"]),
        # 02:00 to 03:00 exists twice: once, the first time
        ("30 2 * * *", "Europe/Paris", "2026-10-24T12:00", ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]),
        ("0,30 2 * * *", "Europe/Paris", "2026-10-25T00:00", ["10-25 02:00:00 +0200", "10-25 02:30:00 +0200"]),
        ("0 */2 * * *", "Europe/Paris", "2026-10-25T01:00", ["10-25 02:00:00 +0200", "10-25 04:00:00 +0100"]),
        ("45 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:45:00 -0400", "11-02 01:45:00 -0500"]),
    ],
)  # fmt: skip
def test_the_wall_clock_decides(expression, zone, start, expected):
    assert fires(expression, zone, start, 2) == expected


def test_from_the_second_pass_of_a_repeated_hour_the_first_is_over():
    cron = Cron("30 2 * * *", "Europe/Paris")
    second = dt.datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=ZoneInfo("Europe/Paris"))
    found = dt.datetime.fromtimestamp(cron.after(int(second.timestamp() * 1000)) / 1000, ZoneInfo("Europe/Paris"))
    assert (found.day, found.hour, found.minute) == (26, 2, 30)


@pytest.mark.parametrize("expression", ["*/20 * * * *", "*/20 0-23 * * *", "0 */20 * * * *"])
def test_every_hour_goes_by_elapsed_time(expression):
    assert fires(expression, "Europe/Paris", "2026-10-25T01:40", 7) == [
        "10-25 02:00:00 +0200", "10-25 02:20:00 +0200", "10-25 02:40:00 +0200",
        "10-25 02:00:00 +0100", "10-25 02:20:00 +0100", "10-25 02:40:00 +0100", "10-25 03:00:00 +0100",
    ]  # fmt: skip
    assert fires(expression, "Europe/Paris", "2026-03-29T01:20", 3) == [
        "03-29 01:40:00 +0100", "03-29 03:00:00 +0200", "03-29 03:20:00 +0200",
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
def test_a_year_has_one_fire_for_each_day(zone):
    """However the clock is changed meanwhile, and never two at one moment."""
    cron, start = Cron("15 2 * * *", zone), dt.datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    moment, found = int(start.timestamp() * 1000) - 1, []
    while (moment := cron.after(moment)) < int(start.replace(year=2027).timestamp() * 1000):
        found.append(dt.datetime.fromtimestamp(moment / 1000, ZoneInfo(zone)))
    assert [fire.date() for fire in found] == [start.date() + dt.timedelta(days=day) for day in range(365)]
    moved = {"Europe/Paris": 1, "America/New_York": 1, "Australia/Lord_Howe": 1, "Asia/Kolkata": 0}
    assert sum((fire.hour, fire.minute) != (2, 15) for fire in found) == moved[zone]


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_by_elapsed_time_has_no_gap(zone):
    cron, start = Cron("0 * * * *", zone), dt.datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    moment, found = int(start.timestamp() * 1000) - 1, []
    while len(found) < 365 * 24:
        moment = cron.after(moment)
        found.append(moment)
    steps = {later - earlier for earlier, later in itertools.pairwise(found)}
    assert steps == ({3_600_000} if zone != "Australia/Lord_Howe" else {3_600_000, 5_400_000})  # half an hour off


@pytest.mark.parametrize(
    ("expression", "shortest"),
    [("* * * * *", 60_000), ("0 9,10 * * mon", 3_600_000), ("*/5 * * * * *", 5_000), ("0 0 1 * *", 28 * 86_400_000)],
)
def test_the_shortest_period(expression, shortest):
    assert Cron(expression).shortest_period() == shortest


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("every day", "cron: 'every day' is no cron expression .Wrong number of fields.; write five fields"),
        ("", "is no cron expression"),
        ("* * * * * * *", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("0 0 32 2 *", "Bad day-of-month"),
        ("0 0 30 2 *", "never fires: there is no such day"),
        ("0 0 0 31 4,6 *", "never fires: there is no such day"),
        ("0 0 */30 2 mon#2", "never fires: there is no such day"),
        (5, "cron: 5 must be text"),
    ],
)
def test_an_expression_that_is_none(expression, message):
    with pytest.raises(UsageError, match=message):
        Cron(expression)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../UTC", "/UTC", None, "Europe"])
def test_a_zone_that_is_none(name):
    with pytest.raises(UsageError, match="tz: .* is no IANA time zone; write it as in 'Europe/Paris'"):
        time_zone(name)
