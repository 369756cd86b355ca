"""Expressions for the time between attempts, the usual back-off, and what answers ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import UsageError
from perdure.dispatch.messages.retry_delay import LONGEST_MS, RetryDelay, asked_for, backed_off

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "retried", "milliseconds"),
    [
        ("1000", 0, 1000),
        ("1000 * (1 + retried)", 2, 3000),
        ("pow(2, retried) * 1000", 3, 8000),
        ("-5", 0, 0),
        ("-(-5)", 0, 5),
        ("+7.4", 0, 7),
        ("1e3", 0, 1000),
        ("sqrt(16) + abs(-3) + floor(1.9) + ceil(1.1) + round(2.6)", 0, 13),
        ("min(10, max(3, retried))", 9, 9),
        ("exp(retried)", 0, 1),
        ("10 / 4", 0, 2),
        ("  5 - 2 ", 0, 3),
        ("exp(700)", 0, LONGEST_MS),
    ],
)
def test_what_an_expression_gives(text, retried, milliseconds):
    assert RetryDelay(text).after(retried) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0",
        "exp(1000)",
        "sqrt(-1)",
        "pow(10, 300) * pow(10, 300) - pow(10, 300) * pow(10, 300)",
        "1 / retried",
        "floor(1e300 * 1e300)",
        "round(1e300 * 1e300 - 1e300 * 1e300)",
        "pow(0, -1)",
    ],
)
def test_what_is_no_number_gives_the_usual_back_off(text):
    assert RetryDelay(text).after(0) == backed_off(0)


def test_an_infinite_one_is_a_day():
    assert RetryDelay("1e300 * 1e300").after(0) == LONGEST_MS


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "retries",
        "retried ** 2",
        "2 % 3",
        "1 // 2",
        "__import__('os')",
        "retried.real",
        "'a'",
        "True",
        "1 if 1 else 2",
        "lambda: 1",
        "[1]",
        "pow(1)",
        "min(1, 2, 3)",
        "max(1)",
        "pow(x=1, y=2)",
        "pow(*[1, 2])",
        "open(1)",
        "1; 2",
        "1\n2",
        "x := 1",
        "~1",
        "1j",
        "None",
        "f'{1}'",
        "1 < 2",
        "not 1",
        "(",
        ")" * 99,
        "(" * 199,
        "-" * 199 + "1",
        "1" * 201,
        "٣",
        "retried\0",
        "round(1, 2)",
        "sqrt",
        "(retried)(1)",
        "await 1",
        "...",
    ],
)
def test_what_is_no_expression(text):
    if text == "-" * 199 + "1":
        assert RetryDelay(text).after(0) == 0  # an odd number of signs
        return
    with pytest.raises(UsageError, match="retry delay"):
        RetryDelay(text)


@given(st.text(alphabet="0123456789.+-*/() retidpowsqabexflcnmux,", max_size=40), st.integers(0, 200))
def test_whatever_is_taken_gives_a_time(text, retried):
    try:
        delay = RetryDelay(text)
    except UsageError:
        return
    assert 0 <= delay.after(retried) <= LONGEST_MS


def test_the_usual_back_off():
    assert [round(backed_off(retried) / 1000) for retried in (0, 1, 2, 3, 4, 5, 10_000)] == [
        12, 148, 1808, 22026, 86400, 86400, 86400
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "milliseconds"),
    [
        ([("Retry-After", "30")], 30_000),
        ([("retry-after", " 1.5 ")], 1_500),
        ([("Retry-After", "Tue, 14 Nov 2023 22:14:20 GMT")], 60_000),
        ([("Retry-After", "Tue, 14 Nov 2023 22:12:20 GMT")], 0),
        ([("X-RateLimit-Reset", "6m5s")], 365_000),
        ([("X-RateLimit-Reset", "1h1.5s20ms5us7ns")], 3_601_520),
        ([("x-ratelimit-reset-requests", "250ms"), ("x-ratelimit-reset-tokens", "9s")], 250),
        ([("x-ratelimit-reset-tokens", "9s")], 9_000),
        ([("Retry-After", "soon"), ("X-RateLimit-Reset", "7")], 7_000),
        ([("Retry-After", "86401"), ("X-RateLimit-Reset", "7")], 7_000),
        ([("Retry-After", "86400")], LONGEST_MS),
        ([("X-RateLimit-Reset", "1700000000")], None),
        ([("Retry-After", "")], None),
        ([("Retry-After", "-5")], None),
        ([("Retry-After", "5 s")], None),
        ([("Retry-After", "٣")], None),
        ([("Retry-After", "9" * 101)], None),
        ([("Retry-After", "Mon, 99 Foo 99999 99:99:99 GMT")], None),
        ([], None),
    ],
)
def test_when_an_answer_wants_the_next_attempt(headers, milliseconds):
    assert asked_for(headers, NOW) == milliseconds
