"""Whether values can be what a JSON Schema says, of a task that is known by what its workers have announced.

In doubt they can: a schema says less than the code that reads the value, and models of other libraries convert what
they are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

_KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": Mapping,
}

Schema = Mapping[str, Any]


def input_of(schema: Schema) -> Schema:
    """Return the schema of the object that holds the arguments."""
    return _referred(schema, schema.get("$defs", {}))


def flaws(schema: Schema, known: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with arguments, each with its path; see `perdure.authoring.workflow.Check`.

    Args:
        schema: of the input.
        known: arguments that are known already, as JSON data by name.
        given: the names of all arguments.
    """
    definitions = schema.get("$defs", {})
    properties = input_of(schema).get("properties", {})
    for name, value in known.items():
        if name in properties:
            yield from _misfits(value, properties[name], definitions, name)


def _misfits(value: Any, schema: Schema, definitions: Schema, path: str) -> Iterator[str]:
    if "title" in schema:  # a model of another library; what a reference leads to has one, too
        return
    schema = _referred(schema, definitions)
    if "anyOf" in schema:
        found = [list(_misfits(value, part, definitions, path)) for part in schema["anyOf"]]
        if all(found):
            close = [flaws for flaws in found if not flaws[0].startswith(f"{path}: ")]  # of the right kind, but inside
            yield from close[0] if len(close) == 1 else [f"{path}: {_shown(value)} does not fit"]
    elif "enum" in schema:
        if value not in schema["enum"]:
            yield f"{path}: {_shown(value)} must be one of {', '.join(map(repr, schema['enum']))}"
    elif not _is(value, schema):
        yield f"{path}: {_shown(value)} must be of type {schema['type']}"
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for number, item in enumerate(value):
            yield from _misfits(item, schema["items"], definitions, f"{path}[{number}]")
    elif isinstance(value, Mapping):
        yield from _in_object(value, schema, definitions, path)


def _in_object(value: Mapping[str, Any], schema: Schema, definitions: Schema, path: str) -> Iterator[str]:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name}: it is not given"
    for name, part in value.items():
        if name in properties:
            yield from _misfits(part, properties[name], definitions, f"{path}.{name}")
        elif more is False:
            yield f"{path}.{name}: there is no such field; there is {', '.join(properties)}"
        elif isinstance(more, Mapping):
            yield from _misfits(part, more, definitions, f"{path}.{name}")


def _is(value: Any, schema: Schema) -> bool:
    kind = _KINDS.get(schema.get("type", ""), object)
    if "format" in schema:
        return True
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, kind) or (kind is int and isinstance(value, float) and value.is_integer())


def _referred(schema: Schema, definitions: Schema) -> Schema:
    found: Schema = definitions.get(str(schema.get("$ref", "")).removeprefix("#/$defs/"), schema)
    return found


def _shown(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "..."
