"""Times, durations and sizes as the pages say them."""

from __future__ import annotations

import datetime as dt
from urllib.parse import quote

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))
_SIZES = ("bytes", "kB", "MB", "GB")


def moment(at: int | None) -> str:
    """Return a time in milliseconds since the epoch as `2026-11-20 14:15:07 UTC`; empty for none."""
    if at is None:
        return ""
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_time(at: int) -> str:
    """Return a time in milliseconds since the epoch as HTML's `datetime` wants it."""
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(at: int, now: int) -> str:
    """Return how far a time is from now, as in `3 min ago`, `just now` or `in 20 s`."""
    apart = abs(now - at)
    if apart < 1_000:
        return "just now" if at <= now else "now"
    unit, size = next((unit, size) for unit, size in _UNITS if apart >= size)
    told = f"{apart // size} {unit}"
    return f"{told} ago" if at <= now else f"in {told}"


def size(count: int) -> str:
    """Return a number of bytes, as in `64.0 kB`."""
    number = float(count)
    for unit in _SIZES:
        if number < 1_000 or unit == _SIZES[-1]:
            return f"{count} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1_000
    raise AssertionError(count)


def number(count: float) -> str:
    """Return a number with its thousands apart; one with a fraction is told to a tenth, or to a hundredth below one."""
    if count == int(count):
        return f"{int(count):,}"
    return f"{count:,.2f}" if count < 1 else f"{count:,.1f}"


def plain_part(text: object) -> str:
    """Return a text as one part of an address, whatever it holds."""
    return quote(str(text), safe="")
