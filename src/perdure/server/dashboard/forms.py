"""Forms made of JSON Schemas: a field for each plain value, a group for each object, and JSON for all that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

DEEPEST = 3
"""How deep groups stand inside each other; what is deeper is given as JSON."""

MOST = 60
"""How many fields a group has, and how many choices a field."""

Schema = Mapping[str, Any]
Kind = Literal["text", "long", "integer", "number", "boolean", "choice", "json", "group"]

_TYPES = {"email": "email", "uri": "url", "date": "date", "password": "password"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form.

    Attributes:
        path: where its value goes, as the names that lead there.
        label, about: what it is called, and what is said of it.
        kind: how its text is read.
        is_required: it has to be there.
        value: what it begins with.
        choices: what can be chosen, each as JSON text and as it is shown.
        fields: of a group.
        type: of the `input` element.
        limits: attributes of that element.
    """

    path: tuple[str, ...]
    label: str
    about: str
    kind: Kind
    is_required: bool
    value: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    fields: tuple[Field, ...] = ()
    type: str = "text"
    limits: tuple[tuple[str, str], ...] = ()


def form(schema: Schema, label: str = "Input") -> Field:
    """Return the form of a value.

    Args:
        schema: what it is to be; of an empty one, any JSON.
        label: what it is called.
    """
    return _field(schema, schema.get("$defs", {}), (), label, is_required=True, depth=0)


def _field(
    schema: Schema, definitions: Schema, path: tuple[str, ...], label: str, *, is_required: bool, depth: int
) -> Field:
    about = str(schema.get("description") or "")
    default = schema.get("default", _NONE)
    schema = _resolved(schema, definitions)
    about = about or str(schema.get("description") or "")
    label = str(schema["title"]) if path == () and isinstance(schema.get("title"), str) else label
    choices = _choices(schema)
    value = "" if default is _NONE or default is None else _text(default, is_plain=isinstance(default, str))
    if choices:
        first = "" if default is _NONE else _text(default)
        return Field(path, label, about, "choice", is_required, first, choices)
    kind = schema.get("type")
    if kind == "object" and schema.get("properties") and depth < DEEPEST:
        return _group(schema, definitions, path, label, about, is_required=is_required, depth=depth)
    if kind == "boolean":
        first = "" if default is _NONE else _text(default)
        return Field(path, label, about, "boolean", is_required, first, (("true", "yes"), ("false", "no")))
    if kind in ("integer", "number"):
        return Field(path, label, about, kind, is_required, value, limits=_limits(schema, kind))
    if kind == "string":
        is_long = schema.get("maxLength", 0) > 500
        type_ = _TYPES.get(str(schema.get("format")), "text")
        return Field(
            path, label, about, "long" if is_long else "text", is_required, value, type=type_, limits=_lengths(schema)
        )
    return Field(path, label, about, "json", is_required, "" if default is _NONE else _text(default))


def _group(
    schema: Schema,
    definitions: Schema,
    path: tuple[str, ...],
    label: str,
    about: str,
    *,
    is_required: bool,
    depth: int,
) -> Field:
    required = schema.get("required", ())
    fields = tuple(
        _field(inner, definitions, (*path, name), name, is_required=name in required, depth=depth + 1)
        for name, inner in list(schema["properties"].items())[:MOST]
        if isinstance(inner, Mapping)
    )
    return Field(path, label, about, "group", is_required, fields=fields)


_NONE: Any = object()


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """Return a schema with what it refers to in its place, and the one kind of value it allows beside null."""
    for _ in range(10):
        name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
        if name in definitions:
            schema = definitions[name]
            continue
        parts = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(parts, Sequence):
            real = [part for part in parts if part.get("type") != "null"]
            if len(real) == 1:
                schema = real[0]
                continue
        kinds = schema.get("type")
        if isinstance(kinds, list) and len(real := [kind for kind in kinds if kind != "null"]) == 1:
            schema = {**schema, "type": real[0]}
        break
    return schema


def _choices(schema: Schema) -> tuple[tuple[str, str], ...]:
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if not isinstance(values, list) or not 0 < len(values) <= MOST:
        return ()
    return tuple((_text(value), value if isinstance(value, str) else _text(value)) for value in values)


def _limits(schema: Schema, kind: str) -> tuple[tuple[str, str], ...]:
    found = {"step": "1" if kind == "integer" else "any"}
    for name, limit in (("min", schema.get("minimum")), ("max", schema.get("maximum"))):
        if isinstance(limit, int | float):
            found[name] = str(limit)
    return tuple(found.items())


def _lengths(schema: Schema) -> tuple[tuple[str, str], ...]:
    found = []
    for name, limit in (("minlength", schema.get("minLength")), ("maxlength", schema.get("maxLength"))):
        if isinstance(limit, int):
            found.append((name, str(limit)))
    return tuple(found)


def _text(value: Any, *, is_plain: bool = False) -> str:
    return str(value) if is_plain else msgspec.json.encode(value).decode()
