"""JSON Schemas of annotations: one document, whose references lead somewhere, whatever the types are of."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from jsonschema import Draft202012Validator

from perdure.model.codec import Parameters, Shape, annotations_of
from perdure.model.schema import Bundle


def schema_of(function: Any) -> dict[str, Any]:
    schema = Parameters(inspect.signature(function), annotations_of(function, "f"), "f").schema()
    Draft202012Validator.check_schema(schema)
    return schema


def fits(schema: dict[str, Any], value: object) -> bool:
    return Draft202012Validator(schema).is_valid(value)


class Color(enum.Enum):
    RED = "red"


class Flags(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Place:
    street: str
    number: int = 1


class Line(pydantic.BaseModel):
    sku: str


class Order(pydantic.BaseModel):
    lines: list[Line]
    parts: list[Order] = []


class Quote(pydantic.BaseModel):
    line: Line


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    line: Line


class Owner(pydantic.BaseModel):
    pet: Cat | Dog = pydantic.Field(discriminator="kind")


@dataclass
class Box:
    order: Order
    place: Place


def test_an_input_is_an_object_of_the_arguments_with_their_defaults():
    def f(place: Place, count: int = 3, near: Place | None = None) -> None: ...

    schema = schema_of(f)
    assert schema["properties"] == {
        "place": {"$ref": "#/$defs/Place"},
        "count": {"type": "integer", "default": 3},
        "near": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "default": None},
    }
    assert (schema["required"], schema["additionalProperties"]) == (["place"], False)
    assert fits(schema, {"place": {"street": "x"}, "near": {"street": "y", "number": 2}})
    assert not fits(schema, {"place": {"street": "x"}, "far": 1})


def test_definitions_of_models_are_put_together():
    def f(order: Order, quote: Quote, box: Box, owner: Owner) -> None: ...

    schema = schema_of(f)
    assert sorted(schema["$defs"]) == ["Box", "Cat", "Dog", "Line", "Order", "Place"]
    lines = {"lines": [{"sku": "a"}]}
    good = {
        "order": {**lines, "parts": [lines]},
        "quote": {"line": {"sku": "a"}},
        "box": {"order": lines, "place": {"street": "x"}},
        "owner": {"pet": {"kind": "dog", "line": {"sku": "a"}}},
    }
    assert fits(schema, good)
    assert not fits(schema, {**good, "order": {**lines, "parts": [{"lines": [{}]}]}})
    assert not fits(schema, {**good, "box": {"order": {"lines": [{}]}, "place": {"street": "x"}}})
    assert schema["properties"]["owner"]["properties"]["pet"]["discriminator"]["mapping"] == {
        "cat": "#/$defs/Cat",
        "dog": "#/$defs/Dog",
    }


def test_two_definitions_of_one_name_stay_two():
    class Line(pydantic.BaseModel):
        weight: float

    class Parcel(pydantic.BaseModel):
        line: Line

    def f(quote, parcel, again) -> None: ...

    f.__annotations__ = {"quote": Quote, "parcel": Parcel, "again": Parcel}
    schema = schema_of(f)
    assert sorted(schema["$defs"]) == ["Line", "Line-2"]
    quote, parcel = {"line": {"sku": "a"}}, {"line": {"weight": 1.0}}
    assert fits(schema, {"quote": quote, "parcel": parcel, "again": parcel})
    assert not fits(schema, {"quote": parcel, "parcel": parcel, "again": parcel})


def test_what_other_libraries_convert_has_a_title_where_it_is_used():
    def f(order: Order, few: Annotated[int, pydantic.Field(gt=0)], place: Place) -> None: ...

    properties = schema_of(f)["properties"]
    assert {name: each.get("title") for name, each in properties.items()} == {
        "order": "Order",
        "few": "Few",
        "place": None,
    }
    assert properties["few"]["exclusiveMinimum"] == 0


class Named(pydantic.BaseModel):
    first: str = pydantic.Field(alias="firstName", default="")

    @pydantic.computed_field
    @property
    def length(self) -> int:
        return len(self.first)


class Aliased(Named):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)


def test_what_is_written_may_be_another_thing_than_what_is_read():
    shape = Shape(Named, "it")
    assert list(shape.schema()["properties"]) == ["firstName"]
    assert list(shape.schema(is_output=True)["properties"]) == ["first", "length"]
    assert list(Shape(Aliased, "it").schema(is_output=True)["properties"]) == ["firstName", "length"]
    positive = Shape(Annotated[int, pydantic.Field(gt=0)], "it")
    assert positive.schema(is_output=True) == {"type": "integer", "exclusiveMinimum": 0}


class Untold(pydantic.BaseModel):
    call: Callable[[], int] = pydantic.Field(default=int)


class Odd(msgspec.Struct):
    any: object


def test_of_a_type_that_has_no_schema_nothing_is_said():
    def f(untold: Untold, odd: Odd, count: int) -> None: ...

    properties = schema_of(f)["properties"]
    assert properties["untold"] == {"title": "Untold"}
    assert Shape(Odd, "it").schema()["$defs"]["Odd"]["properties"]["any"] == {"description": "any value"}
    assert properties["count"] == {"type": "integer"}


@pytest.mark.parametrize("default", ["x" * 2_000, object()], ids=["long", "no data"])
def test_a_default_that_cannot_be_told_is_left_out(default):
    def f(value: Any = default) -> None: ...

    assert schema_of(f)["properties"] == {"value": {}}


def test_what_looks_like_a_schema_in_data_is_data():
    bundle = Bundle()
    given = {"const": {"$ref": "#/$defs/A", "$defs": {}}, "not": {"$ref": "#/$defs/A"}, "$defs": {"A": {"const": 1}}}
    bundle.add({"$defs": {"A": {"const": 2}}})
    moved = bundle.add(given)
    assert moved == {"const": given["const"], "not": {"$ref": "#/$defs/A-2"}}
    assert bundle.document(moved)["$defs"] == {"A": {"const": 2}, "A-2": {"const": 1}}
    assert bundle.add({"$ref": "#/elsewhere", "discriminator": "odd"}) == {
        "$ref": "#/elsewhere",
        "discriminator": "odd",
    }


def test_an_enumeration_that_takes_further_values_says_which_it_knows_of():
    def f(color: Color, flags: Flags, many: list[Flags] | None = None) -> None: ...

    schema = schema_of(f)
    assert schema["$defs"] == {
        "Color": {"title": "Color", "enum": ["red"]},
        "Flags": {"title": "Flags", "examples": [1, 2]},
    }
    assert fits(schema, {"color": "red", "flags": 3, "many": [3]})
    assert not fits(schema, {"color": "blue", "flags": 3})
