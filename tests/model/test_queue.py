"""How queues are set."""

from __future__ import annotations

import pytest

from perdure.model.errors import UsageError
from perdure.model.queue import KeyLimits, QueueLimits, QueueState, Rate


def test_a_rate_is_a_count_per_duration():
    assert Rate.of(100, per="1m") == Rate(100, 60_000)


@pytest.mark.parametrize("count", [0, -1, 1_000_001, 1.5, True, "9"])
def test_the_count_of_a_rate_is_a_whole_number(count):
    with pytest.raises(UsageError, match="rate: .* must be a whole number from 1 to 1,000,000"):
        Rate.of(count, per=1)


@pytest.mark.parametrize(("per", "said"), [(0, "at least a millisecond"), ("often", "is no duration")])
def test_the_period_of_a_rate_is_a_duration(per, said):
    with pytest.raises(UsageError, match=f"rate per: .*{said}"):
        Rate.of(1, per=per)


def test_a_queue_is_gated_while_it_is_paused_or_has_limits():
    assert not QueueState("q").is_gated
    assert QueueState("q", is_paused=True).is_gated
    assert QueueState("q", limits=QueueLimits(is_fair=True)).is_gated
    assert not QueueState("q", declared=QueueLimits(concurrency=1)).is_gated


def test_the_end_of_a_run_lets_another_in_where_places_are_bounded():
    assert QueueLimits(concurrency=1).bounds_places
    assert QueueLimits(per_key=1).bounds_places
    assert not QueueLimits(rate=Rate(1, 1), is_fair=True).bounds_places
    assert QueueLimits(own={"t": KeyLimits(concurrency=1)}).bounds_places
    assert not QueueLimits(own={"t": KeyLimits(is_paused=True)}).bounds_places


def test_a_key_bounds_what_its_queue_does_unless_it_has_bounds_of_its_own():
    limits = QueueLimits(per_key=2, rate=Rate(1, 1), own={"t": KeyLimits(is_paused=True)})
    assert limits.of("u") == KeyLimits(2, Rate(1, 1))
    assert limits.of("") == KeyLimits(None, Rate(1, 1))
    assert limits.of("t") == KeyLimits(is_paused=True)
