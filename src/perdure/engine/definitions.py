"""Definitions in the store: checked, published, listed. How workers get them: `perdure.engine.worker.reading`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perdure.authoring.announcing import GRAPHS, entry_of
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.dag import Dag
from perdure.authoring.graphs.definition import TEXT_BYTES, Definition, Known
from perdure.authoring.registry import Registry
from perdure.engine.client.client import Client
from perdure.engine.env import Env
from perdure.engine.lifecycle import OURS
from perdure.engine.verbs import Verbs
from perdure.engine.worker.reading import newest
from perdure.model.decision import CatalogEntry, StoredDefinition
from perdure.model.errors import DefinitionError


class PublishedDefinition(msgspec.Struct, frozen=True):
    """A definition in the store.

    Attributes:
        name, version: which.
        created_at: when it was published, in milliseconds since the epoch.
        data: what was published, its fields in Perdure's own spelling, and with what each step is called with; of one
            that is damaged, no steps.
        damage: what is wrong with it, because somebody wrote to the store; None where nothing is known to be.
    """

    name: str
    version: str
    created_at: int
    data: dict[str, Any]
    damage: str | None = None

    @classmethod
    def of(cls, stored: StoredDefinition) -> PublishedDefinition:
        """Return what the store has."""
        try:
            Definition.of_stored(stored)
        except DefinitionError as error:
            data = {"name": stored.name, "version": stored.version, "definition": {"steps": []}}
            return cls(stored.name, stored.version, stored.created_at, data, str(error))
        data = msgspec.json.decode(stored.text)
        del data["digest"]
        return cls(stored.name, stored.version, stored.created_at, data)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart.

        Raises:
            DefinitionError: it is damaged.
        """
        if self.damage is not None:
            raise DefinitionError(self.damage)
        return Definition(self.data, is_stored=True).compile(None, lambda name: None).to_mermaid()


def known_workflows(registry: Registry, announced: Mapping[str, CatalogEntry]) -> dict[str, Known]:
    """Return what definitions may call: what is registered here, and what workers have announced."""
    known = {}
    for name, entry in announced.items():
        kind = _kind(entry)
        is_graph = kind in GRAPHS
        takes = Takes((), is_value=True) if is_graph else Takes.schema(msgspec.json.decode(entry.input_schema))
        known[name] = Known(takes, kind)
    for name, workflow in registry.workflows.items():
        kind = str(workflow.details().get("kind", "workflow"))
        known[name] = Known(Takes.of(workflow), kind)
    return known


def _kind(entry: CatalogEntry) -> str:
    return str(msgspec.json.decode(entry.details).get("kind", "workflow"))


async def check(client: Client, definition: Definition, *, is_anyway: bool = False) -> Dag:
    """Return the workflow of a definition, checked against what is registered here and what workers have announced.

    Raises:
        DefinitionError: something is wrong with it.
    """
    registry, name = client.registry, definition.name
    if name.startswith(OURS):
        raise DefinitionError(f"name: {name!r} begins with {OURS!r}, which is Perdure's own; give it another one")
    registry.announced = newest(await client.store.catalog())
    is_of_code = name in registry.workflows and not registry.has_defined(name)
    if not is_anyway and name in registry.announced:
        is_of_code = is_of_code or _kind(registry.announced[name]) != "definition"
    if is_of_code:
        raise DefinitionError(f"name: a workflow {name!r} is written in code; give the definition another one")
    known = None if is_anyway else known_workflows(registry, registry.announced)
    return await asyncio.to_thread(definition.compile, known, registry.find)  # a task's check may take its time


async def publish(
    client: Client, definition: Definition, env: Env, *, is_anyway: bool
) -> tuple[PublishedDefinition, Dag]:
    """Keep a definition in the store and make it known, once it is found to be right.

    Raises:
        DefinitionError: it is wrong, or its version is taken by another content.
    """
    store = client.store
    checked = await check(client, definition, is_anyway=is_anyway)
    stored = definition.stored(checked, env.now())
    (kept,) = await store.define([stored])
    if msgspec.json.decode(kept.text).get("digest") != definition.digest:
        raise DefinitionError(
            f"version: definition {definition.name!r} has a version {definition.version!r} with another content, and "
            "versions do not change; give it another one"
        )
    dag = Definition.of_stored(kept).compile(None, client.registry.find)
    if kept.created_at == stored.created_at:
        await store.publish([entry_of(dag, env.now(), "")])
    return PublishedDefinition.of(kept), dag


def definition_of(given: object) -> Definition:
    """Return the definition of data, of a JSON or YAML text, or of a file.

    Raises:
        DefinitionError: it is none.
    """
    if isinstance(given, Definition):
        return given
    if isinstance(given, str) and "\n" not in given and given.endswith((".json", ".yaml", ".yml")):
        given = Path(given)
    if isinstance(given, Path):
        try:
            given = given.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DefinitionError(f"the definition cannot be read: {error}") from None
    if isinstance(given, str):
        return Definition.of_text(given)
    definition = Definition(given)
    if not definition.found and len(msgspec.json.encode(definition.content)) > TEXT_BYTES:
        raise DefinitionError(f"the definition is longer than {TEXT_BYTES:,} bytes")
    return definition


class Definitions(Verbs):
    """The verbs of `Perdure` for definitions."""

    async def publish(self, definition: Mapping[str, Any] | str | Path, *, anyway: bool = False) -> PublishedDefinition:
        """Publish a workflow that is written as data, so that it can be started by its name.

        Publishing the same content again is nothing. Runs are worked by the version they were started with; new ones
        take the newest.

        Args:
            definition: the data, a JSON or YAML text, or the path of a file with one.
            anyway: even if it calls what no worker has announced.

        Raises:
            DefinitionError: something is wrong with it: the message lists everything, each with its path; or its
                version is taken by another content.
        """
        read = await asyncio.to_thread(definition_of, definition)
        published, dag = await publish(self.client, read, self.world, is_anyway=anyway)
        self.client.registry.add_definition(dag, published.created_at)
        if self.client.worker is not None:
            self.client.worker.wake()
        return published

    async def validate(self, definition: Mapping[str, Any] | str | Path) -> PublishedDefinition:
        """Check a definition as `publish` does, and return what it would keep, without keeping it.

        Raises:
            DefinitionError: something is wrong with it: the message lists everything, each with its path.
        """
        read = await asyncio.to_thread(definition_of, definition)
        return PublishedDefinition.of(read.stored(await check(self.client, read), self.world.now()))

    async def definitions(self) -> list[PublishedDefinition]:
        """Return the store's definitions, all versions, by when they were published."""
        return [PublishedDefinition.of(each) for each in await self.client.store.definitions()]
