"""Values to JSON text and back to their annotated types: the only place that knows how a payload is spelt.

A value always goes through here before workflow code sees it, the first time too, so that a first run and a replay
hand out the same thing.
"""

from __future__ import annotations

import inspect
import json
import sys
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.model.encryption import refuse_unreadable
from perdure.model.errors import DefinitionError, PayloadTooLargeError, SerializationError, UsageError
from perdure.model.schema import Bundle, classes_in, schema_of

DEFAULT_BYTES = 1_000
"""The length of a default that a JSON Schema tells, in bytes of JSON."""

_ANY = msgspec.json.Decoder()
_NO_FORM = "it is neither JSON data nor a model"
_CONSTRAINERS = {"annotated_types", "pydantic"}


def _to_builtin(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    raise TypeError(f"an object of type {type(value).__qualname__} has no JSON form")


def _from_builtin(kind: type, value: object) -> object:
    if kind is object:
        return value
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"type {kind.__qualname__} has no JSON form")
    return validate(value)


_ENCODER = msgspec.json.Encoder(enc_hook=_to_builtin)


def encode(value: object, what: str, limit: int) -> str:
    """Return a value as JSON text.

    Args:
        value: what msgspec can encode (builtins, dataclasses, TypedDict, Struct, datetime, UUID, Decimal, Enum, bytes)
            or pydantic models.
        what: what the value is, for the error.
        limit: the greatest length, in bytes.

    Raises:
        SerializationError: the value has no JSON form. PayloadTooLargeError: it is longer than `limit`.
    """
    try:
        encoded = _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise SerializationError(f"{what} cannot be stored: {error}; return plain data, or annotate a model") from error
    if len(encoded) > limit:
        raise PayloadTooLargeError(
            f"{what} is {len(encoded):,} bytes, over Limits.payload_bytes = {limit:,}; "
            "store it elsewhere and pass a reference, or raise the limit"
        )
    return encoded.decode()


def encode_object(payloads: Mapping[str, str]) -> str:
    """Return the JSON text of an object whose values are payloads already."""
    return _ENCODER.encode({name: msgspec.Raw(payload.encode()) for name, payload in payloads.items()}).decode()


def decode_any(text: str | None) -> Any:
    """Return the plain JSON value of a payload; None for no payload.

    Raises:
        SerializationError: the payload is no JSON, or is nested too deep. DecryptionError: it cannot be decrypted.
    """
    try:
        return None if text is None else _ANY.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        refuse_unreadable(text)
        raise SerializationError(f"a stored value cannot be read: {error}") from error


def read_json(text: str) -> Any:
    """Return the value of a JSON text that somebody wrote.

    Raises:
        ValueError: it cannot be read, or has a name twice in one object, of which one would be lost without a word.
    """

    def look_at(pairs: list[tuple[str, Any]]) -> None:
        name, count = max(Counter(name for name, _ in pairs).items(), key=lambda item: item[1], default=("", 0))
        if count > 1:
            raise ValueError(f"{name!r} is given twice in one object")

    try:
        value = _ANY.decode(text)
        json.loads(text, object_pairs_hook=look_at)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return value


class Shape:
    """How values of one annotation are read back.

    Args:
        annotation: the type; `inspect.Parameter.empty` and `Any` mean plain JSON values.
        what: whose annotation it is, for errors.

    Attributes:
        native: what msgspec is to read: the annotation, or Any where only pydantic knows it.

    Raises:
        DefinitionError: values of that type have no JSON form.
    """

    def __init__(self, annotation: object, what: str) -> None:
        self.annotation = Any if annotation is inspect.Parameter.empty else annotation
        self.what = what
        self._adapter: Any = None
        self.native: object = self.annotation
        misfit = self._misfit()
        if misfit or _is_constrained(self.annotation):
            self._adapter = _pydantic_adapter(self.annotation, what, misfit)
        if misfit:
            self.native = Any
        self._decode = msgspec.json.Decoder(self.native, dec_hook=_from_builtin).decode

    @property
    def is_adapted(self) -> bool:
        """Whether pydantic has a part in reading the values."""
        return self._adapter is not None

    def decode(self, text: str | None) -> Any:
        """Return the value of a payload.

        Raises:
            SerializationError: the payload does not fit the type. DecryptionError: it cannot be decrypted.
        """
        if text is None:
            return None
        try:
            value = self._decode(text)
            return self._adapter.validate_python(value) if self._adapter else value
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            refuse_unreadable(text)
            raise SerializationError(f"{self.what} does not fit {self._name()}: {error}{_hint(error)}") from error

    def adapt(self, value: object) -> Any:
        """Return what msgspec has read as pydantic sees it.

        Raises:
            SerializationError: it does not fit the type.
        """
        try:
            return self._adapter.validate_python(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"{self.what} does not fit {self._name()}: {error}") from error

    def schema(self, bundle: Bundle | None = None, *, is_output: bool = False) -> dict[str, Any]:
        """Return the JSON Schema of the type.

        Args:
            bundle: what takes its definitions; without one, they come with it.
            is_output: it is about what is written.
        """
        said = schema_of(self.annotation, self._adapter, is_output=is_output)
        if bundle is not None:
            return bundle.add(said)
        bundle = Bundle()
        return bundle.document(bundle.add(said))

    def _misfit(self) -> str:
        """Return why msgspec cannot read the type; empty when it can."""
        try:
            info = msgspec.inspect.type_info(self.annotation)
            msgspec.json.Decoder(self.annotation, dec_hook=_from_builtin)
        except NameError as error:
            return f"{error} in the scope that its own annotations are read in"
        except (TypeError, ValueError):
            return _NO_FORM
        custom = classes_in(info, msgspec.inspect.CustomType, set())
        return "" if all(kind is object or hasattr(kind, "model_validate") for kind in custom) else _NO_FORM

    def _name(self) -> str:
        if isinstance(self.annotation, type) and not typing.get_args(self.annotation):
            return self.annotation.__qualname__
        return str(self.annotation).replace("typing.", "")


