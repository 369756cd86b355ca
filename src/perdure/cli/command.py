"""What all commands share: the common options, one line for an error, and exit codes."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.text import Text
from typer.core import TyperGroup

from perdure.cli.session import STORE, Session, console
from perdure.cli.style import clean
from perdure.model.errors import DefinitionError, InboxFullError, PerdureError, RunNotFoundError, StoreError, UsageError

OK, PROBLEM, USAGE, NOT_FOUND, UNAVAILABLE = 0, 1, 2, 3, 4
INTERRUPTED = 130

# Typer brings its own copy of click, or uses the installed one, by its version: this is the base of either's errors.
CommandLineError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_WHERE, _HOW = "Which store", "Output"

_COMMON: dict[str, Any] = {
    "store": Annotated[
        str | None,
        typer.Option("--store", envvar=STORE, metavar="URL", rich_help_panel=_WHERE, help="As in sqlite:///orders.db."),
    ],
    "app": Annotated[
        str | None,
        typer.Option(
            "--app", metavar="MODULE:APP", rich_help_panel=_WHERE, help="Take the store and the workflows from there."
        ),
    ],
    "as_json": Annotated[
        bool, typer.Option("--json", rich_help_panel=_HOW, help="Print one JSON document and nothing else.")
    ],
    "debug": Annotated[bool, typer.Option("--debug", rich_help_panel=_HOW, help="Show the traceback of an error.")],
}

Body = Callable[..., Coroutine[Any, Any, int | None] | int | None]
"""A command: takes a session and its own options, and returns its exit code, None for 0."""


def command(
    group: typer.Typer, name: str, *, examples: Sequence[str] = (), without: Sequence[str] = ()
) -> Callable[[Body], Body]:
    """Register a function as a command with the common options.

    Args:
        group: where it goes.
        name: what is typed.
        examples: whole lines to type, for its help.
        without: common options that it does not take.
    """

    def register(body: Body) -> Body:
        common = {option: kind for option, kind in _COMMON.items() if option not in without}
        _, *own = inspect.signature(body, eval_str=True).parameters.values()

        def run(**given: Any) -> None:
            taken = {option: given.pop(option) for option in common}
            session = Session(
                taken.get("store"), taken.get("app"), as_json=taken.get("as_json", False), debug=taken["debug"]
            )
            raise typer.Exit(perform(session, lambda: body(session, **given)))

        parameters = [
            *own,
            *(
                inspect.Parameter(
                    option,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=False if kind.__origin__ is bool else None,
                    annotation=kind,
                )
                for option, kind in common.items()
            ),
        ]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what Typer reads the options from
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = help_of(body)
        lines = [f"  {escape(example)}" for example in examples]
        group.command(name, epilog="\n\n".join(["[bold]Examples[/bold]", *lines]) if lines else None)(run)
        return body

    return register


def help_of(body: Callable[..., object]) -> str:
    """Return a docstring with each paragraph on one line, so that a terminal of any width breaks it well."""
    paragraphs = (inspect.getdoc(body) or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def perform(session: Session, body: Callable[[], Coroutine[Any, Any, int | None] | int | None]) -> int:
    """Run a command's body and return its exit code; what it raises becomes one line."""
    try:
        outcome = body()
        if isinstance(outcome, Coroutine):
            outcome = asyncio.run(outcome)
        return outcome or OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except (typer.Exit, typer.Abort, CommandLineError, BrokenPipeError):
        raise
    except Exception as error:
        complain(session, error)
        return exit_code(error)


def exit_code(error: BaseException) -> int:
    """Return the exit code that tells of an error."""
    match error:
        case RunNotFoundError():
            return NOT_FOUND
        case StoreError():
            return UNAVAILABLE
        case InboxFullError():
            return PROBLEM
        case UsageError():
            return USAGE
        case _:
            return PROBLEM


def complain(session: Session, error: Exception) -> None:
    """Say what went wrong, and with `--debug` where."""
    if session.debug:
        show_traceback(error)
    say_error(session.as_json, *describe(error))


def show_traceback(error: Exception) -> None:
    """Print where an error comes from."""
    console(stderr=True).print(Text("".join(traceback.format_exception(error)).rstrip()), soft_wrap=True)


def describe(error: Exception) -> tuple[str, str]:
    """Return an error's type, and one line about it; a list of what is wrong with a definition keeps its lines."""
    message = str(error)
    if not isinstance(error, DefinitionError) and not isinstance(error.__cause__, DefinitionError):
        message = message.replace("\n", " ")
    if not isinstance(error, PerdureError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        message = f"unexpected {type(error).__name__}: {error} ({place}); --debug shows the traceback"
    return type(error).__name__, message


def say_error(as_json: bool, kind: str, message: str) -> None:
    """Say an error of that type, and where JSON was asked for in a document too."""
    if as_json:
        document = msgspec.json.encode({"error": {"type": kind, "message": message}})
        console().file.write(msgspec.json.format(document, indent=2).decode() + "\n")
    text = Text("\n").join(Text(clean(line)) for line in message.split("\n"))
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


class Group(TyperGroup):
    """A group that says what is wrong with a command line in one line too, and what there is when nothing is typed."""

    order = (
        *("dev", "worker", "server", "start", "runs", "undos", "queues", "schedules", "events", "definitions"),
        *("endpoints", "keys", "audit", "workers", "stats", "doctor", "migrate", "reencrypt", "demo"),
    )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take nothing at all for `--help`."""
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of `order`, the others behind them."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: self.order.index(name) if name in self.order else len(self.order))

    def main(  # type: ignore[override]  # every caller gives the others by name
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line, and leave with its exit code."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except CommandLineError as error:
            message = getattr(error, "format_message", error.__str__)().rstrip(".")
            path = getattr(getattr(error, "ctx", None), "command_path", "perdure")
            words = sys.argv[1:] if args is None else args
            say_error("--json" in words, "UsageError", f"{message}; see {path} --help")
            raise SystemExit(USAGE) from None
        except typer.Abort:
            raise SystemExit(PROBLEM) from None
        raise SystemExit(code if isinstance(code, int) else OK)
