"""The schema of a definition's input: what is a schema here, what it refuses, what it fills in, and what it costs."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import DefinitionError, SerializationError, workflow
from perdure.authoring.expressions import FlawsError
from perdure.authoring.graphs.definition import Definition
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.task import Task

LINE = {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string"}, "count": {"default": 1}}}
ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["customer"],
    "additionalProperties": False,
    "properties": {
        "customer": {"type": "string", "minLength": 1},
        "currency": {"$ref": "#/$defs/currency"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "default": []},
        "gift": {"anyOf": [{"$ref": "#/$defs/line"}, {"type": "null"}]},
    },
    "$defs": {"line": LINE, "currency": {"enum": ["EUR", "USD"], "default": "EUR"}},
}


def taken(schema: Any, value: Any) -> Any:
    return InputSchema(schema).taken(value, "it")


def wrong(schema: Any, value: Any) -> list[str]:
    with pytest.raises(SerializationError, match="^the input of it does not fit its schema: ") as caught:
        taken(schema, value)
    return str(caught.value).partition("schema: ")[2].split("; input")


def flaws(schema: Any) -> list[str]:
    with pytest.raises(FlawsError) as caught:
        InputSchema(schema)
    return caught.value.found


def test_defaults_are_filled_in_where_nothing_is_given():
    given = {"customer": "Ada", "lines": [{"sku": "a"}, {"sku": "b", "count": 2}]}
    before = msgspec.json.encode(given)
    assert taken(ORDER, given) == {
        "customer": "Ada",
        "currency": "EUR",
        "lines": [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}],
    }
    assert msgspec.json.encode(given) == before
    assert taken(
        {**ORDER, "allOf": [{"properties": {"lines": {"items": {"properties": {"x": {"default": 0}}}}}}]}, given
    )["lines"][0] == {"sku": "a", "count": 1, "x": 0}


def test_a_default_is_taken_as_it_is():
    schema = {"properties": {"a": {"default": {}, "properties": {"b": {"default": 1}}}}}
    assert taken(schema, {}) == {"a": {}}
    assert taken(schema, {"a": {}}) == {"a": {"b": 1}}
    assert taken(schema, {"a": None}) == {"a": None}


def test_defaults_of_alternatives_are_not_filled_in():
    schema = {"anyOf": [{"properties": {"a": {"default": 1}}}], "if": {"properties": {"b": {"default": 1}}}}
    assert taken(schema, {}) == {}


WRONG = [
    ({}, ["input.customer: it is not given"]),
    ([], ["input: [] must be of type object"]),
    ({"customer": 5}, ["input.customer: 5 must be of type string"]),
    ({"customer": ""}, ["input.customer: '' should be non-empty"]),
    ({"customer": "x" * 99, "currncy": 1}, ["input.currncy: there is no such property; did you mean 'currency'?"]),
    ({"customer": "x", "zzz": 1}, ["input.zzz: there is no such property; there is customer, currency, lines, gift"]),
    ({"customer": "x", "currency": "GBP"}, ["input.currency: 'GBP' must be one of 'EUR', 'USD'"]),
    ({"customer": "x", "lines": [{"sku": "a"}, {}]}, ["input.lines[1].sku: it is not given"]),
    ({"customer": "x", "gift": {"sku": 5}}, ["input.gift.sku: 5 must be of type string"]),
    ({"lines": 1}, ["input.customer: it is not given", ".lines: 1 must be of type array"]),
]


@pytest.mark.parametrize(("value", "expected"), WRONG)
def test_what_does_not_fit_is_told_with_its_path(value, expected):
    assert sorted(wrong(ORDER, value)) == sorted(expected)


def test_what_is_told_is_bounded():
    found = wrong({"items": {"type": "string"}}, list(range(1_000)))
    assert len(found) == 20
    (one,) = wrong({"maxLength": 1}, "x" * 10_000)
    assert len(one) < 120
    assert len(wrong({"required": [f"k{n}" for n in range(100)]}, {})) == 20


FLAWS: list[tuple[Any, str]] = [
    (5, "input: 5 must be a JSON Schema: an object"),
    ({"type": "strng"}, "input.type: 'strng' is not valid under any of the given schemas"),
    ({"properties": {"a": {"minimum": "x"}}}, "input.properties.a.minimum: 'x' is not of type 'number'"),
    ({"properties": {"a": {"$ref": "http://x.test/a"}}}, "input.properties.a.$ref: 'http://x.test/a' leads out"),
    ({"$ref": "other.json"}, "input.$ref: 'other.json' leads out of the schema"),
    ({"items": [{"$ref": "#/$defs/x"}]}, "input.items[0].$ref: '#/$defs/x' leads to no schema"),
    ({"$ref": "#/type", "type": "object"}, "input.$ref: '#/type' leads to no schema"),
    ({"$id": "x"}, "input.$id: a schema here has no names of its own"),
    ({"$dynamicRef": "#x"}, "input.$dynamicRef: a schema here has no names of its own"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "input.$schema: 'http://json-schema.org/draft-07/schema#'"),
    ({"properties": {"a": {"pattern": "(a+)+"}}}, "input.properties.a.pattern: a pattern with a choice"),
    ({"patternProperties": {"(": {}}}, "input.patternProperties: '(' is no regular expression"),
    ({"title": "x" * 70_000}, "input: the schema is longer than 65,536 bytes"),
    ({"title": object()}, "input: it is no JSON data"),
    ({"properties": {"a": {"type": "integer", "default": "x"}}}, "input.properties.a.default: 'x' must be of"),
    (
        {"$defs": {"b": {"properties": {"a": {"$ref": "#/$defs/b", "default": 1, "type": "object"}}}}},
        "input.$defs.b.properties.a.default: 1 must be of type object",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "flaw"), FLAWS, ids=range(len(FLAWS)))
def test_what_is_no_schema_is_told_with_its_path(schema, flaw):
    (found,) = flaws(schema)
    assert found.startswith(flaw)


def test_a_schema_is_bounded_in_depth():
    schema: dict[str, Any] = {}
    for _ in range(60):
        schema = {"not": schema}
    assert flaws(schema) == ["input" + ".not" * 51 + ": the schema is nested deeper than 50"]
    assert "it is no JSON data" in flaws(_nested(100_000))[0]


def _nested(depth: int) -> Any:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


def test_properties_may_be_called_like_keywords():
    names = ("default", "const", "enum", "pattern", "$ref", "$id", "properties", "patternProperties", "$schema")
    schema = {"properties": {name: {"type": "string", "default": "x"} for name in names}}
    assert taken(schema, {}) == dict.fromkeys(names, "x")
    assert taken({"const": {"$ref": "#/nowhere", "pattern": "(a+)+"}}, {"$ref": "#/nowhere", "pattern": "(a+)+"})


def _deep(depth: int) -> Any:
    return msgspec.json.decode("[" * depth + "]" * depth)


HOSTILE: list[tuple[str, Any, Any]] = [
    ("itself", {"$ref": "#"}, {}),
    ("each other", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, {}),
    (
        "doubling",
        {
            "$ref": "#/$defs/a0",
            "$defs": {"a40": {}} | {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)},
        },
        {},
    ),
    (
        "doubling alternatives",
        {
            "$ref": "#/$defs/a0",
            "$defs": {"a40": False} | {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)},
        },
        {},
    ),
    ("many alternatives", {"items": {"anyOf": [{"const": 1}, {"const": 2}] * 1_000}}, list(range(20_000))),
    ("a long enum", {"items": {"enum": list(range(9_000))}}, [8_999] * 20_000),
    ("patterns", {"items": {"pattern": "^.*.*x$"}}, ["a" * 5_000] * 100),
    ("a long text", {"pattern": "^.*.*x$"}, "a" * 100_000),
    ("names", {"patternProperties": {f"^{n}.*x": {} for n in range(1_000)}}, {str(n): 1 for n in range(20_000)}),
    ("deep", {"$ref": "#/$defs/n", "$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}}, _deep(900)),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_no_schema_and_no_input_holds_a_process_up(schema, value):
    checked = InputSchema(schema)
    began = time.process_time()
    with pytest.raises(SerializationError):
        checked.taken(value, "it")
    assert time.process_time() - began < 15


def test_many_items_are_compared_soon():
    began = time.process_time()
    items = [{"a": number} for number in range(20_000)]
    assert taken({"uniqueItems": True}, items) == items
    assert wrong({"uniqueItems": True}, [*items, {"a": 7}])
    assert time.process_time() - began < 15


values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, "", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(values, max_size=4))
def test_items_are_unique_as_the_library_sees_it(items):
    expected = jsonschema.Draft202012Validator({"uniqueItems": True}).is_valid(items)
    try:
        taken({"uniqueItems": True}, items)
    except SerializationError:
        assert not expected
    else:
        assert expected


# In definitions and in graphs.


def definition(schema: Any, **more: Any) -> dict[str, Any]:
    step = {"task": "t", "data": {"x": "${input.customer}"}}
    return {"name": "w", "definition": {"input": schema, "steps": [step | more]}}


def told(data: Any) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        Definition(data).compile(None, lambda name: None)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_references_to_what_the_schema_excludes_are_found():
    excluded = "which the schema of the input excludes"
    assert told(definition(ORDER, data={"x": ["${input.custmer}"], "y": "${input.lines[0].zzz} ${input}"})) == [
        f"steps[0].data.x[0]: it refers to input.custmer, {excluded}; did you mean 'customer'?"
    ]
    assert told(definition(ORDER, when="input.total > `1`")) == [
        f"steps[0].when: it refers to input.total, {excluded}; there is customer, currency, lines, gift"
    ]
    strict = {
        **ORDER,
        "properties": {"line": {"$ref": "#/$defs/line"}},
        "$defs": {"line": {**LINE, "additionalProperties": False}},
    }
    assert told(
        definition(strict, data={"a": "${input.line.sku}", "b": "${input.line.sk}", "c": "${input.line.sku.x}"})
    ) == [f"steps[0].data.b: it refers to input.line.sk, {excluded}; did you mean 'sku'?"]
    assert told({**definition(ORDER), "output": "${input.a}"}) == [
        f"output: it refers to input.a, {excluded}; there is customer, currency, lines, gift"
    ]
    open_ended = {**ORDER, "patternProperties": {"^x-": {}}}
    assert Definition(definition(open_ended, data={"a": '${input."x-a"}'})).compile(None, lambda name: None)


def test_a_wrong_schema_is_told_with_the_rest():
    assert told(definition({"type": "x"}, after="y"))[0].startswith("input.type: 'x' is not valid")
    assert told(definition([])) == ["input: [] must be a JSON Schema: an object"]
    assert told({**definition({}), "input": {}}) == ["definition.input: 'input' is given twice"]
    assert told({"name": "w", "description": 5, "steps": [{"task": "t"}]}) == ["description: 5 must be text"]


def test_fields_beside_the_definition_count_too():
    found = Definition({"name": "w", "queue": "q", "input": ORDER, "definition": [{"task": "t"}]})
    assert (found.content["queue"], found.content["input"]) == ("q", ORDER)
    assert not found.found


def test_the_schema_belongs_to_the_content_and_the_description_does_not():
    plain = Definition(definition({}))
    assert Definition(definition(ORDER)).version != plain.version
    assert Definition({**definition({}), "description": "About it."}).version == plain.version


def test_a_graph_in_code_takes_a_schema_or_a_type():
    graph = workflow("w").input(ORDER).step("a", lambda ctx: ctx.input).build()
    assert graph.parameters.encode(({"customer": "x"},), {}, 1_000) == '{"customer":"x","currency":"EUR","lines":[]}'
    assert graph.input_schema()["required"] == ["customer"]
    with pytest.raises(SerializationError, match="^the input of workflow 'w' does not fit its schema: input.customer"):
        graph.parameters.encode((), {}, 1_000)
    with pytest.raises(SerializationError, match="input.customer"):
        graph.arguments("{}")
    assert graph.arguments('{"customer":"x"}')[0][0]["currency"] == "EUR"
    typed = workflow("w").input(dict[str, int]).step("a", lambda ctx: ctx.input).build()
    with pytest.raises(SerializationError, match="Expected `int`"):
        typed.parameters.encode(({"a": "x"},), {}, 1_000)
    with pytest.raises(DefinitionError, match="workflow 'w': input.type: 'x' is not"):
        workflow("w", input={"type": "x"})


def test_a_graph_in_code_is_written_with_its_schema():
    keep = Task.of(lambda order: order, name="keep")
    for kind, expected in (
        (ORDER, ORDER),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    ):
        written = msgspec.json.decode(workflow("w").input(kind).step("a", keep).build().to_json())
        assert written["definition"]["input"] == expected
        assert Definition(written).compile(None, lambda name: None).input_schema().keys() > expected.keys()


def test_inputs_that_were_looked_at_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("perdure.authoring.graphs.dag.TAKEN_KEPT", 2)
    graph = workflow("w").input(ORDER).step("a", lambda ctx: ctx.input).build()
    asked = []
    monkeypatch.setattr(InputSchema, "taken", lambda self, value, what: asked.append(value) or value)
    for name in ("a", "a", "b", "c", "a"):
        graph.arguments(f'{{"customer":"{name}"}}')
    assert [each["customer"] for each in asked] == ["a", "b", "c", "a"]


def test_a_schema_in_the_store_is_not_checked_again(monkeypatch):
    dag = Definition(definition(ORDER)).compile(None, lambda name: None)
    stored = Definition(definition(ORDER)).stored(dag, 0)
    monkeypatch.setattr(InputSchema, "_check", None)
    assert Definition.of_stored(stored).compile(None, lambda name: None).input_schema() == dag.input_schema()
