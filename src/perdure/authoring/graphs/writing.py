"""A DAG that was built in code, written as a definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from perdure.authoring.expressions import reference
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.drafts import Draft, as_data
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.task import Task
from perdure.authoring.workflow import Workflow
from perdure.core.graph import Graph
from perdure.model.codec import Shape
from perdure.model.duration import seconds
from perdure.model.errors import DefinitionError
from perdure.model.retry import Retry


def written(name: str, drafts: Sequence[Draft], output: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a DAG as data.

    Raises:
        DefinitionError: a part of it is a function.
    """
    graph = Graph([(draft.name, draft.after) for draft in drafts])
    definition: dict[str, Any] = {"steps": [_step(draft, graph.before(number)) for number, draft in enumerate(drafts)]}
    if output is not None:
        is_step = isinstance(output, str) and output in graph.names
        definition["output"] = _data(output, "output") if not is_step else "${" + reference(output) + "}"
    if options["input"] is not Any:
        definition["input"] = _schema(options["input"])
    if options["queue"] != "default":
        definition["queue"] = options["queue"]
    version = {"version": options["version"]} if options["version"] else {}
    return {"name": name, **version, "definition": definition}


def _schema(given: Any) -> dict[str, Any]:
    return given.data if isinstance(given, InputSchema) else Shape(given, "the input").schema()


def _step(draft: Draft, before: AbstractSet[str]) -> dict[str, Any]:
    step: dict[str, Any] = {"name": draft.name, **_call(draft, draft.calls, draft.data, before, draft.at(""))}
    step["after"] = list(draft.after)
    if draft.when is not None:
        step["when"] = _data(draft.when, draft.at("when"))
    if draft.when_unmet != "skip":
        step["when_unmet"] = draft.when_unmet
    if draft.bounds is not None:
        over = draft.over
        is_step = isinstance(over, str) and over in before
        step["map"] = {
            "over": "${" + reference(over) + "}" if is_step else _data(over, draft.at("over")),
            "limit": draft.bounds.limit,
            "tolerate": draft.bounds.tolerate,
        }
        if not draft.bounds.collect:
            step["map"]["collect"] = False
    if draft.compensate is not None:
        at = draft.at("compensate")
        step["compensate"] = _call(draft, draft.compensate, draft.compensate_data, before | {draft.name}, at)
    if draft.retry is not None:
        step["retry"] = _retry(draft.retry)
    if draft.timeout is not None:
        step["timeout"] = seconds(draft.timeout)
    for field in ("queue", "priority"):
        if getattr(draft, field) is not None:
            step[field] = getattr(draft, field)
    return step


def _call(draft: Draft, calls: Any, data: Any, before: AbstractSet[str], at: str) -> dict[str, Any]:
    if not isinstance(calls, Workflow):
        raise DefinitionError(f"{at}it calls {calls!r}, which cannot be written as data; make it a task")
    kind = "task" if isinstance(calls, Task) else "workflow"
    if data is None:
        data, _ = as_data(Takes.of(calls), before, draft)
    return {kind: calls.name, "data": _data(data, f"{at}data")}


def _data(given: Any, at: str) -> Any:
    if callable(given):
        raise DefinitionError(f"{at}: {given!r} is a function, which cannot be written as data; use an expression")
    return given


def _retry(retry: Retry) -> dict[str, Any]:
    longest = {} if retry.max_delay is None else {"max_delay": seconds(retry.max_delay)}
    return {
        "attempts": retry.attempts,
        "delay": seconds(retry.delay),
        "backoff": retry.backoff,
        "jitter": retry.jitter,
        **longest,
    }
