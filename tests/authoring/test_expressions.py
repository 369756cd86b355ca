"""Conditions and references: what they may refer to, what they give, and that no expression runs away."""

from __future__ import annotations

import time
from typing import Any

import pytest

from perdure import UsageError
from perdure.authoring.expressions import ITEM_ROOTS, Expression, FlawsError, Template, reference

SCOPE: dict[str, Any] = {
    "input": {"a": 1, "items": [{"x": 1}, {"x": 5}], "customer": "Ada", "none": None},
    "steps": {"orders": {"total": 5}, "fetch-users": {"n": 2}},
    "workflow": {"id": "r-1", "name": "w"},
}


@pytest.mark.parametrize(
    ("text", "value", "steps"),
    [
        ("steps.orders.total > `1`", True, {"orders"}),
        ("input.items[?x > `1`].x | [0]", 5, set()),
        ('steps."fetch-users".n', 2, {"fetch-users"}),
        ("map(&x, input.items)", [1, 5], set()),
        ("{a: input.a, c: steps.orders}", {"a": 1, "c": {"total": 5}}, {"orders"}),
        ("input.items[].x", [1, 5], set()),
        ("input.items[0:1]", [{"x": 1}], set()),
        ("length(input.items)", 2, set()),
        ("workflow.id", "r-1", set()),
        ('steps.orders.total == `5` && input.a || steps."fetch-users"', 1, {"orders", "fetch-users"}),
        ("input | a", 1, set()),
        ("input.missing.deeper", None, set()),
        ("`[1]`", [1], set()),
        ("sort_by(input.items, &x)[-1].x", 5, set()),
        ("steps.orders.{t: total}", {"t": 5}, {"orders"}),
        ("[input.a, steps.orders.total][1]", 5, {"orders"}),
    ],
)
def test_what_an_expression_gives_and_which_steps_it_names(text: str, value: object, steps: set[str]):
    expression = Expression(text)
    assert expression.evaluate(SCOPE) == value
    assert expression.steps == steps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be an expression"),
        ("a..b", "is no expression"),
        ("(" * 500, "is no expression"),
        ("input.total > 100", "numbers are written in backticks"),
        ("x" * 1_001, "longer than 1,000 characters"),
        ("!" * 40 + "input", "nested deeper than 30"),
        ("nofunc(input)", "no function 'nofunc'"),
        ("foo.bar", "'foo' is nothing that can be referred to here; there is input, steps, workflow"),
        ("item.x", "'item' is nothing"),
        ("@", "'@' is nothing"),
        ("values(@)", "'@' is nothing"),
        ("[?x]", "'@' is nothing"),
        ("steps", "needs the name of a step"),
        ("steps[0]", "needs the name of a step"),
        ("steps.*", "needs the name of a step"),
        ("keys(steps)", "needs the name of a step"),
        ("not_null(steps, input)", "needs the name of a step"),
        ("{a: steps}", "needs the name of a step"),
    ],
)
def test_what_no_expression_may_be(text: str, said: str):
    with pytest.raises(UsageError) as caught:
        Expression(text)
    assert said in str(caught.value)


def test_items_can_be_referred_to_in_maps():
    assert Expression("item.x", ITEM_ROOTS).evaluate({**SCOPE, "item": {"x": 3}, "index": 0}) == 3


@pytest.mark.parametrize(
    ("text", "holds"),
    [("input.a", True), ("input.none", False), ("input.missing", False), ("`0`", True), ("`[]`", False), ("''", False)],
)
def test_what_counts_as_true(text: str, holds: bool):
    assert Expression(text).holds(SCOPE) is holds


def test_a_function_of_the_wrong_type_is_told_when_it_is_evaluated():
    with pytest.raises(UsageError, match="cannot be evaluated"):
        Expression("abs(input.customer)").evaluate(SCOPE)


