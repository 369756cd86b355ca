"""Values to JSON text, and back to their annotated types."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import json
import sys
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.model import codec
from perdure.model.codec import Parameters, Shape, annotations_of, decode_any, encode, read_json
from perdure.model.errors import DefinitionError, PayloadTooLargeError, SerializationError

LIMIT = 1_048_576
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    quick: bool


class Item(msgspec.Struct):
    sku: str
    count: int = 1


class Money(pydantic.BaseModel):
    cents: int
    currency: str = "EUR"


@dataclasses.dataclass
class Order:
    id: str
    items: list[Item]
    total: Money | None = None
    parent: Order | None = None


class Opaque:
    pass


VALUES = [
    (Any, None),
    (Any, {"a": [1, 2.5, "ü", True, None]}),
    (object, [1, "a"]),
    (dict[str, object], {"a": [1]}),
    (int, 2**62),
    (float, 0.1),
    (str, ""),
    (bytes, b"\x00\xff"),
    (bool, False),
    (None, None),
    (int | None, None),
    (int | str, "5"),
    (list[int], [1, 2]),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "a"}),
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(ge=1)], 1),
    (dt.datetime, MOMENT),
    (dt.date, MOMENT.date()),
    (dt.time, dt.time(1, 2, 3)),
    (dt.timedelta, dt.timedelta(days=1, seconds=2.5)),
    (uuid.UUID, uuid.UUID(int=7)),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (Colour, Colour.RED),
    (Point, Point(1, 2)),
    (Options, {"quick": True}),
    (Item, Item("a", 2)),
    (Item | None, Item("a")),
    (Order, Order("o", [Item("a")], Money(cents=5), Order("p", []))),
    (Money, Money(cents=5)),
    (Money | None, None),
    (Money | None, Money(cents=5)),
    (list[Money], [Money(cents=1), Money(cents=2)]),
    (dict[str, Money], {"a": Money(cents=1)}),
    (Money | int, Money(cents=1)),
    (Money | int, 3),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=str)
def test_a_value_comes_back_as_its_annotated_type(annotation, value):
    shape = Shape(annotation, "the result of f")
    again = shape.decode(encode(value, "the result of f", LIMIT))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=str)
def test_a_type_has_a_json_schema(annotation, value):
    assert isinstance(json.dumps(Shape(annotation, "x").schema()), str)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    )
)
def test_plain_data_comes_back_as_it_was(value):
    text = encode(value, "x", LIMIT)
    assert decode_any(text) == Shape(Any, "x").decode(text) == value


def test_no_payload_is_none():
    assert decode_any(None) is None
    assert Shape(int, "x").decode(None) is None


def test_a_value_without_an_annotation_comes_back_as_plain_data():
    shape = Shape(inspect.Parameter.empty, "x")
    assert shape.native is Any
    assert shape.decode(encode(Item("a"), "x", LIMIT)) == {"sku": "a", "count": 1}


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


class Loose(pydantic.BaseModel):
    inside: Any


@pytest.mark.parametrize(
    "value", [Opaque(), [object()], {(1, 2): 3}, Money, "\ud800", Loose(inside=Opaque()), CIRCLE, len], ids=type
)
def test_a_value_without_a_json_form_is_refused_with_advice(value):
    with pytest.raises(SerializationError, match=r"^the result of f cannot be stored: .*; return plain data"):
        encode(value, "the result of f", LIMIT)


def test_the_size_of_a_value_is_bounded_in_bytes():
    assert encode("ü", "x", 4) == '"ü"'
    with pytest.raises(PayloadTooLargeError, match=r"^x is 4 bytes, over Limits.payload_bytes = 3; store it elsewhere"):
        encode("ü", "x", 3)


@pytest.mark.parametrize(
    ("annotation", "payload", "name"),
    [
        (int, '"a"', "int"),
        (int, "{", "int"),
        (int, "null", "int"),
        (Item, '{"count": 1}', "Item"),
        (Money, '{"cents": "many"}', "Money"),
        (Money | int, '"many"', "Money | int"),
        (list[int], "[1, null]", "list"),
        (Any, "[" * 100_000, "Any"),
    ],
)
def test_a_payload_that_does_not_fit_its_type_says_whose_it_is(annotation, payload, name):
    with pytest.raises(SerializationError, match=rf"^the result of f does not fit .*{name}"):
        Shape(annotation, "the result of f").decode(payload)


@pytest.mark.parametrize("annotation", [Opaque, list[Opaque], dict[str, Opaque | None], Item | Order | Money], ids=str)
def test_a_type_without_a_json_form_is_refused_at_registration(annotation):
    with pytest.raises(DefinitionError, match=r"^f is annotated .*, which cannot be stored: .*; use builtins"):
        Shape(annotation, "f")


def test_a_type_whose_own_annotations_name_nothing_is_refused_with_the_reason(monkeypatch):
    @dataclasses.dataclass
    class Odd:
        value: Missing  # noqa: F821  # what is tested

    for _ in range(2):
        with pytest.raises(DefinitionError, match="cannot be stored: name 'Missing' is not defined in the scope"):
            Shape(Odd, "f")
        monkeypatch.delitem(sys.modules, "pydantic", raising=False)


def test_without_pydantic_such_a_type_is_refused_too(monkeypatch):
    monkeypatch.delitem(sys.modules, "pydantic")
    with pytest.raises(DefinitionError, match="it is neither JSON data nor a model"):
        Shape(Opaque, "f")


def test_a_dataclass_of_pydantic_is_read_by_pydantic():
    @pydantic.dataclasses.dataclass
    class Pair:
        left: Money | int

    again = Shape(Pair, "f").decode('{"left": {"cents": 1}}')
    assert again == Pair(left=Money(cents=1))


def test_the_decoder_refuses_what_registration_would_have_refused():
    with pytest.raises(TypeError, match="type Opaque has no JSON form"):
        codec._from_builtin(Opaque, {})


CONSTRAINED = [
    (pydantic.PositiveInt, 1, 0),
    (Annotated[int, pydantic.Field(gt=0)], 1, 0),
    (list[pydantic.PositiveInt] | None, [1, 2], [1, 0]),
    (Annotated[bytes, pydantic.Field(max_length=2)], b"\xff\x00", b"123"),
    (dict[str, Annotated[str, pydantic.StringConstraints(pattern="^a")]], {"k": "ab"}, {"k": "b"}),
    (Annotated[Money, pydantic.AfterValidator(lambda m: m if m.cents else 1 / 0)], Money(cents=1), None),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), CONSTRAINED, ids=range(len(CONSTRAINED)))
def test_the_constraints_of_pydantic_hold(annotation, good, bad):
    shape = Shape(annotation, "the result of f")
    assert shape.decode(encode(good, "x", LIMIT)) == good
    with pytest.raises(SerializationError, match="^the result of f does not fit "):
        shape.decode(encode(bad, "x", LIMIT))
    assert shape.schema()


@pytest.mark.parametrize(("annotation", "good", "bad"), CONSTRAINED, ids=range(len(CONSTRAINED)))
def test_the_constraints_of_pydantic_hold_for_parameters(annotation, good, bad):
    def f(a, b=None): ...

    shapes = Parameters(inspect.signature(f), {"a": annotation, "b": annotation}, "f")
    assert shapes.decode(shapes.encode([good], {}, LIMIT)) == ([], {"a": good})
    for args in ([bad], [good, bad]):
        with pytest.raises(SerializationError, match="does not fit"):
            shapes.encode(args, {}, LIMIT)


def test_without_pydantic_such_metadata_says_nothing(monkeypatch):
    monkeypatch.delitem(sys.modules, "pydantic")
    assert Shape(Annotated[int, pydantic.Field(gt=0)], "f").decode("0") == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_named_where_it_is_missed(value):
    with pytest.raises(SerializationError, match=r"does not fit float: .*nan and infinity are stored as null"):
        Shape(float, "the result of f").decode(encode(value, "x", LIMIT))
    with pytest.raises(SerializationError, match=r"\$\.a.*nan and infinity are stored as null"):
        parameters(lambda a: None, a=float).encode([value], {}, LIMIT)


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "nonsense", "["])
def test_what_cannot_be_read_as_plain_data_is_said(text):
    with pytest.raises(SerializationError, match="^a stored value cannot be read: "):
        decode_any(text)


def parameters(function: Callable[..., Any], **hints: Any) -> Parameters:
    return Parameters(inspect.signature(function), {**annotations_of(function, "f"), **hints}, "f")


def called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, on their way through a payload."""
    shapes = parameters(function)
    return shapes.decode(shapes.encode(args, kwargs, LIMIT))


