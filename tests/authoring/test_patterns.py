"""Regular expressions of schemas: whatever the text, matching one ends soon."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import UsageError
from perdure.authoring.patterns import SHORTEST, TEXT, bounds

USUAL = [
    r"^[a-z0-9]+(-[a-z0-9]+)*$",
    r"^([a-z0-9-]+\.)+[a-z]{2,}$",
    r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    r"^\d{4}-\d{2}-\d{2}$",
    r"^https?://[^\s/$.?#][^\s]*$",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"^(EUR|USD|GBP)$",
    r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$",
    r"^(?:[A-Z]{2}[0-9])+$",
    r"^(\w+[,;])*\w+$",
    "",
    "abc",
    r"^(?>ab)(?=c).\Z",
]


@pytest.mark.parametrize("pattern", USUAL)
def test_what_people_write_is_taken(pattern):
    assert bounds(pattern).longest >= SHORTEST


@pytest.mark.parametrize(
    ("pattern", "length"),
    [("^abc", TEXT), ("^a*", TEXT), ("^a*b*", 7_745), ("a*b*", 564), ("^a?b?.*.*", 3_872), ("a{2,9}", TEXT)],
)
def test_the_more_choices_the_shorter_the_text(pattern, length):
    assert bounds(pattern).longest == length


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$", "(a|ab)*", "((ab?)*c)*", r"(\d+)*x", "^(a|a?)+$", "(.*)*", "a*b*c*d*e*f*g*", "(a?){30}" + "a" * 30,
        r"^(a)\1$", "^(aa?)(?(1)b|c)", "(-[a-z-]+)*", "(-[^a]+)*", "(-.+)*", r"(-\W+)*", "(x[a-w]+)*", "(-(ab)+)*",
        "(-a+b+)*", "(-a+|b)*", "(a*){9,9}(b*){20}",
    ],
)  # fmt: skip
def test_what_could_take_too_long_is_refused(pattern):
    with pytest.raises(UsageError, match="too long|too many"):
        bounds(pattern).longest


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{9999999999999}", "(" * 450 + ")" * 40])
def test_what_is_none_is_refused(pattern):
    with pytest.raises(UsageError, match="is no regular expression"):
        bounds(pattern).longest


def test_the_length_is_bounded():
    with pytest.raises(UsageError, match="longer than 500 characters"):
        bounds("a" * 501)


signs = st.sampled_from(["a", "b", "-", "[ab]", r"\w", ".", "[^-]"])
patterns = st.recursive(
    signs,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "*?"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
        st.tuples(inner, inner).map(lambda p: f"(?:{p[0]}|{p[1]})"),
    ),
    max_leaves=8,
)


@given(patterns, st.booleans(), st.text("ab-", min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_whatever_is_taken_is_matched_soon(body, is_anchored, piece):
    pattern = ("^" if is_anchored else "") + body + "!"
    try:
        length = bounds(pattern).longest
    except UsageError:
        return
    text = (piece * (length // len(piece) + 1))[: min(length, 2_000)]
    began = time.process_time()
    re.search(pattern, text)
    assert time.process_time() - began < 5
