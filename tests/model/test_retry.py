"""When a failed step is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.model.errors import NonRetryableError, RetryAfterError, UsageError
from perdure.model.retry import NO_RETRY, Retry


class CardDeclinedError(NonRetryableError):
    pass


def delays(policy: Retry, error: BaseException | None = None, roll: float = 0.0) -> list[float | None]:
    return [policy.next_delay(n, error or OSError(), roll) for n in range(1, policy.attempts + 1)]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ("constant", [2, 2, 2, 2, None]),
        ("linear", [2, 4, 6, 8, None]),
        ("exponential", [2, 4, 8, 16, None]),
    ],
)
def test_the_delay_follows_the_backoff(backoff, expected):
    assert delays(Retry(attempts=5, delay="2s", backoff=backoff, jitter=0)) == expected


def test_the_cap_bounds_every_delay():
    assert delays(Retry(attempts=6, delay=10, max_delay="30s", jitter=0)) == [10, 20, 30, 30, 30, None]
    assert delays(Retry(attempts=2, delay=10, max_delay=3, backoff="constant", jitter=0)) == [3, None]


def test_without_a_cap_it_is_five_minutes_or_the_delay_itself():
    assert delays(Retry(attempts=4, delay="4 minutes", jitter=0)) == [240, 300, 300, None]
    assert delays(Retry(attempts=4, delay="1 hour", jitter=0)) == [3600, 3600, 3600, None]


def test_a_very_late_attempt_overflows_nothing():
    assert Retry(attempts=10**9, delay=1, jitter=0).next_delay(10**8, OSError(), 0.0) == 300


def test_jitter_only_shortens():
    policy = Retry(attempts=2, delay=10, jitter=0.25)
    assert policy.next_delay(1, OSError(), 0.0) == 10
    assert policy.next_delay(1, OSError(), 0.5) == 8.75
    assert policy.next_delay(1, OSError(), 1.0) == 7.5


@given(
    attempt=st.integers(1, 200),
    delay=st.floats(0, 1e6),
    cap=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    roll=st.floats(0, 1),
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
)
def test_every_delay_lies_between_nothing_and_the_cap(attempt, delay, cap, jitter, roll, backoff):
    policy = Retry(attempts=1_000, delay=delay, max_delay=cap, jitter=jitter, backoff=backoff)
    wait = policy.next_delay(attempt, OSError(), roll)
    bare = policy.next_delay(attempt, OSError(), 0.0)
    assert wait is not None
    assert bare is not None
    assert 0 <= wait <= bare <= cap
    assert wait >= bare * (1 - jitter) - 1e-9


@given(st.integers(1, 60), st.sampled_from(["constant", "linear", "exponential"]))
def test_without_jitter_delays_never_shrink(attempt, backoff):
    policy = Retry(attempts=1_000, delay=0.5, jitter=0, backoff=backoff)
    assert policy.next_delay(attempt, OSError(), 0.0) <= policy.next_delay(attempt + 1, OSError(), 0.0)


def test_the_last_attempt_is_the_last():
    assert Retry(attempts=3).next_delay(3, OSError(), 0.0) is None
    assert Retry(attempts=3).next_delay(4, OSError(), 0.0) is None
    assert NO_RETRY.next_delay(1, OSError(), 0.0) is None


@pytest.mark.parametrize("error", [NonRetryableError("no"), CardDeclinedError("no")])
def test_a_non_retryable_error_is_never_retried(error):
    assert Retry(attempts=9).next_delay(1, error, 0.0) is None


def test_unless_names_errors_that_are_not_retried():
    policy = Retry(attempts=9, unless=[KeyError, ValueError], jitter=0)
    assert policy.unless == (KeyError, ValueError)
    assert policy.next_delay(1, UnicodeError(), 0.0) is None, "a subclass of ValueError"
    assert policy.next_delay(1, KeyError("k"), 0.0) is None
    assert policy.next_delay(1, LookupError(), 0.0) == 1


def test_an_error_may_have_a_policy_of_its_own():
    gentle, patient = (
        Retry(attempts=2, delay=7, jitter=0),
        Retry(attempts=9, delay=60, jitter=0, unless=(BlockingIOError,)),
    )
    policy = Retry(attempts=3, delay=1, jitter=0, by_error={ConnectionError: gentle, OSError: patient})
    assert policy.policy_for(ConnectionResetError()) is gentle, "the first that matches"
    assert policy.policy_for(FileNotFoundError()) is patient
    assert policy.policy_for(ValueError()) is policy
    assert policy.next_delay(1, ConnectionResetError(), 0.0) == 7
    assert policy.next_delay(2, ConnectionResetError(), 0.0) is None
    assert policy.next_delay(8, FileNotFoundError(), 0.0) == 300
    assert policy.next_delay(1, BlockingIOError(), 0.0) is None
    assert policy.next_delay(2, ValueError(), 0.0) == 2


def test_non_retryable_wins_over_a_policy_for_it():
    assert Retry(by_error={CardDeclinedError: Retry(attempts=9)}).next_delay(1, CardDeclinedError(), 0.0) is None


@pytest.mark.parametrize(("after", "delay"), [(0.5, 2), (30, 30), (-1, 2), (float("nan"), 2), (float("inf"), 604_800)])
def test_an_error_may_ask_for_a_longer_wait(after, delay):
    policy = Retry(attempts=3, delay=2, jitter=0)
    assert policy.next_delay(1, RetryAfterError("busy", after), 0.0) == delay
    assert policy.next_delay(3, RetryAfterError("busy", after), 0.0) is None, "it gives no further attempt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, r"retry.attempts: 0 must be a whole number, at least 1"),
        ({"attempts": -3}, r"retry.attempts: -3"),
        ({"attempts": True}, r"retry.attempts: True"),
        ({"attempts": 2.0}, r"retry.attempts: 2.0"),
        ({"attempts": "3"}, r"retry.attempts: '3'"),
        ({"backoff": "fibonacci"}, r"retry.backoff: 'fibonacci' must be 'constant', 'linear' or 'exponential'"),
        ({"jitter": -0.1}, r"retry.jitter: -0.1 must be from 0 to 1"),
        ({"jitter": 1.1}, r"retry.jitter: 1.1 must be from 0 to 1"),
        ({"delay": "soon"}, r"retry.delay: 'soon'"),
        ({"delay": -1}, r"retry.delay: -1"),
        ({"max_delay": "a while"}, r"retry.max_delay: 'a while'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        Retry(**options)


def test_a_policy_is_a_value():
    assert Retry() == Retry()
    with pytest.raises(AttributeError):
        Retry().attempts = 5  # type: ignore[misc]  # what is tested
