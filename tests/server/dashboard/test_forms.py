from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure import Perdure
from perdure.server.dashboard.forms import Field, form


def fields(properties: dict, **more) -> dict[str, Field]:
    return {field.label: field for field in form({"type": "object", "properties": properties, **more}).fields}


def test_each_kind_of_value_has_its_field():
    found = fields(
        {
            "text": {"type": "string", "maxLength": 40},
            "long": {"type": "string", "maxLength": 4_000},
            "mail": {"type": "string", "format": "email"},
            "count": {"type": "integer", "minimum": 1, "maximum": 9},
            "share": {"type": "number"},
            "is_new": {"type": "boolean", "default": True},
            "size": {"enum": ["s", "m", None]},
            "only": {"const": 3},
            "items": {"type": "array"},
            "any": {},
            "map": {"type": "object"},
        },
        required=["text"],
    )
    assert {name: field.kind for name, field in found.items()} == {
        "text": "text",
        "long": "long",
        "mail": "text",
        "count": "integer",
        "share": "number",
        "is_new": "boolean",
        "size": "choice",
        "only": "choice",
        "items": "json",
        "any": "json",
        "map": "json",
    }
    assert found["text"].is_required
    assert not found["count"].is_required
    assert dict(found["count"].limits) == {"step": "1", "min": "1", "max": "9"}
    assert found["mail"].type == "email"
    assert found["size"].choices == (('"s"', "s"), ('"m"', "m"), ("null", "null"))
    assert found["is_new"].value == "true"


def test_what_may_be_null_is_asked_for_as_what_it_else_is():
    found = fields({"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "b": {"type": ["string", "null"]}})
    assert (found["a"].kind, found["b"].kind) == ("integer", "text")


def test_what_may_be_several_things_is_given_as_json():
    assert fields({"a": {"anyOf": [{"type": "integer"}, {"type": "string"}]}})["a"].kind == "json"


def test_defaults_stand_in_the_fields():
    found = fields(
        {"a": {"type": "string", "default": "x"}, "b": {"type": "integer", "default": 3}, "c": {"default": [1]}}
    )
    assert [found[name].value for name in "abc"] == ["x", "3", "[1]"]


def test_objects_are_groups_as_deep_as_makes_sense():
    deep: dict = {"type": "string"}
    for _ in range(6):
        deep = {"type": "object", "properties": {"x": deep}}
    field, depth = form(deep), 0
    while field.kind == "group":
        (field,) = field.fields
        depth += 1
    assert depth == 3
    assert field.kind == "json"


def test_a_schema_that_refers_to_itself_ends():
    tree = {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"left": {"$ref": "#/$defs/T"}}}}}
    assert form(tree).kind == "group"
    loop = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert form(loop).kind == "json"


def test_a_workflow_in_code_has_a_form():
    app = Perdure("memory://", mode="client")

    @dataclass
    class Item:
        sku: str
        count: int = 1

    @app.workflow
    async def order(customer: str, item: Item, speed: Literal["slow", "fast"] = "slow", note: str | None = None): ...

    found = {field.label: field for field in form(app.registry.workflows["order"].input_schema()).fields}
    assert {name: field.kind for name, field in found.items()} == {
        "customer": "text",
        "item": "group",
        "speed": "choice",
        "note": "text",
    }
    assert [(field.path, field.value) for field in found["item"].fields] == [
        (("item", "sku"), ""),
        (("item", "count"), "1"),
    ]
    assert found["speed"].value == '"slow"'


def test_an_input_of_any_form_is_given_as_json():
    assert form({}).kind == "json"
    assert form({}).path == ()
