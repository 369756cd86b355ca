"""`perdure definitions`: workflows that are written as data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from perdure.authoring.graphs.definition_schema import definition_schema, schema_text
from perdure.cli.command import NOT_FOUND, Group, command
from perdure.cli.session import Session, file_of
from perdure.cli.style import QUIET, ago, clean, table
from perdure.engine.app import Perdure
from perdure.engine.definitions import PublishedDefinition, check, definition_of
from perdure.model.errors import DefinitionError
from perdure.store import open_store

group = typer.Typer(cls=Group, help="Publish and look at workflows that are written as data.", rich_markup_mode="rich")

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of JSON or YAML.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Even if they call what no worker has announced.")]


@command(group, "publish", examples=["perdure definitions publish invoice.yaml --store sqlite:///orders.db"])
async def publish(session: Session, files: Files, *, anyway: Anyway = False) -> None:
    """Publish definitions, so that they can be started by their names."""
    published = []
    async with session.client(creates=True) as app:
        for file in files:
            with _named(file):
                found = await app.publish(file, anyway=anyway)
            published.append({"name": found.name, "version": found.version})
            session.note(f"published {found.name}, version {found.version}")
    session.show({"published": published})


@command(group, "list", examples=["perdure definitions list"])
async def list_definitions(session: Session) -> None:
    """List the definitions of the store, all versions, by when they were published."""
    async with session.client() as app:
        now = app.world.now()
        found = await app.definitions()
    rows = [
        (
            Text(clean(each.name)),
            Text(clean(each.version)),
            Text(str(len(each.data["definition"]["steps"])) if each.damage is None else "damaged"),
            Text(ago(each.created_at, now), QUIET),
        )
        for each in found
    ]
    if not rows:
        session.note("no definitions")
    session.show(
        {
            "definitions": [
                {"name": e.name, "version": e.version, "created_at": e.created_at, "damage": e.damage} for e in found
            ]
        },
        *([table(("name", "version", "steps", "published"), rows, right=["steps"])] if rows else []),
    )


@command(group, "show", examples=["perdure definitions show invoice", "perdure definitions show invoice --mermaid"])
async def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The definition's name.")],
    *,
    version: Annotated[str | None, typer.Option("--version", metavar="V", help="By default the newest.")] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="The graph, as a Mermaid flowchart.")] = False,
) -> int:
    """Print a definition as JSON, with what each step is called with."""
    async with session.client() as app:
        found = [each for each in await app.definitions() if each.name == name]
    chosen: PublishedDefinition | None = None
    for each in found:
        if version in (None, each.version):
            chosen = each
    if chosen is None:
        versions = ", ".join(each.version for each in found)
        if found:
            session.note(f"definition {name!r} has no version {version!r}; there is {versions}")
        else:
            session.note(f"there is no such definition {name!r}; perdure definitions list shows what there is")
        return NOT_FOUND
    if chosen.damage is not None:
        raise DefinitionError(chosen.damage)
    if mermaid and not session.as_json:
        session.out.file.write(chosen.to_mermaid())
    else:
        session.as_json = True
        session.show({"mermaid": chosen.to_mermaid()} if mermaid else chosen.data)
    return 0


@command(group, "validate", examples=["perdure definitions validate invoice.yaml --app shop:app"])
async def validate(session: Session, files: Files) -> None:
    """Check definitions without publishing them.

    With --store or --app they are checked against the tasks that there are, too. The store of --app need not
    be there yet.
    """
    checked = []
    for file in files:
        with _named(file):
            definition = definition_of(file)
            if session.store is None and session.app is None:
                dag = definition.compile(None, lambda name: None)
            else:
                async with _client(session) as app:
                    dag = await check(app.client, definition)
        checked.append({"name": dag.name, "version": dag.version, "steps": len(dag.nodes)})
        session.note(f"{file}: definition {dag.name}, version {dag.version}, is right")
    session.show({"valid": checked})


@command(group, "schema", examples=["perdure definitions schema > definition.schema.json"])
def schema(session: Session) -> None:
    """Print the JSON Schema of definitions."""
    if session.as_json:
        session.show(definition_schema())
        return
    session.out.file.write(schema_text())


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Say of what is wrong with a definition in which file that is."""
    try:
        yield
    except DefinitionError as error:
        raise DefinitionError(f"{file}: {error}") from None


def _client(session: Session) -> Perdure:
    """Return the engine to check definitions with: that of --app, without its store if no worker has made that yet."""
    if session.store is not None:
        return session.load(mode="client")
    app = session.load(creates=True, mode="client")
    path = file_of(app.url)
    if path is not None and not path.exists():
        app.store, app.url = open_store("memory://"), "memory://"
    return app
