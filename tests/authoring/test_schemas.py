"""What is announced of a task is enough to refuse what its code would refuse, and never more than that."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import inspect
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from perdure import SerializationError
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.definition import Definition, Known
from perdure.authoring.schemas import as_arguments, flaws, misfits
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


class Flags(enum.Flag):
    READ = 1
    WRITE = 2


class Lenient(enum.Enum):
    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Lenient | None:
        return cls.RED if value == "x" else None


class Listed(msgspec.Struct, array_like=True):
    a: int
    b: str = ""


class Renamed(msgspec.Struct, rename="camel"):
    street_name: str = msgspec.field(name="street")
    number: int = 1


class Pair(NamedTuple):
    a: int
    b: str = ""


class Cat(msgspec.Struct, tag=True):
    a: int


class Dog(msgspec.Struct, tag=True):
    b: str


class Model(pydantic.BaseModel):
    a: int
    b: list[float] = []


Above = Annotated[int, pydantic.Field(ge=1)]
Shorts = list[Annotated[str, pydantic.Field(max_length=2)]]

ANNOTATIONS: list[Any] = [
    str, int, float, bool, None, Any, bytes, list, dict, list[int], dict[str, int], dict[str, list[str]],
    tuple[int, str], tuple[int, ...], set[int], str | None, int | str | None, float | str | Strict | None,
    Literal["a", "b"], Literal[1, 2], Literal["a", 1] | None, Color, Level, dt.datetime, dt.date, dt.timedelta,
    decimal.Decimal, uuid.UUID, Place, Typed, Strict, Cat | Dog, list[Place], Model, list[Model], Model | None,
    dict[str, Model], Flags, Lenient, Lenient | None, Listed, list[Listed], Renamed, Pair, Cat, list[Cat],
    frozenset[str], Annotated[int, msgspec.Meta(ge=1)], Above, Shorts,
    dict[int, str], dict[Literal["a", "b"], int], object, list[object], tuple[Place, ...], msgspec.Raw,
    dict[str, Any], Sequence[int], Mapping[str, Flags],
]  # fmt: skip
DOUBTFUL = (
    object, Lenient, Lenient | None, Above, Shorts, msgspec.Raw, Flags, Any, dt.date, dt.timedelta,
    decimal.Decimal, uuid.UUID, Model, Model | None,
)  # fmt: skip
LEAVES: list[Any] = [
    None, True, False, 0, 1, 2, 3, -3, 1.0, 1.5, "", "a", "red", "1", "1.5", "x", "2026-11-20", "2026-11-20T10:00:00Z",
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


@pytest.mark.parametrize("seed", range(20))
def test_no_input_is_refused_that_the_workflow_would_take(seed):
    """Of functions with some of these parameters, started with more, fewer and other arguments."""
    rnd = random.Random(seed)
    refused = taken = 0
    for _ in range(60):
        names = rnd.sample(["a", "b", "data", "payload", "place"], rnd.randrange(4))
        parameters = sorted(
            (
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    annotation=rnd.choice(ANNOTATIONS),
                    default=rnd.choice([inspect.Parameter.empty, None]),
                )
                for name in names
            ),
            key=lambda each: each.default is None,
        )

        def function(*args: Any) -> None:
            pass

        function.__signature__ = inspect.Signature(parameters)
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        task = Task.of(function, name="t")
        schema = task.input_schema()
        for _ in range(50):
            given: Any = {name: value_of(rnd) for name in names if rnd.random() < 0.9}
            if rnd.random() < 0.3:
                given = rnd.choice([value_of(rnd), {**given, "more": 1}])
            told = misfits(schema, given, is_value=False)
            arguments = as_arguments(task.whole, given, is_optional=not task.is_required)
            try:
                if not isinstance(arguments, Mapping):
                    raise TypeError("no arguments")
                task.parameters.encode((), arguments, 1_000)
            except (SerializationError, TypeError):
                refused += bool(told)
                continue
            taken += 1
            assert told == [], (function.__signature__, given)
    assert min(refused, taken) > 200


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"to": "a"}, []),
        ({}, ["input.to: it is not given"]),
        (5, ["input: 5 must be an object of the arguments by name"]),
        ({"to": 5, "tu": 1}, ["input.to: 5 must be of type string", "input.tu: there is no such field; there is to,"]),
        ({"to": "a", "place": {"number": 5}}, ["input.place.street: it is not given"]),
    ],
)
def test_what_is_wrong_with_an_input_is_told_by_path(given, found):
    told = misfits(Task.of(send, name="t").input_schema(), given, is_value=False)
    assert len(told) == len(found)
    assert all(said.startswith(expected) for said, expected in zip(told, found, strict=True))


def test_the_path_of_a_model_that_is_given_alone_begins_with_it():
    def deliver(place: Place) -> None:
        pass

    schema = Task.of(deliver, name="t").input_schema()
    assert misfits(schema, {"street": "s"}, is_value=False) == []
    assert misfits(schema, {"number": 1}, is_value=False) == ["input.street: it is not given"]
    assert misfits(schema, {"place": {"number": 1}}, is_value=False) == ["input.place.street: it is not given"]


def test_what_is_nested_too_deep_to_look_at_is_left_to_whoever_reads_it():
    value: Any = {}
    for _ in range(5_000):
        value = {"a": value}
    schema = {"$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}}}, "$ref": "#/$defs/A"}
    assert misfits(schema, value, is_value=True) == []


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
