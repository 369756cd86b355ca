"""Which due runs of a queue with limits are begun."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.core.admission import admit, allowed_at
from perdure.model.queue import Candidate, KeyLimits, QueueLimits, QueueState, QueueView, Rate

NOW = 1_700_000_000_000


def candidate(name: str, key: str = "", priority: int = 0, due: int = 0, is_first: bool = True) -> Candidate:
    return Candidate(name, priority, NOW - 1_000 + due, key, is_first)


def view(*candidates: Candidate, admitted=None, paces=None, last_key=None, is_paused=False, **limits) -> QueueView:
    state = QueueState("q", is_paused=is_paused, limits=QueueLimits(**limits), turns=7)
    return QueueView(state, admitted or {}, paces or {}, list(candidates), last_key)


def chosen(seen: QueueView, room: int = 100, now: int = NOW) -> list[str]:
    admission = admit(seen, room, now).admission
    return [] if admission is None else list(admission.run_ids)


def test_an_admission_names_the_turn_that_was_seen():
    admission = admit(view(candidate("a"), concurrency=1), 5, NOW).admission
    assert (admission.queue, admission.turns, admission.run_ids, admission.paces) == ("q", 7, ("a",), {})


def test_nothing_is_begun_of_a_paused_queue():
    choice = admit(view(candidate("a"), is_paused=True, last_key="z"), 5, NOW)
    assert choice == (None, "z", False, None)


def test_nothing_is_begun_without_room():
    assert admit(view(candidate("a"), concurrency=5), 0, NOW).admission is None


def test_the_room_of_the_worker_is_a_limit_and_no_fullness():
    choice = admit(view(candidate("a"), candidate("b"), concurrency=5), 1, NOW)
    assert choice.admission.run_ids == ("a",)
    assert not choice.is_full


def test_what_is_begun_counts_under_the_limit():
    choice = admit(view(*map(candidate, "abc"), admitted={"": 1, "t": 2}, concurrency=5), 100, NOW)
    assert choice.admission.run_ids == ("a", "b")
    assert choice.is_full


def test_a_key_at_its_limit_holds_up_no_other():
    seen = view(
        candidate("a", "t"), candidate("b", "t"), candidate("c", "u", due=5), candidate("d", due=9), candidate("e"),
        admitted={"t": 1}, per_key=2,
    )  # fmt: skip
    assert chosen(seen) == ["a", "e", "c", "d"]
    assert admit(seen, 100, NOW).is_full


def test_higher_priority_goes_first_then_age():
    seen = view(candidate("a", due=1), candidate("b", due=0), candidate("c", priority=3, due=9), concurrency=9)
    assert chosen(seen) == ["c", "b", "a"]


def test_what_was_begun_goes_ahead_of_all_others():
    begun = candidate("z", due=500, is_first=False)
    seen = view(candidate("a", priority=3), begun, candidate("b", "k"), concurrency=2)
    assert chosen(replace(seen, begun=[begun])) == ["z", "a"]
    assert chosen(replace(seen, begun=[begun]), room=1) == ["z"]
    assert chosen(replace(view(candidate("a"), concurrency=1, admitted={"": 1}), begun=[begun])) == []


def test_a_fair_queue_takes_what_was_begun_in_turn_too():
    begun = candidate("z", "z", due=500, is_first=False)
    seen = view(candidate("a", "a"), begun, concurrency=1, is_fair=True)
    assert chosen(replace(seen, begun=[begun])) == ["a"]


def test_a_fair_queue_takes_from_its_keys_in_turn():
    runs = [candidate(f"{key}{number}", key, due=number) for key in "abc" for number in range(3)]
    seen = view(*runs, concurrency=5, is_fair=True, last_key="c")
    choice = admit(seen, 100, NOW)
    assert choice.admission.run_ids == ("a0", "b0", "c0", "a1", "b1")
    assert choice.after == "b"


def test_a_fair_queue_puts_priority_before_turns():
    seen = view(candidate("a", "a"), candidate("b", "b", priority=1), candidate("c", "b", priority=1), is_fair=True)
    assert chosen(seen) == ["b", "c", "a"]


def test_a_fair_queue_of_which_nothing_is_begun_goes_on_behind_what_was_seen():
    assert admit(view(candidate("a", "a"), concurrency=1, admitted={"": 1}, is_fair=True, last_key="a"), 5, NOW) == (
        None, "a", True, None,
    )  # fmt: skip


def test_a_rate_lets_a_burst_in_and_then_one_after_the_other():
    rate = Rate(3, 3_000)
    seen = view(*map(candidate, "abcd"), rate=rate)
    choice = admit(seen, 100, NOW)
    assert choice.admission.run_ids == ("a", "b", "c")
    assert choice.admission.paces == {"": NOW + 3_000}
    assert choice.again_at == NOW + 1_000
    assert not choice.is_full
    later = view(candidate("d"), candidate("e"), rate=rate, paces={"": NOW + 3_000})
    assert chosen(later, now=NOW + 999) == []
    choice = admit(later, 100, NOW + 1_000)
    assert choice.admission.run_ids == ("d",)
    assert choice.again_at == NOW + 2_000


def test_a_rate_counts_only_what_is_begun_for_the_first_time():
    seen = view(candidate("a"), candidate("b", is_first=False), rate=Rate(1, 1_000), paces={"": NOW + 1_000})
    assert chosen(seen) == ["b"]
    assert admit(view(candidate("b", is_first=False), rate=Rate(1, 1_000)), 5, NOW).admission.paces == {}


def test_a_rate_is_each_keys_own():
    seen = view(*(candidate(f"{key}{n}", key) for key in "ab" for n in range(2)), rate=Rate(1, 1_000))
    choice = admit(seen, 100, NOW)
    assert choice.admission.run_ids == ("a0", "b0")
    assert choice.admission.paces == {"a": NOW + 1_000, "b": NOW + 1_000}


def test_a_rate_that_does_not_divide_its_period_is_never_exceeded():
    rate, paces, begun = Rate(7, 1_000), {}, []
    for now in range(NOW, NOW + 10_000):
        admission = admit(view(candidate("a"), rate=rate, paces=paces), 1, now).admission
        if admission is not None:
            paces = admission.paces
            begun.append(now)
    assert len(begun) <= 7 + 7 * 10
    assert len(begun) >= 7 + 7 * 10 - 2


def test_what_a_slower_rate_left_holds_nothing_up():
    """A hundred a minute, where until now it was two a day: one at once, then one each 0.6 seconds."""
    rate, paces = Rate(100, 60_000), {"": NOW + 86_400_000}
    seen = view(*map(candidate, "abc"), paces=paces, rate=rate)
    choice = admit(seen, 100, NOW)
    assert (choice.admission.run_ids, choice.again_at) == (("a",), NOW + 600)
    assert choice.admission.paces == {"": NOW + 60_000}
    assert allowed_at(paces[""], rate, NOW) == NOW


@pytest.mark.parametrize(("pace", "at"), [(None, 0), (-5, 0), (500, 0), (600, 100), (2_500, 2_000)])
def test_when_a_rate_allows_one_more(pace, at):
    assert allowed_at(None if pace is None else NOW + pace, Rate(2, 1_000), NOW) == NOW + at


# In general.

KEYS = ("", "a", "b", "c")
CANDIDATES = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(-1, 1), st.integers(0, 50), st.booleans()), max_size=30
)
LIMITS = st.builds(
    QueueLimits,
    concurrency=st.none() | st.integers(1, 8),
    per_key=st.none() | st.integers(1, 4),
    rate=st.none() | st.builds(Rate, st.integers(1, 6), st.integers(1, 50)),
    is_fair=st.booleans(),
)
COUNTS = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 5))
PACES = st.dictionaries(st.sampled_from(KEYS), st.integers(NOW - 100, NOW + 100))


def seen_by(drawn, limits: QueueLimits, admitted: dict[str, int], paces: dict[str, int]) -> QueueView:
    runs = [candidate(f"r{n}", key, priority, due, is_first) for n, (key, priority, due, is_first) in enumerate(drawn)]
    runs.sort(key=lambda run: (run.limit_key, -run.priority, run.due_at))
    return QueueView(QueueState("q", limits=limits), admitted, paces, runs, None)


def fits(run: Candidate, limits: QueueLimits, held: Counter, first: Counter, paces: dict[str, int]) -> bool:
    """Whether one more run keeps every limit, said in another way than the rule says it."""
    if limits.concurrency is not None and held.total() >= limits.concurrency:
        return False
    if limits.per_key is not None and run.limit_key and held[run.limit_key] >= limits.per_key:
        return False
    if limits.rate is None or not run.is_first:
        return True
    count, period = limits.rate.count, limits.rate.period_ms
    used = max(0, paces.get(run.limit_key, NOW) - NOW) * count + first[run.limit_key] * period
    return used + period <= period * count


@settings(max_examples=400, deadline=None)
@given(CANDIDATES, LIMITS, COUNTS, PACES, st.integers(1, 12))
def test_no_limit_is_passed_and_nothing_that_may_go_is_left(drawn, limits, admitted, paces, room):
    seen = seen_by(drawn, limits, admitted, paces)
    choice = admit(seen, room, NOW)
    ids = choice.admission.run_ids if choice.admission is not None else ()
    by_id = {run.run_id: run for run in seen.candidates}
    held, first = Counter(admitted), Counter()
    assert len(ids) == len(set(ids)) <= room
    for run_id in ids:
        run = by_id[run_id]
        assert fits(run, limits, held, first, paces)
        held[run.limit_key] += 1
        first[run.limit_key] += run.is_first
    left = [run for run in seen.candidates if run.run_id not in ids]
    if len(ids) < room:
        assert not any(fits(run, limits, held, first, paces) for run in left)
        if left:
            assert choice.is_full or choice.again_at is not None
    if choice.again_at is not None:
        assert choice.again_at > NOW
        again = {**paces, **(choice.admission.paces if choice.admission is not None else {})}
        free = QueueLimits(rate=limits.rate)
        later = QueueView(QueueState("q", limits=free), {}, again, left, None)
        assert admit(later, 100, choice.again_at).admission is not None
        if len(ids) < room and not choice.is_full:
            assert not any(by_id[run_id].is_first for run_id in chosen(later, now=choice.again_at - 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=2, max_size=4), st.integers(1, 12))
def test_a_fair_queue_gives_no_key_more_than_one_above_another_that_waits(counts, room):
    drawn = [(KEYS[number], 0, due, True) for number, count in enumerate(counts) for due in range(count)]
    seen = seen_by(drawn, QueueLimits(is_fair=True), {}, {})
    by_id = {run.run_id: run for run in seen.candidates}
    taken = Counter(by_id[run_id].limit_key for run_id in chosen(seen, room))
    for number, count in enumerate(counts):
        if taken[KEYS[number]] < count:
            assert max(taken.values()) - taken[KEYS[number]] <= 1


def test_a_key_with_bounds_of_its_own_has_none_of_the_queues():
    seen = view(
        candidate("a", "t"), candidate("b", "t"), candidate("c", "u"), candidate("d", "u"),
        per_key=1, rate=Rate(1, 1000), own={"t": KeyLimits(concurrency=2)},
    )  # fmt: skip
    assert chosen(seen) == ["a", "b", "c"]


def test_a_key_is_bounded_by_itself_where_the_queue_bounds_nothing():
    seen = view(candidate("a", "t"), candidate("b", "t"), candidate("c", "u"), own={"t": KeyLimits(concurrency=1)})
    choice = admit(seen, 9, NOW)
    assert (choice.admission.run_ids, choice.is_full) == (("a", "c"), True)


def test_a_key_that_is_paused_holds_up_no_other():
    choice = admit(view(candidate("a", "t"), candidate("b"), own={"t": KeyLimits(is_paused=True)}), 9, NOW)
    assert (choice.admission.run_ids, choice.is_full, choice.again_at) == (("b",), False, None)


def test_a_key_has_a_rate_of_its_own():
    runs = [candidate(name, "t") for name in "ab"] + [candidate(name, "u") for name in "cd"]
    seen = view(*runs, paces={"t": NOW + 500}, rate=Rate(2, 1000), own={"t": KeyLimits(rate=Rate(1, 2000))})
    choice = admit(seen, 9, NOW)
    assert choice.admission.run_ids == ("c", "d")
    assert choice.again_at == NOW + 500
    later = admit(seen, 9, NOW + 500)
    assert later.admission.run_ids == ("a", "c", "d")
    assert later.admission.paces == {"t": NOW + 2500, "u": NOW + 1500}
