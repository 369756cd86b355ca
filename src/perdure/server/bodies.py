"""The one place where a request's body is read: within bounds, as strict JSON."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from perdure.server.errors import Problem, ProblemError, invalid
from perdure.server.settings import ServerSettings

GREATEST = 2**63 - 1
"""The greatest whole number; the least one is one further from zero, below it."""

DIGITS = 19
"""How many digits a whole number may have to be looked at."""

BODY_WITHIN = 30.0
"""Seconds within which a body has to be there."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A text, also one that does not end: who looked for an end again from each quote in it would take hours."""

_BRACKETS = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile("[\ud800-\udfff]")


async def read_body(request: Request, most: int) -> bytes:
    """Return a request's body, and stop reading once there is more than is taken.

    Args:
        request: the request, of which nothing has been read.
        most: the greatest size, in bytes.

    Raises:
        Problem: it is too large (413), or too slow (408).
    """
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and (len(length) > DIGITS or int(length) > most):
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        detail = f"the body did not come within {BODY_WITHIN:g} seconds"
        raise Problem(408, "Body too slow", detail, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise _malformed("it ended early") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(body: bytes, settings: ServerSettings) -> Any:
    """Return the value of a JSON text.

    Args:
        body: the text.
        settings: the bounds: `body_depth`, `body_tokens`.

    Raises:
        Problem: it is no JSON (400), or valid JSON that is not taken (422): a bound is passed, a name is there twice, a
            number is out of range, a text holds half a character.
    """
    _check_bounds(body, settings)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"it is no UTF-8 (at byte {error.start})") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _malformed("it is nested too deep") from None
    if "\\ud" in text or "\\uD" in text:
        _check_characters(text, value)
    return value


def _check_bounds(body: bytes, settings: ServerSettings) -> None:
    opening = body.count(b"{") + body.count(b"[")
    tokens = body.count(b",") + body.count(b":") + 2 * opening
    if opening <= settings.body_depth and tokens <= settings.body_tokens:
        return
    bare = _STRING.sub(b"", body)
    brackets = bare.translate(_BRACKETS, _NO_BRACKETS)
    if bare.count(b",") + bare.count(b":") + len(brackets) > settings.body_tokens:
        raise _refused(f"it has more than body_tokens = {settings.body_tokens:,} brackets, commas and colons")
    for _ in range(settings.body_depth):  # each round takes away the innermost ones
        brackets, before = brackets.replace(b"{}", b""), len(brackets)
        if len(brackets) == before:
            break
    if b"{{" in brackets or b"{}" in brackets:
        raise _refused(f"it is nested deeper than body_depth = {settings.body_depth}")


def _check_characters(text: str, value: Any) -> None:
    """Refuse halves of characters, which can be written as an escape and stored nowhere."""
    if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _refused("a text in it holds half a character (a lone surrogate)")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _refused(f"it has the name {name[:100]!r} twice in one object")
            seen.add(name)
    return made


def _whole(text: str) -> int:
    if len(text) <= DIGITS + 1:
        number = int(text)
        if -GREATEST - 1 <= number <= GREATEST:
            return number
    raise _refused(f"{text[:30]} does not fit 64 bits; give it as a text")


def _broken(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _refused(f"{text[:30]} is out of the range of numbers; give it as a text")
    return number


def _constant(text: str) -> NoReturn:
    raise _malformed(f"{text} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole, parse_float=_broken, parse_constant=_constant, strict=True
)


def _too_large(most: int) -> Problem:
    detail = f"the body is larger than body_bytes = {most:,}"
    return Problem(413, "Body too large", detail, headers={"Connection": "close"})


def _malformed(message: str) -> Problem:
    return Problem(400, "Malformed JSON", f"body: {message}", errors=[ProblemError("body", message)])


def _refused(message: str) -> Problem:
    return invalid(f"body: {message}", [ProblemError("body", message)])
