"""Arguments that are known before a graph runs, and are found wrong before it does: in code and in definitions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from perdure import DefinitionError, UsageError, workflow
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.definition import Definition, Known
from perdure.authoring.task import Task


@dataclass
class Address:
    street: str
    number: int = 1


def check(known: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    if isinstance(known.get("address"), Address) and known["address"].number < 1:
        yield "address.number: it must be above 0"
    if "express" not in given and "parcel" not in given:
        yield "express, parcel: give one of them"


def send(address: Address, express: Literal["day", "night"] | None = None, parcel: int | None = None) -> str:
    return "sent"


def order(data: Address) -> str:
    return "ordered"


TASKS = [Task.of(send, name="send", check=check), Task.of(order, name="order")]
KNOWN = {task.name: Known(Takes.of(task)) for task in TASKS}


def flaws_as_data(step: dict[str, Any]) -> list[str]:
    try:
        Definition({"name": "d", "definition": [step]}).compile(KNOWN, lambda name: None)
    except DefinitionError as error:
        return [line.strip().removeprefix("steps[0]") for line in str(error).splitlines()[1:]]
    return []


def flaws_in_code(task: Task[..., Any], data: Any) -> list[str]:
    try:
        workflow("d").step("s", task, data=data).build()
    except UsageError as error:
        return [line.strip().partition("step 's', ")[2] for line in str(error).splitlines()[1:]]
    return []


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"address": {"street": "a"}, "parcel": 3}, []),
        ({"address": {"street": "${input.street}"}, "parcel": "${input.parcel}"}, []),
        ({"address": {"street": "a"}, "parcel": "x"}, ["data.parcel: it does not fit int | None: Expected"]),
        ({"address": {"street": "a"}, "express": "noon"}, ["data.express: it does not fit "]),
        ({"address": {"number": 1}, "parcel": 3}, ["data.address: it does not fit Address: Object missing required"]),
        (
            {"address": {"street": "a", "number": "one"}, "parcel": "x"},
            ["data.address: it does not fit Address: Expected `int`, got `str` - at `$.number`", "data.parcel: it "],
        ),
        ({"address": {"street": "$${a}", "number": 0}, "parcel": 1}, ["data.address.number: it must be above 0"]),
        ({"address": {"street": "${input.a}", "number": 0}, "parcel": 1}, []),
        ({"address": {"street": "a"}}, ["data.express, parcel: give one of them"]),
        ({"address": {"street": "a"}, "express": "${input.express}"}, []),
        ({"address": {"street": "${"}, "express": 5}, ["data.express: it does", "data.address.street: '${'"]),
    ],
)
def test_what_is_known_is_looked_at_before_anything_runs(data, found):
    told = flaws_as_data({"task": "send", "data": data})
    assert len(told) == len(found)
    for said, expected in zip(told, found, strict=True):
        assert said.startswith(f".{expected}")
    assert flaws_in_code(TASKS[0], data) == [each.removeprefix(".") for each in told]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"street": "a"}, []),
        ({"data": {"street": "a"}}, []),
        ({"street": 7}, ["data: it does not fit Address: Expected `str`, got `int` - at `$.street`"]),
        ("${input}", []),
        ([1], ["data: it does not fit Address: Expected `object`, got `array`"]),
    ],
)
def test_a_task_that_takes_all_of_the_data(data, found):
    assert flaws_as_data({"task": "order", "data": data}) == [f".{each}" for each in found]
    assert flaws_in_code(TASKS[1], data) == found


def test_what_undoes_a_step_is_looked_at_as_well():
    undo = {"task": "order", "data": {"street": 7}}
    (flaw,) = flaws_as_data({"task": "send", "data": {"address": {"street": "a"}, "parcel": 1}, "compensate": undo})
    assert flaw.startswith(".compensate.data: it does not fit Address")


def test_data_that_code_makes_is_not_known():
    assert flaws_in_code(TASKS[0], lambda ctx: {"address": 5}) == []