def test_arguments_are_stored_by_name():
    def f(a: int, b: Item) -> None: ...

    assert json.loads(parameters(f).encode([1, Item("x")], {}, LIMIT)) == {"a": 1, "b": {"sku": "x", "count": 1}}
    assert json.loads(parameters(f).encode([1], {"b": Item("x")}, LIMIT)) == {"a": 1, "b": {"sku": "x", "count": 1}}
    assert called(f, 1, Item("x")) == ([], {"a": 1, "b": Item("x")})


def test_a_function_without_parameters_has_an_empty_input():
    def f() -> None: ...

    assert parameters(f).encode([], {}, LIMIT) == "{}"
    assert called(f) == ([], {})


def test_a_default_is_not_stored_so_that_newer_code_gives_its_own():
    def f(a: int = 1, *, b: Money | None = None, c: Any = None, d: Money | int = 3) -> None: ...

    assert parameters(f).encode([], {}, LIMIT) == "{}"
    assert called(f) == ([], {})
    assert called(f, 5, b=Money(cents=1), d=Money(cents=2)) == ([], {"a": 5, "b": Money(cents=1), "d": Money(cents=2)})
    assert called(f, b=None, c=None, d=4) == ([], {"b": None, "c": None, "d": 4})


def test_positional_only_parameters_come_back_by_place():
    def f(a: int, b: int = 2, /, c: int = 3) -> None: ...

    assert called(f, 1) == ([1], {})
    assert called(f, 1, 5, 6) == ([1, 5], {"c": 6})