def _hint(error: Exception) -> str:
    said = str(error)
    return " (nan and infinity are stored as null)" if "float" in said and "got `null`" in said else ""


def _is_constrained(annotation: object) -> bool:
    """Return whether pydantic, which is imported, has something to say about an annotation that msgspec can read."""
    if "pydantic" not in sys.modules:
        return False
    metadata = getattr(annotation, "__metadata__", ()) if typing.get_origin(annotation) is typing.Annotated else ()
    foreign = any(type(about).__module__.partition(".")[0] in _CONSTRAINERS for about in metadata)
    return foreign or any(_is_constrained(part) for part in typing.get_args(annotation))


def _pydantic_adapter(annotation: object, what: str, reason: str) -> Any:
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None:
        try:
            adapter = pydantic.TypeAdapter(annotation)
            if getattr(adapter, "pydantic_complete", True):  # a name that nobody defined is left to the first reading
                return adapter
        except (pydantic.PydanticUserError, TypeError, NameError) as error:
            reason = str(error).splitlines()[0]
    raise DefinitionError(
        f"{what} is annotated {annotation!r}, which cannot be stored: {reason}; "
        "use builtins, dataclasses, TypedDict, msgspec.Struct or pydantic models"
    )


class Parameters:
    """The parameters of a workflow function: its input is stored as a JSON object keyed by their names.

    Args:
        signature: the function's signature, without `self`.
        hints: its resolved annotations.
        what: whose parameters, for errors.

    Attributes:
        signature: the function's.
        shapes: how the value of each is read back.

    Raises:
        DefinitionError: `*args` or `**kwargs`, or a type without a JSON form.
    """

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Any], what: str) -> None:
        self.what = what
        self.signature = signature
        self._names = tuple(signature.parameters)
        self.shapes: dict[str, Shape] = {}
        fields: list[tuple[str, Any, Any]] = []
        self._positional_only: list[str] = []
        for name, parameter in signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DefinitionError(f"{what} takes *{name}; name each parameter, so that its input can be stored")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                self._positional_only.append(name)
            shape = Shape(hints.get(name, Any), f"{what}, parameter {name!r},")
            self.shapes[name] = shape
            native: Any = shape.native
            if parameter.default is parameter.empty:
                fields.append((name, native, msgspec.NODEFAULT))
            else:
                fields.append((name, native | msgspec.UnsetType if native is not Any else Any, msgspec.UNSET))
        self._struct = msgspec.defstruct("Input", fields, kw_only=True, forbid_unknown_fields=True)
        self._decoder = msgspec.json.Decoder(self._struct, dec_hook=_from_builtin)
        self._adapted = [name for name, shape in self.shapes.items() if shape.is_adapted]
        self._in_order = all(
            p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in signature.parameters.values()
        )

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any], limit: int) -> str:
        """Return the arguments of a call as an input payload, checked against the annotations.

        Raises:
            TypeError: the arguments do not fit the signature. SerializationError, PayloadTooLargeError: see `encode`.
        """
        if self._in_order and not kwargs and len(args) == len(self._names):
            bound: Mapping[str, Any] = dict(zip(self._names, args, strict=True))
        else:
            try:
                bound = self.signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{self.what}: {error}") from None
        payload = encode(bound, f"the input of {self.what}", limit)
        self._read(payload)
        return payload

    def decode(self, payload: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments of an input payload.

        Raises:
            SerializationError: the payload does not fit the parameters.
        """
        values = self._read(payload)
        kwargs = {name: value for name in self._names if (value := getattr(values, name)) is not msgspec.UNSET}
        return [kwargs.pop(name) for name in self._positional_only if name in kwargs], kwargs

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the input: an object with the arguments by name."""
        bundle = Bundle()
        properties = {name: self._property(name, shape, bundle) for name, shape in self.shapes.items()}
        required = [name for name, each in self.signature.parameters.items() if each.default is each.empty]
        about = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        return bundle.document(about)

    def _property(self, name: str, shape: Shape, bundle: Bundle) -> dict[str, Any]:
        schema = shape.schema(bundle)
        if shape.is_adapted:
            schema.setdefault("title", name.replace("_", " ").capitalize())
        default = self.signature.parameters[name].default
        if default is not inspect.Parameter.empty:
            try:
                schema["default"] = decode_any(encode(default, name, DEFAULT_BYTES))
            except UsageError:  # it has no JSON form, or is long: the function has it all the same
                pass
        return schema

    def _read(self, payload: str) -> Any:
        try:
            values = self._decoder.decode(payload)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise SerializationError(
                f"the input of {self.what} does not fit its parameters: {error}{_hint(error)}"
            ) from error
        for name in self._adapted:
            if (value := getattr(values, name)) is not msgspec.UNSET:
                setattr(values, name, self.shapes[name].adapt(value))
        return values


def annotations_of(
    function: Callable[..., Any], what: str, local_names: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a function's resolved annotations.

    Args:
        function: any function.
        what: its name, for the error.
        local_names: names of the scope it was written in, for classes defined there.

    Raises:
        DefinitionError: an annotation names something unknown.
    """
    try:
        return typing.get_type_hints(function, localns=dict(local_names or {}), include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise DefinitionError(
            f"an annotation of {what} cannot be resolved: {error}; define the type at module level"
        ) from error