BOMBS = [
    "input | " + "|".join(["[@,@]"] * 28),
    "input | " + "|".join(["[@,@][]"] * 14),
    "(input|" + "|".join(["[@,@]"] * 20) + ")==(input|" + "|".join(["[@,@]"] * 20) + ")",
    "input | " + "|".join(["{a:@,b:@}"] * 26) + "|to_string(@)",
    "join(to_string(input.big), input.big[].to_string(@))",
    "input.big[].[map(&[@, @], `[1,2,3]`)]",
    "map(&map(&[@, @], `[1, 2, 3, 4, 5, 6, 7, 8, 9]`), input.big)",
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_an_expression_that_would_run_away_is_stopped(text: str):
    scope = {**SCOPE, "input": {"big": [{"text": "x" * 100}] * 20_000}}
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"steps of work|longer than|nested deeper"):
        Expression(text).evaluate(scope)
    assert time.monotonic() - began < 5


def wrapped(text: str, levels: int) -> str:
    return "to_string([" * levels + text + "])" * levels


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (wrapped("input.text", 14), '"' * 1_000),  # each level writes every quote and backslash twice
        (wrapped("input.text", 14), '"' * 900_000),
        ("[" + ", ".join(["to_string([input.text])"] * 30) + "]", "x" * 900_000),
    ],
)
def test_texts_that_would_run_away_are_stopped(expression: str, text: str):
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"steps of work|longer than"):
        Expression(expression).evaluate({"input": {"text": text}})
    assert time.monotonic() - began < 5


def test_arguments_of_functions_are_evaluated_once():
    text = wrapped("input.n", 14)
    assert Expression(text).evaluate({"input": {"n": 7}}).count("[") == 14


def test_a_whole_reference_keeps_its_type_and_an_embedded_one_becomes_text():
    template = Template(
        {
            "whole": "${steps.orders}",
            "text": "for ${input.customer}: ${steps.orders.total}, ${input.none}!",
            "list": ["${input.a}", 7, None, True],
            "plain": "$${input.a} and }",
            "empty": "",
            "quoted": "${ {a: input.a, b: '}'} }",
        }
    )
    assert template.fill(SCOPE) == {
        "whole": {"total": 5},
        "text": "for Ada: 5, !",
        "list": [1, 7, None, True],
        "plain": "${input.a} and }",
        "empty": "",
        "quoted": {"a": 1, "b": "}"},
    }
    assert ("orders", "data.whole") in template.steps
    assert template.has_expressions
    assert not Template({"a": "$${x}"}).has_expressions


def test_everything_wrong_in_data_is_told_with_its_path():
    with pytest.raises(FlawsError) as caught:
        Template({"a": "${input.x", "b": ["${foo}", {"c": object()}]})
    paths = [found.partition(": ")[0] for found in caught.value.found]
    assert paths == ["data.a", "data.b[0]", "data.b[1].c"]


def test_data_is_bounded_in_depth_and_texts_in_length():
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    with pytest.raises(FlawsError, match="nested deeper than 30"):
        Template(deep)
    long = {"input": {"long": "x" * 600_000}}
    with pytest.raises(UsageError, match="longer than 1,000,000 characters"):
        Template("${input.long}${input.long}").fill(long)


@pytest.mark.parametrize("reference", ["${input.text}", "and ${input.text}", "${input.list}"])
def test_many_references_to_much_are_stopped(reference: str):
    scope = {"input": {"text": "x" * 900_000, "list": ["x" * 9] * 100_000}}
    template = Template([reference] * 3_000)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"data\[\d+\]: the data becomes larger than 10,000,000 values and characters"):
        template.fill(scope)
    assert time.monotonic() - began < 5
    assert len(Template([reference] * 5).fill(scope)) == 5


def test_a_name_that_is_no_identifier_is_quoted():
    assert reference("orders") == "steps.orders"
    assert Expression(reference('a "b" c-d')).steps == {'a "b" c-d'}
