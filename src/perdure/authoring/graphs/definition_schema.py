"""The JSON Schema of definitions, for editors and for whoever writes them by program.

It says what can be said of one field at a time. What depends on other steps, or on the tasks that there are, is
found when a definition is published.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from perdure.authoring.enqueuing import HIGHEST_PRIORITY
from perdure.authoring.expressions import LENGTH
from perdure.authoring.graphs.compiling import STEPS, UNMET
from perdure.authoring.spreading import LIMIT
from perdure.model.limits import NAME_LENGTH
from perdure.model.schema import DIALECT

_NAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH, "pattern": "^[^/#]+$"}
_DURATION: dict[str, Any] = {
    "description": "Seconds, or text such as '30 seconds' or '1h 30m'.",
    "oneOf": [{"type": "number", "minimum": 0}, {"type": "string"}],
}
_DATA: dict[str, Any] = {
    "description": "Its arguments by name. '${input.customer}' and '${steps.orders.total}' stand for values."
}
_UNDERSCORE = re.compile(r"_([a-z])")


def definition_schema() -> dict[str, Any]:
    """Return the schema, as JSON data."""
    steps = {"type": "array", "minItems": 1, "maxItems": STEPS, "items": {"$ref": "#/$defs/step"}}
    graph = {
        "steps": steps,
        "queue": _NAME,
        "output": {"description": "What the result is made of; see data."},
        "input": {
            "description": "JSON Schema (2020-12) of the input. Properties that are not given get their defaults.",
            "$ref": DIALECT,
            "type": "object",
        },
    }
    top = {
        "name": _NAME,
        "version": {"description": "By default a hash of the content.", "type": ["string", "integer"]},
        "description": {"type": "string"},
        "definition": {"oneOf": [steps, _object(graph, ["steps"])]},
    }
    return {
        "$schema": DIALECT,
        "title": "A Perdure workflow as data",
        **_object({**top, **graph}, ["name"]),
        "oneOf": [{"required": ["definition"]}, {"required": ["steps"]}],
        "$defs": {"step": _step()},
    }


def schema_text() -> str:
    """Return the schema as text, the way it is published."""
    return msgspec.json.format(msgspec.json.encode(definition_schema()), indent=2).decode() + "\n"


def _step() -> dict[str, Any]:
    call = {"task": _NAME, "task_name": _NAME, "workflow": _NAME, "data": _DATA}
    one_call = [{"required": [field]} for field in ("task", "taskName", "task_name", "workflow")]
    spread = {
        "over": {"description": "The items: a list, or a reference to one."},
        "limit": {"description": "How many are under way at once.", "type": "integer", "minimum": 1, "default": LIMIT},
        "tolerate": {
            "description": "How many may fail: a number, or a share such as 0.05 or '5%'.",
            "oneOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9.]+ ?%$"}],
        },
        "collect": {
            "description": "Whether it gives the results of all items, or only counts them.",
            "type": "boolean",
            "default": True,
        },
    }
    retry = {
        "attempts": {"type": "integer", "minimum": 1},
        "delay": _DURATION,
        "backoff": {"enum": ["constant", "linear", "exponential"]},
        "max_delay": _DURATION,
        "jitter": {"type": "number", "minimum": 0, "maximum": 1},
    }
    unmet = {"description": "What becomes of the steps behind it where `when` does not hold.", "enum": list(UNMET)}
    undo = {**_object(call, []), "oneOf": one_call}
    fields = {
        **call,
        "name": {**_NAME, "description": "By default that of the task."},
        "after": {
            "description": "What it comes after; by default the step before it in the list.",
            "oneOf": [_NAME, {"type": "array", "items": _NAME}],
        },
        "when": {"description": "A JMESPath expression.", "type": "string", "minLength": 1, "maxLength": LENGTH},
        "when_unmet": unmet,
        "on_unmet": unmet,
        "retry": _object(retry, []),
        "timeout": _DURATION,
        "queue": _NAME,
        "priority": {"type": "integer", "minimum": -HIGHEST_PRIORITY, "maximum": HIGHEST_PRIORITY},
        "map": _object(spread, ["over"]),
        "compensate": {"description": "What undoes it.", "oneOf": [_NAME, undo]},
    }
    return {**_object(fields, []), "oneOf": one_call}


def _object(fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Return the schema of an object whose fields can be written in either spelling."""
    properties: dict[str, Any] = {}
    for name, schema in fields.items():
        properties[name] = schema
        properties[_UNDERSCORE.sub(lambda match: match.group(1).upper(), name)] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
