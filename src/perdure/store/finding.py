"""What stores that page do alike: which runs a filter means, and where a cursor goes on."""

from __future__ import annotations

from perdure.model.decision import RunFilter
from perdure.model.errors import UsageError
from perdure.model.run import Run


def matches(run: Run, where: RunFilter) -> bool:
    """Return whether a filter means this run."""
    return (
        (not where.status or run.status in where.status)
        and where.workflow in {None, run.workflow}
        and where.queue in {None, run.queue}
        and where.parent_id in {None, run.parent_id}
        and (where.id_prefix is None or run.id.startswith(where.id_prefix))
        and all(run.tags.get(tag) == value for tag, value in where.tags.items())
        and (where.created_from is None or run.created_at >= where.created_from)
        and (where.created_until is None or run.created_at < where.created_until)
    )


def place(cursor: str, numbers: int) -> tuple[int, ...]:
    """Return the numbers, so many of them, that a cursor is made of: `7`, or `1700000000000:7`.

    Raises:
        UsageError: the cursor is none that a page came with.
    """
    try:
        found = tuple(map(int, cursor.split(":")))
    except ValueError:
        found = ()
    if len(found) != numbers or not all(-(2**63) <= number < 2**63 for number in found):
        raise not_a_cursor(cursor)
    return found


def not_a_cursor(text: str) -> UsageError:
    """Return the error of a cursor that no page came with."""
    return UsageError(f"cursor: {text!r} is none; pass back the `cursor` of a page")
