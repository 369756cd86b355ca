"""The command `perdure`: its groups, its version, and its help."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated

import typer

from perdure.cli import (
    actions,
    audit,
    definitions,
    dev,
    doctor,
    endpoints,
    keys,
    migrate,
    queues,
    reencrypt,
    runs,
    schedules,
    server,
    starting,
    stats,
    undos,
    worker,
    workers,
)
from perdure.cli.command import Group, help_of

app = typer.Typer(
    cls=Group,
    name="perdure",
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"perdure {version('perdure')}")
        raise typer.Exit


def perdure(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Durable workflows: work them, start them, look at them, move them.

    The store is --store URL, else the variable PERDURE_STORE, else what --app opens, else perdure.db in the current
    folder. --json makes every answer one JSON document.

    Exit codes: 0 done; 1 a problem was found, or the run failed; 2 the command line is wrong; 3 there is no such run
    (or schedule, or definition); 4 the store cannot be used.
    """


app.callback(help=help_of(perdure))(perdure)
app.add_typer(runs.group, name="runs")
app.add_typer(definitions.group, name="definitions")
app.add_typer(queues.group, name="queues")
app.add_typer(undos.group, name="undos")
app.add_typer(keys.group, name="keys")
app.add_typer(endpoints.group, name="endpoints")
app.add_typer(audit.group, name="audit")
for part in (dev, worker, workers, server, starting, stats, doctor, migrate, reencrypt, schedules):
    part.register(app)
actions.register(runs.group)
if find_spec("perdure.cli.demo") is not None:
    app.command("demo")(import_module("perdure.cli.demo").demo)
