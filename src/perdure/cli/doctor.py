"""`perdure doctor`: looks at a store and at what is in it, and says what is wrong and how to mend it."""

from __future__ import annotations

import typer
from rich.console import RenderableType
from rich.text import Text

from perdure.cli.checks import SIGNS, Check, Level, examine
from perdure.cli.command import OK, PROBLEM, UNAVAILABLE, command, complain
from perdure.cli.session import Session
from perdure.cli.style import QUIET, count, table
from perdure.model.errors import StoreError


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor", examples=["perdure doctor --store sqlite:///orders.db"])(doctor)


async def doctor(session: Session) -> int:
    """Examine a store: can it be written, what does it promise, who works it, and what is stuck.

    Exit codes: 0 nothing is wrong; 1 something is; 4 the store cannot be used at all.
    """
    try:
        async with session.client() as app:
            checks = await examine(app)
    except StoreError as error:
        complain(session, error)
        return UNAVAILABLE
    problems = sum(check.level is Level.PROBLEM for check in checks)
    warnings = sum(check.level is Level.WARNING for check in checks)
    session.show(
        {"ok": not problems, "problems": problems, "warnings": warnings, "checks": checks},
        _picture(checks),
        Text(),
        _verdict(problems, warnings),
    )
    return PROBLEM if problems else OK


def _picture(checks: list[Check]) -> RenderableType:
    rows = []
    for check in checks:
        sign, style = SIGNS[check.level]
        said = Text(check.said, "" if check.level in (Level.OK, Level.INFO) else style)
        if check.advice:
            said.append(f"\n{check.advice}", QUIET)
        rows.append((Text(sign, style), Text(check.name, QUIET), said))
    return table(("", "", ""), rows, wraps=True)


def _verdict(problems: int, warnings: int) -> Text:
    if problems:
        return Text(count(problems, "problem"), "bold red")
    if warnings:
        return Text(f"no problem, {count(warnings, 'warning')}", "bold yellow")
    return Text("nothing is wrong", "bold green")
