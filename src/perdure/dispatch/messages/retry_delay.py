"""How long a message waits for its next attempt: QStash's back-off, and expressions that say it otherwise.

An expression is arithmetic over `retried` (0 before the first retry), as in `pow(2, retried) * 1000`; it gives
milliseconds. It is read by Python's own parser, and of what that knows only numbers, `retried`, `+ - * /`, brackets and
the functions of `FUNCTIONS` are let through, so that it can name nothing, keep nothing and take no time.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime

from perdure.model.errors import UsageError

EXPRESSION_LENGTH = 200
"""How many characters an expression may have."""

LONGEST_MS = 86_400_000
"""The longest time between two attempts, in milliseconds."""

FUNCTIONS: Mapping[str, tuple[Callable[..., float], int]] = {
    "pow": (math.pow, 2),
    "sqrt": (math.sqrt, 1),
    "abs": (abs, 1),
    "exp": (math.exp, 1),
    "floor": (math.floor, 1),
    "ceil": (math.ceil, 1),
    "round": (round, 1),
    "min": (min, 2),
    "max": (max, 2),
}
"""What an expression may call, and with how many arguments."""

ASKING = ("retry-after", "x-ratelimit-reset", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
"""Headers by which an answer says when the destination wants to be tried again; the first that can be read counts."""

_UNITS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ns|us|µs|μs|ms|s|m|h)")

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[float], float]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


def backed_off(retried: int) -> int:
    """Return how long to wait before the next attempt, in milliseconds: `min(86400, e ** (2.5 * n))` seconds.

    That is QStash's own, n counting the retries from 1 on: 12 s, 2 min 28 s, 30 min, 6 h, then a day.

    Args:
        retried: how many retries there have been.
    """
    return round(min(LONGEST_MS / 1000, math.exp(min(2.5 * (retried + 1), 100.0))) * 1000)


def asked_for(headers: Iterable[tuple[str, str]], now: int) -> int | None:
    """Return after how many milliseconds a destination wants to be tried again; None where it says nothing.

    A time beyond a day says nothing, either: the usual back-off holds.

    Args:
        headers: of the answer.
        now: the present, in milliseconds since the epoch.
    """
    found = {name.lower(): value.strip() for name, value in headers}
    for name in ASKING:
        wanted = _milliseconds(found.get(name, ""), now)
        if wanted is not None and wanted <= LONGEST_MS:
            return max(0, round(wanted))
    return None


class RetryDelay:
    """An expression that says how long to wait.

    Args:
        text: the expression.

    Raises:
        UsageError: it is none.
    """

    def __init__(self, text: str) -> None:
        if not text.isascii() or len(text) > EXPRESSION_LENGTH:
            raise UsageError(f"retry delay: {text[:80]!r} must be ASCII, of at most {EXPRESSION_LENGTH} characters")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise UsageError(f"retry delay: {text!r} is no expression, as in pow(2, retried) * 1000") from None
        _check(self._tree, text)

    def after(self, retried: int) -> int:
        """Return how long to wait before the next attempt, in milliseconds, from 0 to a day.

        Where the expression gives no number, it is the usual back-off.

        Args:
            retried: how many retries there have been.
        """
        try:
            found = _value(self._tree, float(retried))
        except (ArithmeticError, ValueError):
            return backed_off(retried)
        if math.isnan(found):
            return backed_off(retried)
        return round(max(0.0, min(found, float(LONGEST_MS))))


def _milliseconds(text: str, now: int) -> float | None:
    """Return what a text says: seconds, a date, or parts as in `6m5s`."""
    if not text or len(text) > 100:
        return None
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text):
        return float(text) * 1000
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return parsedate_to_datetime(text).timestamp() * 1000 - now
    except (ValueError, OverflowError):
        return None


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float()) | ast.Name(id="retried"):
            return
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            _check(left, text)
            _check(right, text)
            return
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, text)
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            if len(args) != FUNCTIONS[name][1]:
                raise UsageError(f"retry delay: {text!r}: {name} takes {FUNCTIONS[name][1]}, and has {len(args)}")
            for argument in args:
                _check(argument, text)
            return
    part = ast.get_source_segment(text.strip(), node) or text
    raise UsageError(
        f"retry delay: {text!r}: {part!r} is not allowed; there are numbers, retried, + - * /, brackets and "
        f"{', '.join(FUNCTIONS)}"
    )


def _value(node: ast.expr, retried: float) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]  # a number, as was checked
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATORS[type(sign)](_value(left, retried), _value(right, retried))
        case ast.UnaryOp(op=sign, operand=operand):
            return _SIGNS[type(sign)](_value(operand, retried))
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(FUNCTIONS[name][0](*(_value(argument, retried) for argument in args)))
    return retried
