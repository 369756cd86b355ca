"""What Schemathesis has to know of the API: its own formats, and what a schema cannot say; it loads this as hooks."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")).filter(
        str.isprintable
    ),
    min_size=1,
    max_size=20,
)
NAME = PRINTABLE.map(lambda text: text.replace("/", "-").replace("#", "-")).filter(lambda text: text[:5] != "undo:")
UNITS = st.sampled_from(["ms", "s", " seconds", "m", "h", " days"])

schemathesis.openapi.format("printable", PRINTABLE)
schemathesis.openapi.format("perdure-name", NAME)
schemathesis.openapi.format("perdure-endpoint", st.just("http://127.0.0.1:9/"))
schemathesis.openapi.format("perdure-tag", st.tuples(PRINTABLE.filter(lambda t: "=" not in t), PRINTABLE).map("=".join))
schemathesis.openapi.format("perdure-duration", st.builds(lambda n, unit: f"{n}{unit}", st.integers(0, 999), UNITS))
schemathesis.openapi.format("perdure-period", st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 999), UNITS))


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leave out what no schema can say: cursors of pages that nobody gave, pauses longer than all of them may take,
    whole numbers of more than 64 bits somewhere in a value."""
    body: Any = case.body if isinstance(case.body, dict) else {}
    query: Any = case.query if isinstance(case.query, dict) else {}
    if "/keys/{" in case.path and set(str(case.path_parameters.get("id", "-"))) <= set("0123456789abcdef"):
        return False  # the key that this is asked with must last
    return not (
        query.get("cursor") or body.get("cursor") or _has_two_waits(body) or _is_huge(case.body) or "wait" in query
    )


def _has_two_waits(body: dict[str, Any]) -> bool:
    runs = body.get("runs") if isinstance(body.get("runs"), list) else [body]
    pauses = [
        each["debounce"] for each in runs or () if isinstance(each, dict) and isinstance(each.get("debounce"), dict)
    ]
    return any(each.get("max_wait") is not None for each in pauses)


def _is_huge(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_huge, value.values()))
    if isinstance(value, list):
        return any(map(_is_huge, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63
