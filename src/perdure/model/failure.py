"""Exceptions as stored values, and back: what a step raised is what workflow code catches, also months later."""

from __future__ import annotations

import sys
import traceback

import msgspec

from perdure.model.encryption import refuse_unreadable
from perdure.model.errors import StepError
from perdure.model.record import ErrorInfo

TRACEBACK_CHARACTERS = 8_000
"""How much of a traceback is kept: its end, where the cause is."""

MESSAGE_CHARACTERS = 16_000
"""How much of an error's message is kept: its beginning. Arguments that take more are not kept at all."""

_CAUSES = 5
_STEP = "failed_step"
_DECODER = msgspec.json.Decoder(ErrorInfo)


def describe(error: BaseException, *, attempts: int = 0, depth: int = 0) -> ErrorInfo:
    """Return an exception as a stored value, with its causes; message, arguments and traceback are bounded."""
    kind = type(error)
    args: list[object] | None = list(error.args)
    try:
        encoded = msgspec.json.encode(args)
        if len(encoded) > MESSAGE_CHARACTERS or msgspec.json.decode(encoded) != args:
            args = None
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        args = None
    text = (
        "".join(traceback.format_exception(kind, error, error.__traceback__, chain=False))
        if error.__traceback__
        else ""
    )
    cause = error.__cause__
    return ErrorInfo(
        type=f"{kind.__module__}:{kind.__qualname__}",
        message=_message(error),
        args=args,
        traceback=_storable(text[-TRACEBACK_CHARACTERS:]),
        cause=describe(cause, depth=depth + 1) if cause is not None and depth < _CAUSES else None,
        attempts=attempts,
        step=vars(error).get(_STEP, ""),
    )


def failed_at(error: BaseException, step: str) -> None:
    """Note on an exception which step of a graph failed with it, as its `failed_step`; `describe` stores that."""
    vars(error)[_STEP] = step


def encode_error(info: ErrorInfo) -> str:
    """Return a described error as a payload."""
    return msgspec.json.encode(info).decode()


def decode_error(payload: str) -> ErrorInfo:
    """Return the described error of a payload.

    Raises:
        DecryptionError: it cannot be decrypted.
    """
    try:
        return _DECODER.decode(payload)
    except msgspec.DecodeError:
        refuse_unreadable(payload)
        raise


def rebuild(info: ErrorInfo) -> Exception:
    """Return the exception again: of its own class where that is already imported and takes its arguments back.

    Nothing is imported on the word of stored data; an unknown class becomes a `StepError` that names it.
    """
    error = _of_own_class(info)
    if error is None:
        error = StepError(f"{info.type.rpartition(':')[2]}: {info.message}")
    if info.cause is not None:
        error.__cause__ = rebuild(info.cause)
    if info.step:
        failed_at(error, info.step)
    if info.traceback:
        error.add_note(info.traceback.rstrip())
    return error


def _of_own_class(info: ErrorInfo) -> Exception | None:
    module, _, qualname = info.type.partition(":")
    found: object = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)) or info.args is None:
        return None
    try:
        error = found(*info.args)
    except Exception:  # a constructor of the user's own: whatever it raises, the general form still serves
        return None
    return error if _message(error) == info.message else None


def _storable(text: str) -> str:
    """Return a text with its lone surrogates, which no JSON can hold, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException) -> str:
    try:
        return _storable(str(error)[:MESSAGE_CHARACTERS])
    except Exception:  # a broken __str__ of the user's own
        return "(its message cannot be shown)"
