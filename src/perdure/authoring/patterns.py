"""How long a text may be that a regular expression is matched against, so that matching it ends soon.

Python's `re` tries one way after another to match a text. How many there are at most follows from the expression: each
repeat may end anywhere, each alternative may be the right one. So `^a*b*$` has as many ways as a text has pairs of
places, and a text may be the shorter, the more choices there are. Choices that stand inside a repeat multiply without
end, as in `(a+)+`. They are refused, except where something between the repeats leaves no choice: `(-[a-z]+)*`.
"""

from __future__ import annotations

import functools
import math
import re
import re._parser as parser  # type: ignore[import-not-found]  # typeshed leaves it out; it is what `re` itself uses
from typing import Any, NamedTuple

from perdure.model.errors import UsageError

PATTERN = 500
"""Characters in one regular expression."""

WAYS = 30_000_000
"""How many ways to match a text are tried at most: about a second of work."""

TEXT = 1_000_000
"""Characters in a text that an expression without choices is matched against."""

SHORTEST = 64
"""An expression that could only be matched against texts shorter than this is refused."""

_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
_SIGNS = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}
_CLASSES = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w", "NOT_WORD": r"\W"}


class Bounds(NamedTuple):
    """What matching an expression may take.

    Attributes:
        longest: how many characters a text may have that it is matched against.
        power: that of the length, which the number of ways grows with.
    """

    longest: int
    power: int

    def share(self, length: int) -> float:
        """Return how much of the work on the longest text matching a text of some length may be."""
        return float((length / self.longest) ** max(self.power, 1))


@functools.lru_cache(maxsize=1_000)
def bounds(pattern: str) -> Bounds:
    """Return what matching a regular expression may take.

    Raises:
        UsageError: it is no expression, too long, or matching it could take too long for most texts.
    """
    if len(pattern) > PATTERN:
        raise UsageError(f"the expression is longer than {PATTERN} characters")
    try:
        re.compile(pattern)
        parts = _parts(parser.parse(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from None
    power, factor = _ways(parts)
    if not parts or parts[0][0] != "AT" or not str(parts[0][1]).startswith("AT_BEGINNING"):
        power += 1  # it may begin anywhere
    length = TEXT if not power else int((WAYS * math.factorial(power) / factor) ** (1 / power))
    if length < SHORTEST:
        raise UsageError(f"{pattern!r} leaves so many choices that matching it could take too long; use fewer repeats")
    return Bounds(min(length, TEXT), power)


def _parts(parsed: Any) -> list[tuple[str, Any]]:
    return [(str(kind), about) for kind, about in parsed]


def _ways(parts: list[tuple[str, Any]]) -> tuple[int, int]:
    """Return in how many ways parts can match a text of length n: the power of n, and its factor."""
    every = [_ways_of(kind, about) for kind, about in parts]
    return sum(power for power, _ in every), math.prod(factor for _, factor in every)


def _ways_of(kind: str, about: Any) -> tuple[int, int]:
    if kind.startswith("GROUPREF"):
        raise UsageError("a pattern that refers to a group of its own can take too long; write it without")
    if kind == "BRANCH":
        every = [_ways(_parts(each)) for each in about[1]]
        return max(power for power, _ in every), sum(factor for _, factor in every)
    if kind in _REPEATS:
        return _ways_of_repeat(*about)
    if kind == "SUBPATTERN":
        return _ways(_parts(about[3]))
    if kind in ("ASSERT", "ASSERT_NOT"):
        return _ways(_parts(about[1]))
    return _ways(_parts(about)) if kind == "ATOMIC_GROUP" else (0, 1)


def _ways_of_repeat(least: int, most: Any, repeated: Any) -> tuple[int, int]:
    power, factor = _ways(_parts(repeated))
    if least == most:
        if power * least > 20 or factor ** min(least, 100) > WAYS:
            raise UsageError("a pattern repeats something with too many choices in it; write it with fewer repeats")
        return power * least, factor**least
    if (power, factor) != (0, 1) and not _is_delimited(_parts(repeated)):
        raise UsageError("a pattern with a choice inside a repeat, as in (a+)+ or (a|ab)*, can take too long")
    return (0, most - least + 1) if most - least < SHORTEST else (1, 1)


def _is_delimited(parts: list[tuple[str, Any]]) -> bool:
    """Return whether a sign at an end of what is repeated leaves only one way to cut a text into repeats."""
    if len(parts) == 1 and parts[0][0] == "SUBPATTERN":
        return _is_delimited(_parts(parts[0][1][3]))
    inner = [about for kind, about in parts if kind in _REPEATS]
    if len(inner) != 1 or any(kind not in _SIGNS | _REPEATS for kind, _ in parts):
        return False
    run = _parts(inner[0][2])
    if len(run) != 1 or run[0][0] not in _SIGNS:
        return False
    for kind, about in (parts[0], parts[-1]):
        signs = [about] if kind == "LITERAL" else [code for each, code in _parts(about)] if kind == "IN" else [None]
        if all(isinstance(code, int) and not chr(code).isalnum() and not _takes(*run[0], code) for code in signs):
            return True
    return False


def _takes(kind: str, about: Any, code: int) -> bool:
    """Return whether one sign of an expression matches a character."""
    if kind in ("ANY", "LITERAL", "NOT_LITERAL"):
        return kind == "ANY" or (about == code) == (kind == "LITERAL")
    signs = _parts(about)
    found = False
    for each, value in signs:
        if each == "RANGE":
            found = found or value[0] <= code <= value[1]
        elif each == "CATEGORY":
            found = found or re.match(_CLASSES[str(value).removeprefix("CATEGORY_")], chr(code)) is not None
        else:
            found = found or value == code
    return found != (signs[0][0] == "NEGATE")
