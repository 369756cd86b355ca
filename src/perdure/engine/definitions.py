"""Definitions in the store: how they are published, and how workers come to know of them.

A definition is compiled in whichever process works its runs. A worker reads the store's definitions when it starts,
when it is told that something happened in the store, once in `READ_AGAIN` seconds at most, and when it has claimed a
run of a version that it does not know. So a run is always worked by the very version it was started with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.authoring.binding import Takes
from perdure.authoring.dag import Dag
from perdure.authoring.definition import Definition, Known
from perdure.authoring.registry import Registry
from perdure.engine.client import Client
from perdure.engine.env import Env, pause
from perdure.model.decision import CatalogEntry, Claim, StoredDefinition
from perdure.model.errors import DefinitionError, StoreError
from perdure.model.run import Run
from perdure.store.contract import Store

if TYPE_CHECKING:
    from perdure.engine.worker import Worker

READ_AGAIN = 2.0
"""Seconds after which a worker reads the definitions again, if something happened in the store."""

_log = logging.getLogger("perdure.engine")


class PublishedDefinition(msgspec.Struct, frozen=True):
    """A definition in the store.

    Attributes:
        name, version: which.
        created_at: when it was published, in milliseconds since the epoch.
        data: what was published, its fields in Perdure's own spelling, and with what each step is called with.
    """

    name: str
    version: str
    created_at: int
    data: dict[str, Any]

    @classmethod
    def of(cls, stored: StoredDefinition) -> PublishedDefinition:
        """Return what the store has."""
        data = msgspec.json.decode(stored.text)
        data.pop("digest", None)
        return cls(stored.name, stored.version, stored.created_at, data)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        return Definition(self.data).compile(None, lambda name: None).to_mermaid()


class Reading:
    """A worker's knowledge of the store's definitions.

    Args:
        worker: whose registry takes them in.
        is_on: whether it works definitions at all.
    """

    def __init__(self, worker: Worker, *, is_on: bool) -> None:
        self._worker = worker
        self._is_on = is_on
        self._read: set[tuple[str, str]] = set()
        self._is_due = asyncio.Event()

    async def read(self) -> None:
        """Take in what the store has and is not known yet."""
        if self._is_on:
            await read_definitions(self._worker.store, self._worker.registry, self._read)

    async def require(self, claims: Sequence[Claim]) -> None:
        """Take in the definitions of claimed runs; a run of one that is not in the store ends with an error."""
        registry = self._worker.registry
        if all(registry.program(claim.run.workflow, claim.run.version) is not None for claim in claims):
            return
        await self.read()
        for claim in claims:
            run = claim.run
            if registry.has_defined(run.workflow) and registry.program(run.workflow, run.version) is None:
                registry.add_version(_Absent(run.workflow, run.version))

    def hint(self) -> None:
        """Something happened in the store."""
        self._is_due.set()

    async def keep_reading(self) -> None:
        """Read after hints, for as long as the worker lives."""
        while self._is_on:
            await self._is_due.wait()
            await pause(self._worker.env, READ_AGAIN)
            self._is_due.clear()
            try:
                if await read_definitions(self._worker.store, self._worker.registry, self._read):
                    self._worker.wake()
            except StoreError as error:
                _log.warning("definitions are read later: %s", error)


class _Absent(Dag):
    """A version of a definition that is not in the store: it was moved here without, or published elsewhere."""

    def __init__(self, name: str, version: str) -> None:
        found = Definition({"name": name, "version": version, "steps": [{"task": "absent"}]})
        dag = found.compile(None, lambda name: None)
        super().__init__(dag.graph, dag.nodes, name=name, version=version, kind="definition")

    def begin(self, payload: str, run: Run) -> Any:
        """Refuse to begin."""
        raise DefinitionError(
            f"version {self.version!r} of definition {self.name!r} is not in this store; publish it, then restart "
            "the run"
        )


async def read_definitions(store: Store, registry: Registry, read: set[tuple[str, str]]) -> bool:
    """Take the store's definitions into a registry; return whether there were any that it did not have.

    Args:
        store, registry: from where to where.
        read: which were read before.
    """
    stored = await store.definitions()
    fresh = [each for each in stored if (each.name, each.version) not in read]
    if not fresh:
        return False
    registry.announced = newest(await store.catalog())
    for each in fresh:
        read.add((each.name, each.version))
        try:
            dag = Definition.of_stored(each).compile(None, registry.find)
        except (DefinitionError, msgspec.MsgspecError) as error:
            _log.error("version %s of definition %r cannot be read: %s", each.version, each.name, error)
            continue
        if not registry.add_definition(dag, each.created_at):
            _log.warning("definition %r is not worked here: a workflow of that name is written in code", each.name)
    return True


def newest(catalog: Iterable[CatalogEntry]) -> dict[str, CatalogEntry]:
    """Return the entry that was last announced of each workflow."""
    found: dict[str, CatalogEntry] = {}
    for entry in catalog:
        if entry.workflow not in found or entry.seen_at > found[entry.workflow].seen_at:
            found[entry.workflow] = entry
    return found


def known_workflows(registry: Registry, announced: Mapping[str, CatalogEntry]) -> dict[str, Known]:
    """Return what definitions may call: what is registered here, and what workers have announced."""
    known = {}
    for name, entry in announced.items():
        kind = str(msgspec.json.decode(entry.details).get("kind", "workflow"))
        is_graph = kind in ("dag", "definition")
        takes = Takes((), is_value=True) if is_graph else Takes.schema(msgspec.json.decode(entry.input_schema))
        known[name] = Known(takes, kind)
    for name, workflow in registry.workflows.items():
        kind = str(workflow.details().get("kind", "workflow"))
        known[name] = Known(Takes.parameters(workflow.parameters), kind)
    return known


async def publish(
    client: Client, definition: Definition, env: Env, *, is_anyway: bool
) -> tuple[PublishedDefinition, Dag]:
    """Keep a definition in the store and make it known, once it is found to be right.

    Raises:
        DefinitionError: it is wrong, or its version is taken by another content.
    """
    store, registry = client.store, client.registry
    if definition.name in registry.workflows and not registry.has_defined(definition.name):
        raise DefinitionError(
            f"name: a workflow {definition.name!r} is written in code; give the definition another one"
        )
    registry.announced = newest(await store.catalog())
    known = None if is_anyway else known_workflows(registry, registry.announced)
    dag = definition.compile(known, registry.find)
    stored = definition.stored(dag, env.now())
    (kept,) = await store.define([stored])
    if msgspec.json.decode(kept.text).get("digest") != definition.digest:
        raise DefinitionError(
            f"version: definition {definition.name!r} has a version {definition.version!r} with another content, and "
            "versions do not change; give it another one"
        )
    if kept.created_at == stored.created_at:
        entry = CatalogEntry(dag.name, dag.version, dag.queue, "{}", env.now(), "", _details(dag))
        await store.publish([entry])
    return PublishedDefinition.of(kept), dag


def _details(dag: Dag) -> str:
    return msgspec.json.encode(dag.details()).decode()


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
    return Definition.of_text(given) if isinstance(given, str) else Definition(given)


class Definitions:
    """The verbs of `Perdure` for definitions."""

    client: Client
    world: Env
    worker: Worker | None

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
        if self.worker is not None:
            self.worker.wake()
        return published

    async def definitions(self) -> list[PublishedDefinition]:
        """Return the store's definitions, all versions, by when they were published."""
        return [PublishedDefinition.of(each) for each in await self.client.store.definitions()]