def test_parameters_without_annotations_take_plain_data():
    def f(a, b=1) -> None: ...

    assert called(f, [1, "x"], b={"k": None}) == ([], {"a": [1, "x"], "b": {"k": None}})


@pytest.mark.parametrize("function", [lambda *args: None, lambda **kwargs: None])
def test_every_parameter_needs_a_name(function):
    with pytest.raises(DefinitionError, match=r"^f takes \*\w+; name each parameter"):
        parameters(function)


def test_a_parameter_without_a_json_form_is_refused_by_name():
    def f(a: int, b: Opaque) -> None: ...

    with pytest.raises(DefinitionError, match=r"^f, parameter 'b', is annotated"):
        parameters(f)


@pytest.mark.parametrize(("args", "kwargs"), [([], {}), ([1, 2], {}), ([1], {"a": 1}), ([1], {"z": 1})])
def test_arguments_that_do_not_fit_the_signature_are_a_type_error(args, kwargs):
    def f(a: int) -> None: ...

    with pytest.raises(TypeError, match="^f: "):
        parameters(f).encode(args, kwargs, LIMIT)


def test_arguments_that_do_not_fit_their_annotations_are_refused_at_the_start():
    def f(a: int, b: Money | None = None) -> None: ...

    with pytest.raises(SerializationError, match=r"^the input of f does not fit its parameters: .*\$\.a"):
        parameters(f).encode(["one"], {}, LIMIT)
    with pytest.raises(SerializationError, match=r"^the input of f does not fit its parameters: "):
        parameters(f).encode([1], {"b": {"cents": "many"}}, LIMIT)


def test_a_parameter_that_pydantic_reads_is_checked_at_the_start_and_named():
    def f(a: int | Money) -> None: ...

    for value in ("many", {"cents": "many"}, None):
        with pytest.raises(SerializationError, match=r"^f, parameter 'a', does not fit .*Money"):
            parameters(f).encode([value], {}, LIMIT)
    with pytest.raises(SerializationError, match=r"^f, parameter 'a', does not fit .*Money"):
        parameters(f).decode('{"a": "many"}')


def test_an_input_of_older_code_that_no_longer_fits_is_refused():
    def f(a: int) -> None: ...

    for payload in ('{"a": 1, "gone": 2}', "{}", "[1]", "nonsense", '{"a":' + "[" * 100_000):
        with pytest.raises(SerializationError, match="^the input of f does not fit its parameters"):
            parameters(f).decode(payload)


def test_the_size_of_an_input_is_bounded():
    with pytest.raises(PayloadTooLargeError, match="^the input of f is "):
        parameters(lambda a: None).encode(["x" * 100], {}, 100)


def test_the_schema_of_an_input_names_what_is_required():
    def f(a: int, m: Money, b: str = "x") -> None: ...

    schema = parameters(f).schema()
    defined = schema
    assert sorted(defined["properties"]) == ["a", "b", "m"]
    assert defined["required"] == ["a", "m"]
    assert defined["properties"]["m"]["title"] == "Money"


def test_annotations_are_resolved():
    def f(a: Item, b: Annotated[int, msgspec.Meta(ge=1)]) -> list[Money]: ...

    assert annotations_of(f, "f") == {"a": Item, "b": Annotated[int, msgspec.Meta(ge=1)], "return": list[Money]}


def test_annotations_may_name_classes_of_the_scope_they_were_written_in():
    class Local(msgspec.Struct):
        a: int

    def f(value: Local) -> None: ...

    with pytest.raises(DefinitionError, match=r"^an annotation of f cannot be resolved: .*Local.*; define the type"):
        annotations_of(f, "f")
    assert annotations_of(f, "f", {"Local": Local})["value"] is Local


def test_an_object_of_payloads_keeps_each_as_it_is_spelt():
    assert codec.encode_object({}) == "{}"
    assert codec.encode_object({'a "name"': "1e400", "b": '{"x":[1,2]}'}) == '{"a \\"name\\"":1e400,"b":{"x":[1,2]}}'


def test_json_that_somebody_wrote_is_read():
    assert read_json('{"a": [{"b": 1}, {}, {"b": 2.5}], "b": null}') == {"a": [{"b": 1}, {}, {"b": 2.5}], "b": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": {"b": 1, "c": 2, "b": 1}}]', "'b' is given twice in one object"),
        ("{", "truncated"),
        ("NaN", "invalid"),
        ("[" * 100_000, "recursion|depth"),
    ],
)
def test_json_that_cannot_be_read_or_says_two_things_is_refused(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        read_json(text)
