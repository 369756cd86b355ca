"""The JSON Schema of a definition's input: checked when it is published, and asked of each input when a run is started.

A schema may come from anybody who may publish, and an input from anybody who may start a run. So a schema is bounded,
refers to nothing outside itself, and looking at an input spends a budget; see also `perdure.authoring.patterns`.
`format` says something to people, and is not checked.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

import referencing

from perdure.authoring.expressions import FlawsError
from perdure.authoring.patterns import bounds
from perdure.authoring.schemas import SCHEMA_BYTES
from perdure.model import codec
from perdure.model.errors import PayloadTooLargeError, SerializationError, UsageError
from perdure.model.schema import DIALECT

DEPTH = 50
"""How deep a schema may be nested."""

WORK = 2_000_000
"""How much work looking at one input may be: keywords and values looked at; some seconds."""

MATCHES = 10
"""How many texts of the greatest length may be matched against patterns for one input."""

FLAWS_TOLD = 20
"""How much of what is wrong with an input is told."""

_KEYWORD = 5  # the work of one keyword, beside that of what it holds
_REFERENCE = 50
_DATA = ("default", "const", "enum", "examples")
_ELSEWHERE = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
_PATTERNED = ("pattern", "patternProperties", "additionalProperties", "unevaluatedProperties")

_left: ContextVar[int] = ContextVar("perdure.input_schema.left")


class InputSchema:
    """A schema of what a graph takes.

    Args:
        schema: as JSON data (2020-12).
        is_stored: it was checked when it was published.

    Attributes:
        data: the schema.

    Raises:
        FlawsError: it is no schema, or none that can be used here; each flaw with its path, from `input`.
    """

    def __init__(self, schema: object, *, is_stored: bool = False) -> None:
        if not isinstance(schema, Mapping):
            raise FlawsError([f"input: {_shown(schema)} must be a JSON Schema: an object"])
        try:
            text = codec.encode(schema, "it", SCHEMA_BYTES)
        except PayloadTooLargeError:
            raise FlawsError([f"input: the schema is longer than {SCHEMA_BYTES:,} bytes"]) from None
        except SerializationError as error:
            raise FlawsError([f"input: it is no JSON data: {error}"]) from None
        self.data: dict[str, Any] = codec.decode_any(text)
        if not is_stored:
            self._check()

    @functools.cached_property
    def _validator(self) -> Any:
        return _kind()(self.data, registry=referencing.Registry())  # one that fetches nothing

    def taken(self, value: Any, what: str) -> Any:
        """Return an input with the defaults of properties that are not given, if it fits.

        A default is taken as it is: nothing is filled in inside it.

        Args:
            value: plain JSON data.
            what: whose input it is, for the error.

        Raises:
            SerializationError: it does not fit; everything that is wrong is told with its path, up to a bound.
        """
        if not self.data.keys() - {"$schema"}:
            return value
        found: list[str] = []
        with _metering(found, "input"):
            value = self._filled(self.data, value)
            found += self._misfits(self._validator, value)
        if found:
            raise SerializationError(f"the input of {what} does not fit its schema: {'; '.join(found)}", found)
        return value

    def excludes(self, names: list[str]) -> str:
        """Return which property on a path from the input there cannot be, and what else there is; empty for none."""
        schema: Any = self.data
        path = "input"
        for name in names:
            schema = self._referred(schema)
            path += f".{name}"
            properties = schema.get("properties", {})
            if name in properties:
                schema = properties[name]
            elif schema.get("additionalProperties") is False and not schema.get("patternProperties"):
                return f"{path}, which the schema of the input excludes; {_advice(name, properties)}"
            else:
                return ""
        return ""

    # The schema itself.

    def _check(self) -> None:
        found = list(self._flaws(self.data, "input", 0))
        if not found:
            found = [f"{_path(error)}: {error.message}" for error in _of_schema(self.data)]
        if not found:
            found = list(self._flaws_of_defaults())
        if found:
            raise FlawsError(found)

    def _flaws(self, schema: Any, path: str, depth: int) -> Iterator[str]:
        if depth > DEPTH:
            yield f"{path}: the schema is nested deeper than {DEPTH}"
        elif isinstance(schema, list):
            for number, part in enumerate(schema):
                yield from self._flaws(part, f"{path}[{number}]", depth + 1)
        elif isinstance(schema, Mapping):
            for name, part in schema.items():
                where = f"{path}.{name}"
                try:
                    self._require_usable(name, part)
                except UsageError as error:
                    yield f"{where}: {error}"
                if name not in _DATA or _is_named(path):
                    yield from self._flaws(part, where, depth + 1)

    def _require_usable(self, name: str, part: Any) -> None:
        if name == "pattern" and isinstance(part, str):
            bounds(part)
        elif name == "patternProperties" and isinstance(part, Mapping):
            for pattern in part:
                bounds(str(pattern))
        elif name in _ELSEWHERE and isinstance(part, str | bool):
            raise UsageError("a schema here has no names of its own; use $defs, and $ref with '#/$defs/...'")
        elif name == "$schema" and isinstance(part, str) and part.rstrip("#") != DIALECT:
            raise UsageError(f"{_shown(part)} must be {DIALECT!r}, or left out")
        elif name == "$ref" and isinstance(part, str):
            self._target(part)

    def _flaws_of_defaults(self) -> Iterator[str]:
        for path, schema in _properties(self.data, "input"):
            if isinstance(schema, Mapping) and "default" in schema:
                found: list[str] = []
                with _metering(found, "it"):
                    found += self._misfits(self._validator.evolve(schema=schema), schema["default"])
                yield from (f"{path}.default: {flaw.partition(': ')[2]}" for flaw in found)

    def _target(self, reference: str) -> Any:
        """Return what a reference within the schema refers to."""
        if reference != "#" and not reference.startswith("#/"):
            raise UsageError(f"{_shown(reference)} leads out of the schema; use $defs, and '#/$defs/...'")
        found: Any = self.data
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping | bool):
            raise UsageError(f"{_shown(reference)} leads to no schema")
        return found

    # Inputs.

    def _referred(self, schema: Any) -> Mapping[str, Any]:
        for _ in range(DEPTH):
            if not isinstance(schema, Mapping) or "$ref" not in schema or "properties" in schema:
                break
            schema = self._target(schema["$ref"])
        return schema if isinstance(schema, Mapping) else {}

    def _filled(self, schema: Any, value: Any) -> Any:
        """Return a value with the defaults of properties that are not given."""
        if not isinstance(schema, Mapping) or not isinstance(value, dict | list):
            return value
        _spend(_KEYWORD + len(schema) + len(value))
        if "$ref" in schema:
            value = self._filled(self._target(schema["$ref"]), value)
        for part in schema.get("allOf", ()):
            value = self._filled(part, value)
        if isinstance(value, list):
            return [self._filled(schema.get("items"), item) for item in value]
        filled = dict(value)
        for name, part in schema.get("properties", {}).items():
            if name in filled:
                filled[name] = self._filled(part, filled[name])
            elif "default" in (about := {**self._referred(part), **(part if isinstance(part, Mapping) else {})}):
                filled[name] = about["default"]
        return filled

    def _misfits(self, validator: Any, value: Any) -> list[str]:
        errors = islice(validator.iter_errors(value), FLAWS_TOLD)
        told = dict.fromkeys(flaw for error in errors for flaw in _told(error))
        return list(told)[:FLAWS_TOLD]


def _properties(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every property of a schema, with its path."""
    if isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from _properties(part, f"{path}[{number}]")
    elif isinstance(schema, Mapping):
        for name, part in schema.items():
            if name == "properties" and isinstance(part, Mapping):
                yield from ((f"{path}.{name}.{each}", about) for each, about in part.items() if about)
            if name not in _DATA or _is_named(path):
                yield from _properties(part, f"{path}.{name}")


