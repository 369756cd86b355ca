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

SCHEMA_BYTES = 65_536
"""The length of a JSON Schema that is announced or published, in bytes of JSON."""

WHOLE = ("data", "payload")
"""Names of a parameter that takes all that is given, where it is the only one."""


def input_of(schema: Schema) -> Schema:
    """Return the schema of the object that holds the arguments."""
    return _referred(schema, schema.get("$defs", {}))


def whole(schema: Schema) -> str:
    """Return the name of the one parameter whose object may be given in place of the arguments; empty for none.

    That is one that takes a model, or is called `data` or `payload` and takes anything.
    """
    properties = input_of(schema).get("properties", {})
    if len(properties) != 1:
        return ""
    (name,) = properties
    return name if name in WHOLE or _is_model(properties[name], schema.get("$defs", {})) else ""


def as_arguments(whole: str, given: Any, *, is_optional: bool) -> Any:
    """Return what a workflow is started with as its arguments by name.

    Args:
        whole: the parameter that may be given alone.
        given: that, or an object of the arguments: one with nothing but that parameter's name in it, or an empty one.
        is_optional: the parameter has a default, which an empty object asks for.
    """
    is_by_name = isinstance(given, Mapping) and (set(given) == {whole} or (is_optional and not given))
    return given if is_by_name or not whole else {whole: given}


def _is_model(schema: Schema, definitions: Schema) -> bool:
    """Return whether a schema is of objects with certain fields, or of those and null."""
    schema = _referred(schema, definitions)
    parts = [_referred(part, definitions) for part in schema.get("anyOf", [schema])]
    kinds = [part for part in parts if part.get("type") != "null"]
    return bool(kinds) and all("properties" in part for part in kinds)


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


def misfits(schema: Schema, given: Any, *, is_value: bool) -> list[str]:
    """Return what is wrong with an input, each with its path, from `input`.

    Args:
        schema: of the input.
        given: plain JSON data: an object of the arguments by name, or what `as_arguments` makes one of.
        is_value: the input is one value, as that of a graph is.
    """
    definitions = schema.get("$defs", {})
    try:
        if is_value:
            return list(_misfits(given, schema, definitions, "input"))
        wanted = input_of(schema)
        taken = as_arguments(whole(schema), given, is_optional=not wanted.get("required"))
        if not isinstance(taken, Mapping):
            return [f"input: {_shown(taken)} must be an object of the arguments by name"]
        found = _in_object(taken, wanted, definitions, "input")
        prefix = "input" if taken is given else f"input.{whole(schema)}"
        return ["input" + flaw.removeprefix(prefix) for flaw in found]
    except RecursionError:  # it is nested very deep: whoever reads it will say so, or not
        return []


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
        if name not in value and not _is_tag(properties.get(name, {})):
            yield f"{path}.{name}: it is not given"
    for name, part in value.items():
        if name in properties:
            yield from _misfits(part, properties[name], definitions, f"{path}.{name}")
        elif more is False:
            yield f"{path}.{name}: there is no such field; there is {', '.join(properties) or 'none'}"
        elif isinstance(more, Mapping):
            yield from _misfits(part, more, definitions, f"{path}.{name}")


def _is_tag(schema: Schema) -> bool:
    """Return whether a field says of which kind its object is, which need not be said where there is one kind alone."""
    return len(schema.get("enum", ())) == 1


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
