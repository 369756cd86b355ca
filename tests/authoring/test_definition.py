"""Workflows as data: what is read, in which spellings, and what is wrong with it, all at once, with its path."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from perdure import DefinitionError
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.definition import Definition, Known, data_of
from perdure.authoring.graphs.definition_schema import definition_schema, schema_text

SCHEMA = Path(__file__).parent.parent.parent / "docs" / "definition.schema.json"
FULL: dict[str, Any] = {
    "name": "full",
    "version": 2,
    "description": "Everything that there is.",
    "definition": {
        "queue": "q",
        "input": {"type": "object", "additionalProperties": False, "properties": {"x": {"default": 1}}},
        "output": "${steps.c}",
        "steps": [
            {"taskName": "t", "name": "a", "data": {"x": "${input.x}"}, "retry": {"attempts": 2, "maxDelay": "1m"}},
            {
                "task": "t",
                "name": "b",
                "after": ["a"],
                "when": "steps.a.n > `1`",
                "onUnmet": "skip-cascade",
                "timeout": "30s",
                "queue": "other",
                "priority": 3,
                "map": {"over": "${steps.a.list}", "limit": 3, "tolerate": "5%"},
                "data": {"item": "${item}", "n": "${index}"},
                "compensate": {"task": "u", "data": {"b": "${steps.b}"}},
            },
            {"workflow": "w", "name": "c", "after": [], "compensate": "u"},
        ],
    },
}


def nothing(name: str) -> None:
    return None


def compiled(data: Any, known: dict[str, Known] | None = None):
    return Definition(data).compile(known, nothing)


def wrong(data: Any, known: dict[str, Known] | None = None) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        compiled(data, known)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def steps(*found: Any) -> dict[str, Any]:
    return {"name": "x", "steps": list(found)}


def test_everything_that_there_is():
    dag = compiled(FULL)
    assert (dag.name, dag.version, dag.queue) == ("full", "2", "q")
    assert [node.name for node in dag.nodes] == ["a", "b", "c"]
    assert dag.graph.after == ((), (0,), ())
    assert dag.nodes[1].cascades
    assert dag.details() == {"kind": "definition", "steps": ["a", "b", "c"], "after": [[], [0], []]}


def test_snake_case_and_camel_case_are_one_and_so_are_both_outer_forms():
    snake = {"name": "x", "steps": [{"task_name": "t", "when": "input.a", "when_unmet": "skip"}]}
    camel = {"name": "x", "definition": {"steps": [{"taskName": "t", "when": "input.a", "whenUnmet": "skip"}]}}
    other = {"name": "x", "definition": [{"task": "t", "when": "input.a", "onUnmet": "skip"}]}
    assert Definition(snake).digest == Definition(camel).digest == Definition(other).digest


def test_a_bare_list_is_a_sequence_and_an_empty_after_a_root():
    dag = compiled(steps({"task": "a"}, {"task": "b"}, {"task": "c", "after": []}, {"task": "d"}))
    assert dag.graph.after == ((), (0,), (), (2,))


def test_steps_are_named_after_what_they_call():
    dag = compiled(steps({"task": "a"}, {"task": "a"}, {"task": "a"}))
    assert dag.graph.names == ("a", "a-2", "a-3")


def test_what_is_compiled_is_read_again_as_it_is():
    definition = Definition(FULL)
    dag = definition.compile(None, nothing)
    stored = definition.stored(dag, 5)
    again = Definition.of_stored(stored)
    assert (again.name, again.version, again.digest) == ("full", "2", definition.digest)
    assert json.loads(again.compile(None, nothing).to_json()) == json.loads(dag.to_json())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], ["the definition: [] must be an object", "name: it is not given", "steps: give a list of at least one",
              "there are no steps"]),
        ({"name": "a/b", "steps": [{"task": "t"}]}, ["name: 'a/b' must not hold '/'"]),
        ({"name": "x", "version": True, "steps": [{"task": "t"}]}, ["version: True must be text or a whole number"]),
        ({"name": "x", "version": "", "steps": [{"task": "t"}]},
         ["version: it must be printable text of 1 to 200 characters"]),
        ({"name": "x", "stps": [], "steps": [{"task": "t"}]}, ["stps: there is no such field; did you mean 'steps'?"]),
        (steps({"task": "t", "zzz": 1}), ["steps[0].zzz: there is no such field; known: task, workflow, name, data"]),
        (steps("t"), ["steps[0]: 't' must be an object",
                      "steps[0]: give one of task (or taskName) and workflow, which it calls"]),
        (steps({"task": "t", "taskName": "t"}), ["steps[0].taskName: 'task' is given twice"]),
        (steps({"task": "t", "workflow": "w"}),
         ["steps[0]: give one of task (or taskName) and workflow, which it calls"]),
        (steps({"task": "t", "after": 5}), ["steps[0].after: 5 must be a step's name or a list of them"]),
        (steps({"task": "t", "when": True}), ["steps[0].when: True must be an expression, as text"]),
        (steps({"task": "t", "timeout": "x"}, {"task": "u", "retry": {"attempts": 0, "delay": "1s"}}),
         ["steps[0].timeout: 'x' is no duration; write it like '30 seconds', '1h 30m' or '250ms'",
          "steps[1].retry.attempts: 0 must be a whole number, at least 1"]),
        (steps({"task": "t", "queue": "a#b", "priority": "high"}),
         ["steps[0].queue: 'a#b' must not hold '/', '#' or control characters, which journal keys use",
          "steps[0].priority: 'high' must be a whole number"]),
        (steps({"task": "t", "priority": 1_000_001}),
         ["steps[0].priority: 1000001 must be a whole number of at most 1,000,000, either way"]),
        (steps({"task": "t", "name": "a"}, {"task": "t", "name": "a"}),
         ["steps[1].name: the name 'a' is taken by an earlier step", "steps[1].after[0]: step 'a' cannot come"]),
        (steps({"task": "t", "after": ["nope"]}), ["steps[0].after[0]: there is no step 'nope'"]),
        (steps({"task": "t", "name": "a", "after": "b"}, {"task": "t", "name": "b"}),
         ["steps[0].after[0]: these steps wait for each other: 'a' after 'b' after 'a'"]),
        (steps({"task": "t", "when": "steps.x"}, {"task": "u", "when": "input.a > 5", "onUnmet": "stop"}),
         ["steps[0].when: it refers to step 'x', which there is not",
          "steps[1].when_unmet: 'stop' must be 'skip' or 'skip-cascade'",
          "steps[1].when: 'input.a > 5' is no expression: invalid token: Parse error at column 10"]),
        (steps({"task": "t", "data": {"a": ["${steps.u}", "${foo}"]}}, {"task": "u", "after": []}),
         ["steps[0].data.a[1]: 'foo' is nothing that can be referred to here; there is input, steps, workflow"]),
        (steps({"task": "t", "map": {"over": "${item}", "limit": 0, "tolerate": 2.5}}),
         ["steps[0].map.limit: 0 must be a whole number, at least 1",
          "steps[0].map.over: 'item' is nothing that can be referred to here; there is input, steps, workflow"]),
        (steps({"task": "t", "map": {"over": "input.items"}}),
         ["steps[0].map.over: 'input.items' is neither a list nor a reference to one"]),
        (steps({"task": "t", "map": {"tolerate": "x"}}),
         ["steps[0].map.tolerate: 'x' must be a number of items, or a share of them such as 0.05 or '5%'",
          "steps[0].map.over: it is not said what the items are"]),
        (steps({"task": "t", "compensate": {"data": {}}}),
         ["steps[0].compensate: give one of task (or taskName) and workflow, which it calls"]),
        ({**steps({"task": "t"}), "output": "${steps.z}"}, ["output: it refers to step 'z', which there is not"]),
        (steps(*({"task": "t"} for _ in range(1_001))),
         ["steps: 1,001 are more than 1,000; call another workflow in a step"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(data: Any, told: list[str]):
    found = wrong(data)
    assert [each[: len(begin)] for each, begin in zip(found, told, strict=True)] == told


KNOWN = {
    "t": Known(Takes(["a"], ["b"])),
    "whole": Known(Takes(["data"])),
    "graph": Known(Takes((), is_value=True), "definition"),
}


@pytest.mark.parametrize(
    ("step", "data"),
    [
        ({"task": "t", "data": {"a": 1}}, {"a": 1}),
        ({"task": "t"}, {"a": "${input}"}),
        ({"task": "whole", "data": {"x": 1}}, {"data": {"x": 1}}),
        ({"task": "whole", "data": {"data": 1}}, {"data": 1}),
        ({"workflow": "graph"}, "${input}"),
        ({"workflow": "graph", "data": {"x": 1}}, {"x": 1}),
        ({"task": "t", "map": {"over": []}}, {"a": "${item}"}),
    ],
)
def test_what_a_step_is_called_with_is_written_out(step: dict[str, Any], data: Any):
    dag = compiled(steps(step), KNOWN)
    assert json.loads(dag.to_json())["definition"]["steps"][0]["data"] == data


def test_results_are_given_by_name():
    dag = compiled(steps({"task": "t", "name": "b", "data": {"a": 1}}, {"task": "t", "name": "c"}), KNOWN)
    assert json.loads(dag.to_json())["definition"]["steps"][1]["data"] == {"a": "${input}", "b": "${steps.b}"}


def test_what_does_not_fit_what_is_called():
    assert wrong(steps({"task": "t", "data": {"c": 1}}, {"task": "tt"}, {"task": "whole", "data": 5}), KNOWN) == [
        "steps[1]: there is no task or workflow 'tt'; did you mean 't'?",
        "steps[0].data: there is no parameter 'c'; there is a, b",
        "steps[0].data: the parameter 'a' is not given",
    ]
    assert wrong(steps({"task": "t", "data": 5}), KNOWN) == [
        "steps[0].data: 5 must be an object, the arguments by name"
    ]


def test_what_is_far_too_long_is_refused_at_once():
    began = time.monotonic()
    assert wrong(steps(*[{"task": "t"}] * 70_000)) == [
        "steps: 70,000 are more than 1,000; call another workflow in a step"
    ]
    assert time.monotonic() - began < 2


def test_many_flaws_are_not_all_told():
    told = wrong(steps(*({"task": "t", "name": f"s{n}", "after": ["nope"]} for n in range(60))))
    assert len(told) == 51
    assert told[-1] == "and 10 more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("a: [", "cannot be read"),
        ("a: &x 1\nb: *x", "aliases"),
        ("name: x\nsteps:\n- {task: t, after: a, after: b}", "line 3: 'after' is given twice"),
        ('{"name": "x", "steps": [{"task": "t", "after": 1, "after": 2}]}', "'after' is given twice in one object"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
        ("[" * 5_000, "cannot be read"),
        ("x" * 1_000_001, "longer than 1,000,000 bytes"),
    ],
)
def test_a_text_that_cannot_be_read(text: str, said: str):
    with pytest.raises(DefinitionError, match=said):
        data_of(text)


def test_yaml_and_json_are_read():
    assert data_of("name: x\nsteps: [{task: t}]") == data_of('{"name": "x", "steps": [{"task": "t"}]}')


def test_fields_that_yaml_takes_for_something_else():
    assert wrong(data_of("name: x\nsteps: [{task: t, on: 1, data: {day: 2024-01-01}}]"))[0] == (
        "steps[0].True: there is no such field; known: task, workflow, name, data, after, when, when_unmet, retry, "
        "timeout, queue, priority, map, compensate"
    )


def test_the_schema_is_published_as_it_is():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "write it again: perdure definitions schema"


@pytest.mark.parametrize(
    "data",
    [
        FULL,
        {"name": "hello_world", "definition": {"steps": [{"taskName": "step1", "data": {}}]}},
        {"name": "x", "steps": [{"task_name": "t"}]},
        {"name": "x", "definition": [{"workflow": "t"}]},
    ],
)
def test_what_is_right_fits_the_schema(data: Any):
    compiled(data)
    jsonschema.Draft202012Validator.check_schema(definition_schema())
    jsonschema.validate(data, definition_schema())


@pytest.mark.parametrize(
    "data",
    [
        {"steps": [{"task": "t"}]},
        {"name": "x"},
        {"name": "x", "steps": []},
        steps({"taskNam": "t"}),
        steps({"task": "t", "workflow": "t"}),
        steps({"task": "t", "retry": {"attempts": 0}}),
        steps({"task": "t", "map": {"limit": 2}}),
        steps({"task": "t", "onUnmet": "stop"}),
    ],
)
def test_what_is_wrong_does_not_fit_the_schema(data: Any):
    assert wrong(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, definition_schema())
