"""The steps of a DAG as they are given, in code or as data, before anything is checked."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from perdure.authoring.expressions import reference
from perdure.authoring.graphs.binding import Takes, by_name
from perdure.authoring.graphs.nodes import Found
from perdure.authoring.spreading import Bounds, MapSummary
from perdure.authoring.step import Step
from perdure.authoring.workflow import Workflow
from perdure.core.ask import RunIn
from perdure.model.codec import annotations_of
from perdure.model.duration import Duration
from perdure.model.errors import DefinitionError
from perdure.model.retry import Retry


@dataclasses.dataclass(frozen=True, slots=True)
class ByName:
    """A task or workflow that is called by its name.

    Attributes:
        name: of it.
        takes: its parameters; None where they are not known.
        find: returns what is known of it at run time.
    """

    name: str
    takes: Takes | None
    find: Callable[[str], Found | None]


@dataclasses.dataclass(slots=True)
class Draft:
    """A step as it was given; see `DagBuilder.step` and `DagBuilder.map`.

    Attributes:
        at: returns where a field of it stands, for errors.
        retry_fields: which fields of `retry` count, for a task; None for all.
        bounds: of a map, how it is done; None for a step that is none.
    """

    name: str
    calls: Any
    at: Callable[[str], str]
    after: Sequence[str] = ()
    when: Any = None
    when_unmet: str = "skip"
    compensate: Any = None
    compensate_data: Any = None
    data: Any = None
    over: Any = None
    bounds: Bounds | None = None
    retry: Retry | None = None
    retry_fields: AbstractSet[str] | None = None
    timeout: Duration | None = None
    run_in: RunIn | None = None
    tx: bool = False
    queue: str | None = None
    priority: int | None = None
    local_names: Mapping[str, Any] | None = None

    @property
    def where(self) -> str:
        """What errors call it."""
        return self.at("").rstrip(", ")

    @property
    def is_map(self) -> bool:
        """Whether it is for each of many items."""
        return self.bounds is not None


def as_data(takes: Takes, before: AbstractSet[str], draft: Draft) -> tuple[dict[str, str] | str, list[str]]:
    """Return what a step without `data` is called with, as data; and what is wrong."""
    if takes.is_value:
        return "${item}" if draft.is_map else "${input}", []
    given, wrong = by_name(takes, before, "input", in_map=draft.is_map, more=own_names(draft, before))
    written = {}
    for name, source in given.items():
        step = source.removeprefix("steps.") if source.startswith("steps.") else None
        step = draft.name if source == "result" else step
        written[name] = "${" + (reference(step) if step is not None else source) + "}"
    return written, wrong


def own_names(draft: Draft, before: AbstractSet[str]) -> tuple[str, ...]:
    """Return the names that parameters of an undo get something under, beside those of every step."""
    return ("result",) if draft.name in before else ()


def result_type(draft: Draft) -> Any:
    """Return the type of a step's result; Any where that is not known."""
    if draft.bounds is not None:
        return list if draft.bounds.collect else MapSummary
    calls = draft.calls
    if isinstance(calls, Step):
        return calls.spec.result.annotation
    if isinstance(calls, Workflow):
        return calls.result.annotation
    hint = getattr(inspect.unwrap(calls), "__annotations__", {}).get("return", Any) if callable(calls) else Any
    if isinstance(hint, str):
        try:
            hint = annotations_of(inspect.unwrap(calls), "it", draft.local_names).get("return", Any)
        except DefinitionError:
            return Any
    return hint
