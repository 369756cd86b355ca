"""Whatever is given as a definition is compiled or refused with a `DefinitionError`, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import DefinitionError
from perdure.authoring.definition import COMPENSATE, FIELDS, GRAPH, MAP, RETRY, STEP, Definition, data_of

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["a", "b", "${input.a}", "${steps.a}", "${item}", "x ${", "steps.a", "5%", "1m", "skip", "1.5"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def objects(fields: tuple[str, ...], **own: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects of some of these fields, some of them as they should be, and now and then something else."""
    likely = st.fixed_dictionaries({}, optional={name: own.get(name, ANYTHING) | ANYTHING for name in fields})
    return likely | ANYTHING


NAMES = st.sampled_from(["a", "b", "c"])
CALL = {"task": NAMES, "data": st.dictionaries(NAMES, SCALARS, max_size=2)}
STEPS = st.lists(
    objects(
        STEP,
        **CALL,
        name=NAMES,
        after=st.lists(NAMES, max_size=2),
        when=st.sampled_from(["steps.a.x", "input.b > `1`", "!", "item"]),
        retry=objects(RETRY, attempts=st.integers(0, 3), delay=st.integers(-1, 5)),
        map=objects(MAP, limit=st.integers(0, 3), tolerate=st.floats(0, 2)),
        compensate=objects(COMPENSATE, **CALL),
    ),
    max_size=4,
)
DEFINITIONS = objects((*FIELDS, *GRAPH), name=NAMES, steps=STEPS, definition=STEPS | objects(GRAPH, steps=STEPS))


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
    "text", ["name: x\nsteps: [{task: t, data: {d: 2024-01-01}}]", "name: x\nsteps: [{task: .nan}]"]
)
def test_values_that_json_has_not(text: str):
    with pytest.raises(DefinitionError):
        Definition.of_text(text).compile(None, lambda name: None)
