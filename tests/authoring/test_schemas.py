"""What is announced of a task is enough to refuse what its code would refuse, and never more than that."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
import uuid
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from perdure import SerializationError
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.definition import Definition, Known
from perdure.authoring.schemas import flaws
from perdure.authoring.task import Task
from perdure.model.codec import encode
from perdure.model.errors import DefinitionError


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Place:
    street: str
    number: int = 1


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: float = 1.0
    places: list[Place] = []


class Cat(msgspec.Struct, tag=True):
    a: int


class Dog(msgspec.Struct, tag=True):
    b: str


class Model(pydantic.BaseModel):
    a: int
    b: list[float] = []


ANNOTATIONS: list[Any] = [
    str, int, float, bool, None, Any, bytes, list, dict, list[int], dict[str, int], dict[str, list[str]],
    tuple[int, str], tuple[int, ...], set[int], str | None, int | str | None, float | str | Strict | None,
    Literal["a", "b"], Literal[1, 2], Literal["a", 1] | None, Color, Level, dt.datetime, dt.date, dt.timedelta,
    decimal.Decimal, uuid.UUID, Place, Typed, Strict, Cat | Dog, list[Place], Model, list[Model], Model | None,
    dict[str, Model],
]  # fmt: skip
DOUBTFUL = {Any, dt.date, dt.timedelta, decimal.Decimal, uuid.UUID, Model, Model | None}
LEAVES: list[Any] = [
    None, True, False, 0, 1, 2, -3, 1.0, 1.5, "", "a", "red", "1", "1.5", "x", "2026-11-20", "2026-11-20T10:00:00Z",
    "QQ==", "P1D", "6f9619ff-8b86-d011-b42d-00c04fc964ff",
]  # fmt: skip


def value_of(rnd: random.Random, depth: int = 0) -> Any:
    if depth > 2 or rnd.random() < 0.5:
        return rnd.choice(LEAVES)
    if rnd.random() < 0.4:
        return [value_of(rnd, depth + 1) for _ in range(rnd.randrange(3))]
    names = ["a", "b", "street", "number", "places", "type"]
    fields = {rnd.choice(names): value_of(rnd, depth + 1) for _ in range(rnd.randrange(4))}
    return {**fields, **({"type": rnd.choice(["Cat", "Dog"])} if rnd.random() < 0.3 else {})}


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_nothing_is_refused_that_the_code_would_take(annotation):
    def function(value: Any) -> None:
        pass

    function.__annotations__["value"] = annotation
    task = Task.of(function, name="t")
    schema, shape = task.parameters.schema(), task.parameters.shapes["value"]
    rnd = random.Random(str(annotation))
    refused = 0
    for _ in range(2_000):
        value = value_of(rnd)
        told = list(flaws(schema, {"value": value}, ["value"]))
        refused += bool(told)
        try:
            shape.decode(encode(value, "it", 1_000))
        except SerializationError:
            continue
        assert told == [], value
    assert refused > 100 or annotation in DOUBTFUL


def send(
    to: str, kind: Literal["day", "night"] = "day", place: Place | None = None, many: list[Strict] | None = None
) -> None:
    pass


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"to": 5}, [".to: 5 must be of type string"]),
        ({"to": True}, [".to: True must be of type string"]),
        ({"to": "a", "kind": "noon"}, [".kind: 'noon' must be one of 'day', 'night'"]),
        ({"to": "a", "place": 5}, [".place: 5 does not fit"]),
        ({"to": "a", "place": {"number": 5}}, [".place.street: it is not given"]),
        ({"to": "a", "place": {"street": "s", "number": "x"}}, [".place.number: 'x' must be of type integer"]),
        ({"to": "a", "many": [{}, {"a": "x"}, {"b": 1}]}, [
            ".many[1].a: 'x' must be of type number", ".many[2].b: there is no such field; there is a, places",
        ]),
        ({"to": "a", "many": [{"places": [{"street": None}]}]}, [".many[0].places[0].street: None must be of type"]),
        ({"to": "a", "place": {"street": "${input.street}", "number": "x"}}, []),
        ({"to": "a", "tu": 1}, [": there is no parameter 'tu'; there is kind, many, place, to"]),
    ],
)  # fmt: skip
def test_what_was_announced_is_enough_to_say_what_is_wrong(data, found):
    known = Known(Takes.schema(Task.of(send, name="t").parameters.schema()))
    try:
        Definition({"name": "d", "definition": [{"task": "t", "data": data}]}).compile({"t": known}, lambda name: None)
        told = []
    except DefinitionError as error:
        told = [line.removeprefix("  steps[0].data") for line in str(error).splitlines()[1:]]
    assert len(told) == len(found)
    assert all(said.startswith(expected) for said, expected in zip(told, found, strict=True))
