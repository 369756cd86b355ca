"""Graphs as they are built: what is wrong with one, all at once, and what one looks like."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from perdure import Dag, DefinitionError, Perdure, Retry, SerializationError, workflow
from perdure.authoring.graphs.binding import Takes, fits
from perdure.authoring.graphs.context import Context, Results
from perdure.authoring.graphs.dag import Play
from perdure.model.run import Run, RunStatus

app = Perdure("memory://")


@dataclass
class Order:
    id: str


class Bill(msgspec.Struct):
    cents: int


class Row(TypedDict):
    id: str


@app.step
async def price(order: Order) -> int:
    return 1


@app.task
async def mail(to: str, body: str = "") -> None: ...


@app.task
async def whole(data: dict) -> None: ...


@app.workflow
async def flow_of_code(x: int) -> int:
    return x


async def any_step(ctx: Context) -> Any: ...


def flaws(builder) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        builder.build()
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def w(**options: Any):
    return workflow("w", **options)


def test_a_graph_without_steps():
    assert flaws(w()) == ["there are no steps"]


def test_names_and_edges():
    assert flaws(w().step("a/b", any_step).step("a", any_step).step("a", any_step, after=["a", "x"])) == [
        "step 'a/b', name: step name: 'a/b' must not hold '/', '#' or control characters, which journal keys use",
        "step 'a', name: the name 'a' is taken by an earlier step",
        "step 'a', after[0]: step 'a' cannot come after itself",
        "step 'a', after[1]: there is no step 'x'",
    ]


def test_a_cycle():
    builder = w().step("a", any_step, after="c").step("b", any_step, after="a").step("c", any_step, after="b")
    assert flaws(builder) == ["step 'a', after[0]: these steps wait for each other: 'a' after 'c' after 'b' after 'a'"]


async def async_condition(ctx):
    return True


def test_conditions_and_data():
    builder = (
        w(output="${steps.nope}")
        .step("a", any_step)
        .step("b", any_step, when="steps.a.x", when_unmet="stop")
        .step("c", price, after="a", data={"order": "${steps.b}", "more": 1})
        .step("d", any_step, when=async_condition)
        .step("e", mail, data=async_condition)
        .step("f", mail, data="text")
        .map("g", any_step, over=None, limit=0, tolerate="x")
    )
    assert flaws(builder) == [
        "step 'b', when_unmet: 'stop' must be 'skip' or 'skip-cascade'",
        "step 'b', when: it refers to step 'a', which does not come before it; add it to after",
        "step 'c', data: there is no parameter 'more'; there is order",
        "step 'c', data.order: it refers to step 'b', which does not come before it; add it to after",
        "step 'd', when: it is async; a condition looks at results, and cannot wait",
        "step 'e', data: it is async; it takes values from results, and cannot wait",
        "step 'f', data: 'text' must be an object, the arguments by name",
        "step 'g', limit: 0 must be a whole number, at least 1",
        "step 'g', over: it is not said what the items are",
        "output: it refers to step 'nope', which there is not",
    ]


def test_what_cannot_be_called_and_options_that_do_not_fit():
    inner = w().step("a", any_step).build()
    builder = (
        w()
        .step("a", 5)
        .step("b", any_step, queue="mail")
        .step("c", mail, run_in="thread", data={"to": "x"})
        .step("d", flow_of_code, retry=Retry(), data={"x": 1})
        .step("e", mail, retry=Retry(unless=(KeyError,)), data={"to": "x"})
        .step("f", inner, timeout="1s")
        .step("g", any_step, timeout="soon")
        .step("h", any_step, run_in="nowhere")
        .step("i", price, priority=3, data={"order": 1})
        .step("j", mail, queue="a/b", data={"to": "x"})
        .step("k", price, priority=0, data={"order": 1})
        .step("l", mail, priority=10**9, data={"to": "x"})
    )
    assert [flaw.partition(": ")[2][:60] for flaw in flaws(builder)] == [
        "5 must be a function, a step, a task or a workflow",
        "queue is not for a step of the run itself",
        "run_in is not for a task or a workflow",
        "retry and timeout are for functions, steps and tasks; a workf"[:60],
        "retry: which errors are never retried is said where the task"[:60],
        "retry and timeout are for functions, steps and tasks; a workf"[:60],
        "timeout: 'soon' is no duration; write it like '30 seconds', '"[:60],
        "step 'h': run_in='nowhere' must be 'loop', 'thread' or 'proces"[:60],
        "priority is not for a step of the run itself",
        "queue: 'a/b' must not hold '/', '#' or control characters, wh"[:60],
        "priority is not for a step of the run itself",
        "priority: 1000000000 must be a whole number of at most 1,000,"[:60],
    ]


def test_parameters_that_get_nothing():
    def three(x, y, z=1): ...

    builder = w().step("a", three).step("b", mail, after="a").step("c", mail, data={"body": "x"})
    assert flaws(builder) == [
        "step 'a', data: it is not said what the parameters 'x', 'y' get; give data={...}",
        "step 'c', data: the parameter 'to' is not given",
    ]


def test_types_that_cannot_fit():
    def makes_text(ctx) -> str: ...
    def makes_bill(ctx) -> Bill: ...
    def takes_both(text: int, bill: Order) -> None: ...
    def takes_input(input: list[int]) -> None: ...
    def takes_map(spread: dict) -> None: ...

    builder = (
        w(input=Order)
        .step("text", makes_text)
        .step("bill", makes_bill)
        .map("spread", makes_text, over=[1])
        .step("a", takes_both, after=["text", "bill"])
        .step("b", takes_input)
        .step("c", takes_map, after="spread")
    )
    assert flaws(builder) == [
        "step 'a', data: the parameter 'text' is int, and the result of step 'text' is str",
        "step 'a', data: the parameter 'bill' is Order, and the result of step 'bill' is Bill",
        "step 'b', data: the parameter 'input' is list, and the input is Order",
        "step 'c', data: the parameter 'spread' is dict, and the result of step 'spread' is list",
    ]


def test_items_of_types_that_cannot_fit():
    def numbers() -> list[int]: ...
    def text() -> str: ...
    def takes_text(item: str) -> None: ...

    builder = (
        w()
        .step("numbers", numbers)
        .step("text", text)
        .map("a", takes_text, over="numbers", after="numbers")
        .map("b", takes_text, over="text", after="text")
        .map("c", takes_text, over="nmbers", after="numbers")
        .map("d", takes_text, over={"a": 1})
    )
    assert flaws(builder) == [
        "step 'a', data: the parameter 'item' is str, and an item of step 'numbers' is int",
        "step 'b', over: the result of step 'text' is str, which is no list",
        "step 'c', over: 'nmbers' is neither a list nor a reference to one",
        "step 'd', over: {'a': 1} is neither a list nor a reference to one",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"after": 5}, "step 'a', after: 5 must be a step's name or a list of them"),
        ({"after": None}, "step 'a', after: None must be a step's name or a list of them"),
        ({"befor": "x"}, "step 'a': there is no option 'befor'; known: after, when"),
        ({"retry": 3}, "step 'a', retry: 3 must be a Retry"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], said: str):
    with pytest.raises(DefinitionError, match=said):
        w().step("a", any_step, **options).build()


@pytest.mark.parametrize(
    ("one", "other", "is_fit"),
    [
        (int, float, True), (int, str, False), (bool, int, False), (str, str | None, True), (None, str, False),
        (int | None, str, False), (Any, str, True), (object, int, True), (dict, Order, True), (Row, Order, True),
        (Order, Bill, False), (list[int], tuple[int, ...], True), (list, dict, False), (Order, object, True),
        (dict[str, int], Bill, True), (bytes, str, True), (RunStatus, int, True),
    ],
)  # fmt: skip
def test_which_types_can_fit(one: Any, other: Any, is_fit: bool):
    assert fits(one, other) is is_fit


def test_undos_are_checked_too():
    def takes_two(x, y): ...

    builder = w().step("a", any_step, compensate=takes_two).step("b", any_step, compensate=5)
    assert flaws(builder) == [
        "step 'a', compensate.data: it is not said what the parameters 'x', 'y' get; give data={...}",
        "step 'b', compensate: 5 must be a function, a step, a task or a workflow",
    ]


def test_too_many_steps():
    builder = w()
    for number in range(1_001):
        builder.step(f"s{number}", any_step)
    assert flaws(builder) == ["1,001 steps are more than 1,000; call another workflow in a step"]


def test_a_step_is_given_as_name_and_function():
    with pytest.raises(DefinitionError, match="give a step's name and what it calls"):
        w().step("only a name")


def test_a_large_graph_is_built_quickly():
    builder = w()
    for number in range(1_000):
        builder.step(f"s{number}", any_step, after=[f"s{before}" for before in range(max(0, number - 5), number)])
    assert len(builder.build().nodes) == 1_000


def test_a_picture():
    dag = (
        w()
        .step('say "a"', any_step)
        .step("b", any_step, after='say "a"', when=lambda ctx: True)
        .map("c", any_step, over="b", after="b")
        .build()
    )
    assert dag.to_mermaid() == (
        'flowchart TD\n    s0["say #quot;a#quot;"]\n    s1["b"]\n    s2[["c"]]\n    s0 -. when .-> s1\n    s1 --> s2\n'
    )


def test_written_as_data():
    inner = workflow("inner").step("a", mail).build()
    dag = (
        workflow("outer", version="7", queue="q", output="m")
        .step("first", whole, data={"x": "${input.x}"}, retry=Retry(attempts=2, max_delay="1m"), timeout="1m")
        .step("in-ner", inner, after="first", when="steps.first", when_unmet="skip-cascade", priority=2, queue="far")
        .step("code", flow_of_code, after="in-ner", data={"x": '${steps."in-ner"}'}, compensate=mail)
        .map("m", mail, over="in-ner", after="code", limit=3, tolerate="5%")
        .build()
    )
    retry = {"attempts": 2, "delay": 1.0, "backoff": "exponential", "jitter": 0.1, "max_delay": 60.0}
    assert json.loads(dag.to_json()) == {
        "name": "outer",
        "version": "7",
        "definition": {
            "queue": "q",
            "output": "${steps.m}",
            "steps": [
                {"name": "first", "task": "whole", "data": {"x": "${input.x}"}, "after": [], "retry": retry,
                 "timeout": 60.0},
                {"name": "in-ner", "workflow": "inner", "data": "${input}", "after": ["first"], "when": "steps.first",
                 "when_unmet": "skip-cascade", "queue": "far", "priority": 2},
                {"name": "code", "workflow": "flow_of_code", "data": {"x": '${steps."in-ner"}'}, "after": ["in-ner"],
                 "compensate": {"task": "mail", "data": {"to": "${input}"}}},
                {"name": "m", "task": "mail", "data": {"to": "${item}"}, "after": ["code"],
                 "map": {"over": '${steps."in-ner"}', "limit": 3, "tolerate": "5%"}},
            ],
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        (w().step("a", any_step), "step 'a', it calls <function any_step"),
        (w().step("a", price, data={"order": 1}), "step 'a', it calls"),
        (w().step("a", mail, data=lambda ctx: {}), "step 'a', data: <function"),
        (w().step("a", mail, when=lambda ctx: True), "step 'a', when: <function"),
        (w(output=lambda ctx: 1).step("a", mail), "output: <function"),
        (w().step("a", mail, compensate=any_step), "step 'a', compensate"),
    ],
)
def test_what_cannot_be_written_as_data(builder, said):
    with pytest.raises(DefinitionError) as caught:
        builder.build().to_json()
    assert said in str(caught.value)
    assert "cannot be written as data" in str(caught.value)


def test_the_input_is_one_value():
    dag = w(input=Order).step("a", any_step).build()
    assert dag.parameters.encode((Order("x"),), {}, 100) == '{"id":"x"}'
    assert dag.parameters.encode((), {"id": "x"}, 100) == '{"id":"x"}'
    assert dag.parameters.decode('{"id":"x"}') == ([Order("x")], {})
    assert dag.parameters.schema()["$ref"].endswith("Order")
    with pytest.raises(SerializationError):
        dag.parameters.encode(({"id": 5},), {}, 100)
    with pytest.raises(TypeError, match="takes one value as its input"):
        dag.parameters.encode((1, 2), {}, 100)
    assert isinstance(dag, Dag)
    assert dag.details() == {"kind": "dag", "steps": ["a"], "after": [[]]}


def test_a_context_goes_to_another_process_with_the_results_it_may_see():
    dag = w().step("a", any_step).step("b", any_step, after="a").step("c", any_step).build()
    play = Play(dag, Run("r", "w", RunStatus.RUNNING, 0, 0), {"n": 1})
    play._results.update(a=1, c=3)
    ctx = play.context(dag.nodes[1], "item", 4)
    there = pickle.loads(pickle.dumps(ctx))
    assert type(there) is Context
    assert (there.input, dict(there.results), there.item, there.index) == ({"n": 1}, {"a": 1}, "item", 4)
    assert there.workflow.workflow_id == "r"
    assert there.job == ({"n": 1}, "r")
    assert repr(Results({"a": 1}, frozenset({"a"}), "b")) == "{'a': 1}"


def test_what_a_schema_says_is_taken():
    takes = Takes.schema(
        {"$ref": "#/$defs/Input", "$defs": {"Input": {"properties": {"a": {}, "b": {}}, "required": ["a"]}}}
    )
    assert (takes.required, takes.optional, takes.is_open) == (["a"], ["b"], False)
    assert Takes.schema({}).is_open
