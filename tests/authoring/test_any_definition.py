"""Whatever is given as a definition is compiled or refused with a `DefinitionError`, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import DefinitionError
from perdure.authoring.graphs.definition import GRAPH, MAP, Definition, data_of

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["a", "b", "${input.a}", "${steps.a}", "${item}", "x ${", "steps.a", "5%", "1m", "skip", "1.5"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def mostly(likely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What it should be, and now and then something else."""
    return st.integers(0, 40).flatmap(lambda n: ANYTHING if n == 0 else likely)


def objects(fields: tuple[str, ...], needed: tuple[str, ...] = (), **own: st.SearchStrategy[Any]) -> Any:
    """Objects of some of these fields, and of those that are needed."""
    known = {name: mostly(own.get(name, ANYTHING)) for name in fields}
    optional = {name: strategy for name, strategy in known.items() if name not in needed}
    return mostly(st.fixed_dictionaries({name: known[name] for name in needed}, optional=optional))


NAMES = st.sampled_from(["a", "b", "c"])
DATA = st.dictionaries(NAMES, SCALARS, max_size=2)
RETRIES = {"attempts": st.integers(1, 3), "delay": st.integers(0, 5), "jitter": st.floats(0, 1)}
STEP_FIELDS = ("task", "name", "data", "after", "when", "retry", "map", "compensate", "priority", "queue", "on_unmet")
STEPS = st.lists(
    objects(
        STEP_FIELDS,
        ("task",),
        task=NAMES,
        name=st.sampled_from("abcdefgh"),
        data=DATA,
        after=st.lists(NAMES, max_size=1),
        when=st.sampled_from(["steps.a.x", "input.b > `1`", "input", "item"]),
        retry=objects(("attempts", "delay", "jitter"), **RETRIES),
        map=objects(MAP, ("over",), over=st.just([1]), limit=st.integers(1, 3), tolerate=st.floats(0, 1)),
        compensate=NAMES | objects(("task", "data"), ("task",), task=NAMES, data=DATA),
        priority=st.integers(),
        queue=NAMES,
        on_unmet=st.sampled_from(["skip", "skip-cascade"]),
    ),
    min_size=1,
    max_size=4,
)
INNER = {"steps": STEPS, "queue": NAMES, "output": st.sampled_from(["a", "${steps.a}", "${input}"])}
DEFINITIONS = objects(("name", "version", "definition"), ("name", "definition"), name=NAMES, version=st.integers(),
                      definition=STEPS | objects(GRAPH, ("steps",), **INNER))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(DEFINITIONS)
def test_any_data(data: Any):
    try:
        definition = Definition(data)
        dag = (
            definition.compile({}, lambda name: None) if definition.found else definition.compile(None, lambda n: None)
        )
    except DefinitionError:
        return
    stored = definition.stored(dag, 1)
    again = Definition.of_stored(stored).compile(None, lambda name: None)
    assert json.loads(again.to_json()) == json.loads(dag.to_json())


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="{}[]:,-&*!|>'\"\n abc019#%@`?<", max_size=60))
def test_any_text(text: str):
    try:
        data_of(text)
    except DefinitionError:
        pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{d: 2024-01-01}", r"steps\[0\].data.d: datetime.date\(2024, 1, 1\) is no JSON data"),
        ("{d: [.nan]}", r"steps\[0\].data.d\[0\]: nan is no JSON data"),
        ("{d: -.inf}", r"steps\[0\].data.d: -inf is no JSON data"),
        ("{d: {1: a}}", r"steps\[0\].data.d: the field 1 must be text; put it in quotes"),
        ("!!binary aGk=", r"steps\[0\].data: b'hi' is no JSON data"),
        ("\ud800", "cannot be read"),
    ],
)
def test_values_that_json_has_not(value: str, said: str):
    with pytest.raises(DefinitionError, match=said):
        Definition.of_text(f"name: x\nsteps: [{{task: t, data: {value}}}]").compile(None, lambda name: None)


def test_text_that_cannot_be_stored_in_data_that_was_no_text():
    with pytest.raises(DefinitionError, match="surrogates not allowed"):
        Definition({"name": "x", "steps": [{"task": "t", "data": {"d": "\ud800"}}]}).compile(None, lambda name: None)