def _is_named(path: str) -> bool:
    """Return whether what is below a path are names that somebody has chosen."""
    return path.endswith((".properties", ".$defs"))


def _told(error: Any) -> Iterator[str]:
    """Yield what an error says, with the path of the value."""
    error = _library().exceptions.best_match([error])  # of alternatives, what fits best
    path, value, wanted = _path(error), error.instance, error.validator_value
    if error.validator == "required":
        yield from (f"{path}.{name}: it is not given" for name in wanted if name not in value)
    elif error.validator == "additionalProperties" and wanted is False and "patternProperties" not in error.schema:
        known = error.schema.get("properties", {})
        yield from (
            f"{path}.{name}: there is no such property; {_advice(name, known)}" for name in value if name not in known
        )
    elif error.validator == "type":
        kinds = " or ".join([wanted] if isinstance(wanted, str) else wanted)
        yield f"{path}: {_shown(value)} must be of type {kinds}"
    elif error.validator == "enum":
        yield f"{path}: {_shown(value)} must be one of {_shown(wanted)[1:-1]}"
    else:
        yield f"{path}: {error.message.replace(repr(value), _shown(value))[:300]}"


def _path(error: Any) -> str:
    return "input" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)


def _advice(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there is {', '.join(list(known)[:10]) or 'none'}"


def _shown(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "..."


# The library: it takes long to load, and only definitions with a schema need it.


@functools.cache
def _library() -> Any:
    import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415  # see above

    return jsonschema


@functools.cache
def _kind() -> Any:
    """Return the library's class of validators, with a budget."""
    library = _library()
    kind = library.Draft202012Validator
    known = {**kind.VALIDATORS, "uniqueItems": _unique}
    return library.validators.extend(kind, {name: _metered(name, check) for name, check in known.items()})


def _of_schema(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what is wrong with a schema."""
    kind = _library().Draft202012Validator
    return islice(kind(kind.META_SCHEMA).iter_errors(schema), FLAWS_TOLD)


def _metered(name: str, check: Callable[..., Any]) -> Callable[..., Any]:
    def metered(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        _spend(
            (_REFERENCE if name == "$ref" else _KEYWORD)
            + sum(len(each) for each in (wanted, value) if isinstance(each, dict | list))
        )
        if name in _PATTERNED:
            _spend_on_patterns(name, wanted, value, schema)
        yield from check(validator, wanted, value, schema) or ()

    return metered


def _spend_on_patterns(name: str, wanted: Any, value: Any, schema: Mapping[str, Any]) -> None:
    """Spend what matching texts against patterns may take; refuse texts that are too long for that."""
    texts = [value] if name == "pattern" else value if isinstance(value, dict) else ()
    patterns = [wanted] if name == "pattern" else schema.get("patternProperties", ())
    for pattern in patterns:
        about = bounds(pattern)
        for text in texts:
            if isinstance(text, str):
                if len(text) > about.longest:
                    raise UsageError(
                        f"{_shown(text)} is longer than the {about.longest:,} characters that pattern {pattern!r} is "
                        "matched against at most"
                    )
                _spend(1 + int(about.share(len(text)) * WORK / MATCHES))


def _unique(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    if wanted and isinstance(value, list) and len({_frozen(item) for item in value}) < len(value):
        yield _library().ValidationError(f"{value!r} has non-unique elements")


def _frozen(value: Any) -> Any:
    """Return something that is equal and has a hash."""
    _spend(1)
    if isinstance(value, dict):
        return frozenset((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return (_frozen, value) if isinstance(value, bool) else value  # which would be equal to 0 or 1


@contextmanager
def _metering(found: list[str], path: str) -> Iterator[None]:
    """Give a block a budget; what exceeds it, or the depth of Python's stack, is found wrong."""
    token = _left.set(WORK)
    try:
        yield
    except RecursionError:
        found.append(f"{path}: it is nested too deep, or its schema refers to itself without end")
    except UsageError as error:
        found.append(f"{path}: {error}")
    finally:
        _left.reset(token)


def _spend(work: int) -> None:
    left = _left.get(WORK) - work
    _left.set(left)
    if left < 0:
        raise UsageError(f"checking it takes more work than {WORK:,}")
