"""When a schedule starts its target, and what becomes of what was missed."""

from __future__ import annotations

import pytest

from perdure.core.schedule import (
    COUNTED,
    GRACE,
    LAST,
    Change,
    Plan,
    Progress,
    Schedule,
    changed,
    check,
    due_at,
    next_fire,
    plan,
)
from perdure.model.errors import UsageError

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def every(period: int, **options: object) -> Schedule:
    return Schedule("s", "w", every=period, **options)  # type: ignore[arg-type]


def made_up(schedule: Schedule, after: int, now: int) -> tuple[list[int], int]:
    """What fires are seen to in one go, and how many were missed."""
    found, missed = [], 0
    while True:
        step = plan(schedule, after, now)
        missed += step.missed
        after = step.after
        if step.fire is None:
            return found, missed
        found.append(step.fire)
        after = step.fire


@pytest.mark.parametrize(
    ("schedule", "after", "fire"),
    [
        (every(HOUR), 0, HOUR),
        (every(HOUR), HOUR - 1, HOUR),
        (every(HOUR), HOUR, 2 * HOUR),
        (every(HOUR, start=1_000), 0, 1_000),
        (every(HOUR, start=1_000), 1_000, HOUR + 1_000),
        (every(HOUR, end=2 * HOUR), HOUR, None),
        (every(HOUR, end=2 * HOUR + 1), HOUR, 2 * HOUR),
        (Schedule("s", "w", at=5_000), 4_999, 5_000),
        (Schedule("s", "w", at=5_000), 5_000, None),
        (Schedule("s", "w", cron="0 * * * *"), 0, HOUR),
        (Schedule("s", "w", cron="0 * * * *", start=3 * HOUR), 0, 3 * HOUR),
        (Schedule("s", "w", cron="0 0 * * *", zone="Asia/Tokyo"), 0, 15 * HOUR),
    ],
)
def test_the_next_fire(schedule, after, fire):
    assert next_fire(schedule, after) == fire


def test_it_is_not_time_yet():
    assert plan(every(HOUR), 0, HOUR - 1) == Plan(None, HOUR, 0, 0)


def test_it_is_time():
    assert plan(every(HOUR), 0, HOUR) == Plan(HOUR, HOUR, 0, 0)
    assert plan(every(HOUR), 0, HOUR + GRACE) == Plan(HOUR, HOUR, 0, 0)


def test_it_is_over():
    assert plan(Schedule("s", "w", at=5), 5, 10) == Plan(None, None, 0, 5)


def test_of_what_was_missed_the_last_is_made_up_for():
    assert made_up(every(HOUR), 0, 10 * HOUR + 2 * GRACE) == ([10 * HOUR], 9)
    assert made_up(every(HOUR), 0, HOUR + 2 * GRACE) == ([HOUR], 0)
    assert made_up(Schedule("s", "w", at=5), 0, DAY) == ([5], 0)


def test_but_not_where_the_next_is_there_in_time():
    assert made_up(every(HOUR), 0, 10 * HOUR) == ([10 * HOUR], 9)


def test_what_is_late_by_less_than_the_grace_was_not_missed():
    assert made_up(every(20_000), 0, 100_000) == ([40_000, 60_000, 80_000, 100_000], 1)


def test_what_was_missed_is_made_up_for_in_order():
    schedule = every(HOUR, catch_up=3 * HOUR)
    assert made_up(schedule, 0, 10 * HOUR + 2 * GRACE) == ([8 * HOUR, 9 * HOUR, 10 * HOUR], 7)


def test_a_catch_up_of_nothing_still_has_the_grace():
    schedule = every(HOUR, catch_up=0)
    assert made_up(schedule, 0, 5 * HOUR + 2 * GRACE) == ([], 5)
    assert made_up(schedule, 0, 5 * HOUR + GRACE) == ([5 * HOUR], 4)


def test_when_all_is_missed_the_next_is_known():
    assert plan(every(HOUR, catch_up=0), 0, 2 * HOUR + 2 * GRACE) == Plan(None, 3 * HOUR, 2, 2 * HOUR)
    assert plan(Schedule("s", "w", at=5, catch_up=0), 0, DAY) == Plan(None, None, 1, 5)


def test_a_long_time_is_stepped_over():
    """And what is left out of the count is left out of nothing else."""
    year = 365 * DAY
    assert made_up(every(1_000, end=year), 0, year + DAY) == ([year - 1_000], pytest.approx(COUNTED, abs=COUNTED))
    fires, missed = made_up(every(1_000, catch_up=2 * MINUTE), 0, year)
    assert (fires[0], fires[-1], len(fires)) == (year - 2 * MINUTE, year, 121)
    assert COUNTED <= missed < 3 * COUNTED
    assert made_up(every(1_000, catch_up=0, end=year), 0, year + DAY)[0] == []
    sparse = Schedule("s", "w", cron="*/5 * * 1 1 *")
    assert made_up(sparse, 0, year - DAY)[0] == [DAY - 5_000]


