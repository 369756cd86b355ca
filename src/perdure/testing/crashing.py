"""Runs a test again and again, each time with a crash at another commit."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from perdure.engine.app import Perdure
from perdure.model.errors import UsageError
from perdure.testing.engine import Engine, current_plan, engine
from perdure.testing.store import CrashPlan, CrashPoint, Moment

COMMITS = 200
"""How many commits a test of `crash_everywhere` may make, unless it is told otherwise: it runs three times for each."""


@contextlib.contextmanager
def planned(plan: CrashPlan) -> Iterator[CrashPlan]:
    """Have every engine that is opened meanwhile follow a plan."""
    current_plan.append(plan)
    try:
        yield plan
    finally:
        current_plan.remove(plan)


def crash_points(straight: CrashPlan, limit: int) -> list[CrashPoint]:
    """Return every point to crash at, given the plan of a run without a crash.

    Args:
        straight: what that run counted.
        limit: how many commits it may have made.

    Raises:
        UsageError: it made none, or more than that.
    """
    commits = len(straight.commits)
    if not commits:
        raise UsageError("crash_everywhere: the test made no commit, so there is nothing to crash at; start a run")
    if commits > limit:
        raise UsageError(
            f"crash_everywhere: the test makes {commits} commits and would run {len(Moment) * commits} times more; "
            f"give it less to do, or say crash_everywhere(commits={commits})"
        )
    return [CrashPoint(commit, moment) for commit in range(1, commits + 1) for moment in Moment]


async def crash_everywhere(
    app: Perdure, body: Callable[[Engine], Awaitable[object]], *, commits: int = COMMITS, **options: Any
) -> int:
    """Run a test body once straight, then again with a crash at every commit it made, each time on a fresh engine.

    The worker dies just before the commit is stored, just before it is acknowledged, and right after that, when the
    next steps have begun. Another worker takes its runs over at once, without the clock moving.

    Args:
        app: the application.
        body: the test, which asserts what has to hold however often steps are repeated. It begins anew each time, so
            what it counts in belongs inside it.
        commits: how many commits it may make.
        options: as for `engine`.

    Returns:
        How often it crashed.

    Raises:
        UsageError: the body made no commit, or too many.
        Exception: what the body raised, with a note that names the crash point.
    """
    straight = CrashPlan()
    await _run_once(app, body, straight, options)
    plans = [CrashPlan(point) for point in crash_points(straight, commits)]
    for plan in plans:
        await _run_once(app, body, plan, options)
    return sum(plan.is_reached for plan in plans)


async def _run_once(
    app: Perdure, body: Callable[[Engine], Awaitable[object]], plan: CrashPlan, options: dict[str, Any]
) -> None:
    try:
        with planned(plan):
            opened = engine(app, **options)
        async with opened:
            await body(opened)
    except BaseException as error:
        error.add_note(f"crash_everywhere: it was run {plan}")
        raise
