"""JSON Schemas (2020-12) of annotations: what msgspec says, with what models of other libraries say of themselves.

Each model of another library comes with definitions of its own. They are put together into one document, whose
references all mean that document, so that whoever reads it needs no base addresses.

A schema that belongs to another library carries a title where it is used: such a library may convert what it is given,
so that a value which its schema does not allow may be taken all the same.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_REFERENCE = "#/$defs/"
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
_DATA = frozenset({"default", "const", "enum", "examples"})

Schema = dict[str, Any]


class Bundle:
    """Schemas that share one set of definitions.

    Attributes:
        definitions: by name; they go under `$defs` of the document.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._as_given: dict[str, Any] = {}

    def document(self, schema: Schema) -> Schema:
        """Return a schema of this bundle with the definitions that it may refer to."""
        return {**schema, "$defs": self.definitions} if self.definitions else schema

    def add(self, schema: Mapping[str, Any]) -> Schema:
        """Return a schema that stands by itself as one whose references mean this bundle."""
        given = schema.get("$defs", {})
        names = self._names_for(given)
        fresh = {name: given[own] for own, name in names.items() if name not in self._as_given}
        self._as_given |= fresh
        for name, each in fresh.items():
            self.definitions[name] = self._moved(each, names)
        return self._moved({key: part for key, part in schema.items() if key != "$defs"}, names)

    def _names_for(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return free names for definitions, or those under which the same ones are here already."""
        number, names = 1, {name: name for name in given}
        while any(self._as_given.get(name, given[own]) != given[own] for own, name in names.items()):
            number += 1
            names = {own: f"{own}-{number}" for own in given}
        return names

    def _moved(self, schema: Mapping[str, Any], names: Mapping[str, str]) -> Schema:
        if "$defs" in schema:
            return self.add(schema)
        moved: Schema = {}
        for key, part in schema.items():
            if key == "$ref":
                moved[key] = _renamed(part, names)
            elif key == "discriminator" and isinstance(part, Mapping):
                mapping = {name: _renamed(each, names) for name, each in part.get("mapping", {}).items()}
                moved[key] = {**part, "mapping": mapping}
            elif key in _NAMED:
                moved[key] = {name: self._part(each, names) for name, each in part.items()}
            else:
                moved[key] = part if key in _DATA else self._part(part, names)
        return moved

    def _part(self, part: Any, names: Mapping[str, str]) -> Any:
        if isinstance(part, Mapping):
            return self._moved(part, names)
        return [self._part(each, names) for each in part] if isinstance(part, list) else part


def schema_of(annotation: object, adapter: Any = None, *, is_output: bool = False) -> Schema:
    """Return the schema of a type, which stands by itself; an empty one where nothing is known of it.

    Args:
        annotation: the type.
        adapter: what reads it in msgspec's place, if anything does.
        is_output: it is about what is written, which in some libraries is another thing than what is read.
    """
    if adapter is not None:
        return _said(lambda: adapter.json_schema(**_mode(is_output)))
    schema = _said(
        lambda: msgspec.json.schema(annotation, schema_hook=lambda kind: _of_model(kind, is_output=is_output))
    )
    named = [each for each in schema.get("$defs", {}).values() if "enum" in each]
    known = _open_enums(annotation) if named else set()
    for each in named:
        if each.get("title") in known:
            each["examples"] = each.pop("enum")
    return schema


def classes_in(info: object, what: type[msgspec.inspect.Type], seen: set[int]) -> Iterator[type]:
    """Walk a type's description and yield the classes of one kind in it.

    Args:
        info: what msgspec says of the type.
        what: the kind, as msgspec describes it.
        seen: what was walked before.
    """
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, what):
        yield info.cls  # type: ignore[attr-defined]  # the kinds that are asked for have it
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in info.__struct_fields__:
            yield from classes_in(getattr(info, name), what, seen)
    elif isinstance(info, tuple):
        for part in info:
            yield from classes_in(part, what, seen)


def _open_enums(annotation: object) -> set[str]:
    """Return the names of the enumerations in a type that take further values than they list, as one of flags does."""
    every: Iterator[Any] = classes_in(msgspec.inspect.type_info(annotation), msgspec.inspect.EnumType, set())
    closed: Any = enum.Enum._missing_
    return {each.__name__ for each in every if each._missing_.__func__ is not closed.__func__}


def _of_model(kind: type, *, is_output: bool) -> Schema:
    if kind is object:
        return {"description": "any value"}
    schema = _said(lambda: kind.model_json_schema(**_mode(is_output, kind)))  # type: ignore[attr-defined]  # pydantic's
    return {**schema, "title": schema.get("title", kind.__name__)}


def _mode(is_output: bool, kind: object = None) -> dict[str, Any]:
    if not is_output:
        return {"mode": "validation"}
    return {"mode": "serialization", "by_alias": bool(getattr(kind, "model_config", {}).get("serialize_by_alias"))}


def _said(say: Any) -> Schema:
    """Return what a library says of a type; nothing where it cannot, since no run depends on it."""
    try:
        return dict(say())
    except Exception:
        return {}


def _renamed(reference: Any, names: Mapping[str, str]) -> Any:
    name = str(reference).removeprefix(_REFERENCE)
    return _REFERENCE + names[name] if name in names else reference
