"""Durations as people write and read them; seconds; and the one unit of stored time, the millisecond."""

from __future__ import annotations

import datetime as dt
import math
import re

from perdure.model.errors import UsageError

Duration = float | int | str | dt.timedelta
"""Seconds, a `timedelta`, or text such as `"30 seconds"`, `"1h 30m"` or `"250ms"`."""

_SECONDS = {
    "ms": 0.001,
    "millisecond": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3_600,
    "hour": 3_600,
    "d": 86_400,
    "day": 86_400,
    "w": 604_800,
    "week": 604_800,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*,?", re.IGNORECASE)
_LONGEST = 100 * 366 * 86_400.0
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def seconds(value: Duration, *, field: str = "duration") -> float:
    """Return a duration in seconds.

    Args:
        value: seconds as a number, a `timedelta`, or text of number-unit parts (`"1h 30m"`, `"2 seconds"`).
        field: the argument's name, for the error.

    Raises:
        UsageError: the text does not parse, or the duration is negative, not finite or over a century.
    """
    if isinstance(value, dt.timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        result = _parse(value, field)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = float(value)
    else:
        raise UsageError(f"{field}: {value!r} is no duration; give seconds, a timedelta or text like '30 seconds'")
    if not math.isfinite(result) or not 0 <= result <= _LONGEST:
        raise UsageError(f"{field}: {value!r} must be between 0 seconds and 100 years")
    return result


def milliseconds(value: Duration, *, field: str = "duration") -> int:
    """Return a duration in whole milliseconds, rounded up, so that nothing is ever early."""
    return _up(seconds(value, field=field) * 1000)


def instant(moment: dt.datetime | float, *, field: str = "until") -> int:
    """Return a moment as milliseconds since the epoch, UTC.

    Args:
        moment: an aware `datetime`, or seconds since the epoch.
        field: the argument's name, for the error.

    Raises:
        UsageError: the datetime has no time zone, or the value is no moment.
    """
    if isinstance(moment, dt.datetime):
        if moment.tzinfo is None:
            raise UsageError(f"{field}: {moment!r} has no time zone; use datetime(..., tzinfo=UTC)")
        return _up(moment.timestamp() * 1000)
    if isinstance(moment, (int, float)) and not isinstance(moment, bool) and math.isfinite(moment):
        return _up(moment * 1000)
    raise UsageError(f"{field}: {moment!r} is no moment; give an aware datetime or seconds since the epoch")


def in_words(milliseconds: int) -> str:
    """Return a length of time with the two units that matter: `840 ms`, `1.24 s`, `2 min 5 s`, `3 d 4 h`."""
    rest = max(0, milliseconds)
    if rest < 1_000:
        return f"{rest} ms"
    if rest < 60_000:
        return f"{rest / 1000:.3g} s"
    parts = []
    for size, unit in _UNITS:
        if count := rest // size:
            parts.append(f"{count} {unit}")
        elif parts:
            break
        rest %= size
    return " ".join(parts[:2])


def _up(value: float) -> int:
    """Return the next whole number, taking what is only a rounding error above one for that one."""
    nearest = round(value)
    return nearest if abs(value - nearest) <= max(1e-6, 4 * math.ulp(value)) else math.ceil(value)


def _parse(text: str, field: str) -> float:
    total, end = 0.0, 0
    for part in _PART.finditer(text):
        unit = part.group(2).lower()
        factor = _SECONDS.get(unit) or _SECONDS.get(unit.removesuffix("s"))
        if part.start() != end or factor is None:
            break
        total += float(part.group(1)) * factor
        end = part.end()
    if end == 0 or end != len(text):
        raise UsageError(f"{field}: {text!r} is no duration; write it like '30 seconds', '1h 30m' or '250ms'")
    return total