def test_jitter_is_a_matter_of_name_and_time():
    schedule = every(HOUR, jitter=10 * MINUTE)
    late = [due_at(schedule, hour * HOUR) - hour * HOUR for hour in range(200)]
    assert late == [due_at(schedule, hour * HOUR) - hour * HOUR for hour in range(200)]
    assert all(0 <= by <= 10 * MINUTE for by in late)
    assert len(set(late)) > 190
    assert max(late) > 9 * MINUTE
    assert min(late) < MINUTE


@pytest.mark.parametrize("schedule", [every(7 * DAY), Schedule("s", "w", cron="0 9 * * *", zone="Asia/Tokyo")])
def test_nothing_fires_where_calendars_end(schedule):
    assert next_fire(schedule, LAST - 30 * DAY) is not None
    assert next_fire(schedule, LAST) is None
    assert 0 <= next_fire(schedule, -(10**18)) < 7 * DAY


def test_a_fire_with_jitter_waits_for_it():
    schedule = every(HOUR, jitter=10 * MINUTE)
    due = due_at(schedule, HOUR)
    assert plan(schedule, 0, due - 1) == Plan(None, due, 0, 0)
    assert plan(schedule, 0, due).fire == HOUR


def test_missed_fires_with_jitter():
    schedule = every(HOUR, jitter=HOUR, catch_up=0)
    fires, missed = made_up(schedule, 0, 50 * HOUR)
    assert len(fires) + missed in (49, 50)
    assert len(made_up(every(1_000, jitter=1_000, catch_up=DAY), 0, HOUR)[0]) in (3_599, 3_600)


PROGRESS = Progress(5 * HOUR, queued=(4 * HOUR,))


def test_a_pause_and_its_end():
    schedule = every(HOUR)
    assert changed(schedule, PROGRESS, Change(is_paused=False), DAY) == (schedule, PROGRESS)
    _, paused = changed(schedule, PROGRESS, Change(is_paused=True), DAY)
    assert (paused.is_paused, paused.after, paused.queued) == (True, 5 * HOUR, (4 * HOUR,))
    _, resumed = changed(schedule, paused, Change(is_paused=False), DAY)
    assert (resumed.is_paused, resumed.after) == (False, DAY)


def test_another_timing_begins_now():
    other = every(2 * HOUR)
    assert changed(every(HOUR), PROGRESS, Change(schedule=other), DAY) == (other, Progress(DAY))


def test_another_input_leaves_the_timing_alone():
    other = every(HOUR, payload='{"a":1}')
    assert changed(every(HOUR), PROGRESS, Change(schedule=other), DAY) == (other, PROGRESS)


@pytest.mark.parametrize(
    "schedule",
    [
        every(HOUR, jitter=HOUR),
        every(1_000),
        Schedule("s", "w", cron="0 9 * * *", jitter=DAY),
        Schedule("s", "w", at=5, jitter=DAY),
    ],
)
def test_what_can_be_kept(schedule):
    check(schedule)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule("s", "w"), "give one of cron, every and at, not none"),
        (every(HOUR, at=5), "give one of cron, every and at, not every and at"),
        (every(HOUR, overlap="maybe"), "overlap: 'maybe' must be 'allow', 'skip', 'queue' or 'cancel-previous'"),
        (every(999), "every: 0.999 s is shorter than 1 s"),
        (every(HOUR, jitter=HOUR + 1), r"jitter: 3600 s is longer than the shortest time between two fires, 3600 s"),
        (Schedule("s", "w", cron="0 9,10 * * *", jitter=2 * HOUR), "jitter: 7200 s is longer than"),
        (every(HOUR, start=DAY, end=DAY), "never fires between its start and its end"),
        (Schedule("s", "w", at=LAST + 1), "never fires .* or only after the year 9000"),
        (every(HOUR, start=LAST * 1_000), "never fires .* or only after the year 9000"),
        (Schedule("s", "w", cron="0 9 * * *", start=LAST + 1), "never fires .* or only after the year 9000"),
        (Schedule("s", "w", cron="x"), "is no cron expression"),
    ],
)
def test_what_cannot_be_kept(schedule, message):
    with pytest.raises(UsageError, match=message):
        check(schedule)
