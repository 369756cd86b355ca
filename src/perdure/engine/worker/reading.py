"""How workers come to know of the definitions in their store.

A definition is compiled in whichever process works its runs. A worker reads the store's definitions when it starts,
with its housekeeping, soon after something happened in the store (`READ_AGAIN`), and when it has claimed a run of a
version that it does not know. So a run is always worked by the very version it was started with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from perdure.authoring.graphs.dag import Dag
from perdure.authoring.graphs.definition import Definition
from perdure.authoring.registry import Registry
from perdure.engine.env import pause
from perdure.model.decision import CatalogEntry, Claim
from perdure.model.errors import DefinitionError, StoreError
from perdure.model.run import Run
from perdure.store.contract import Store

if TYPE_CHECKING:
    from perdure.engine.worker.worker import Worker

READ_AGAIN = 2.0
"""Seconds after which a worker reads the definitions again, if something more happened in the store."""

READ_SHARE = 20
"""Where reading them takes long, how many times as long a worker then waits at least."""

_log = logging.getLogger("perdure.engine")


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
        try:
            await self.read()
        except StoreError as error:
            _log.warning("definitions of claimed runs cannot be read: %s", error)
            return
        for claim in claims:
            run = claim.run
            if registry.has_defined(run.workflow) and registry.program(run.workflow, run.version) is None:
                registry.add_version(_Absent(run.workflow, run.version))

    def hint(self) -> None:
        """Something happened in the store, or a run was started of what is not known here."""
        self._is_due.set()

    async def keep_reading(self) -> None:
        """Read at a hint, and then not again for a while, for as long as the worker lives."""
        env = self._worker.env
        while self._is_on:
            await self._is_due.wait()
            self._is_due.clear()
            began = env.now()
            try:
                if await read_definitions(self._worker.store, self._worker.registry, self._read):
                    self._worker.wake()
            except StoreError as error:
                _log.warning("definitions are read later: %s", error)
            await pause(env, max(READ_AGAIN, READ_SHARE * (env.now() - began) / 1000))


class _Absent(Dag):
    """A version of a definition that is not in the store."""

    def __init__(self, name: str, version: str) -> None:
        dag = Definition({"name": "absent", "steps": [{"task": "absent"}]}).compile(None, lambda name: None)
        super().__init__(dag.graph, dag.nodes, name=name, version=version, kind="definition")

    def begin(self, payload: str, run: Run) -> Any:
        """Refuse to begin."""
        if not self.version:  # a definition's version is never empty
            raise DefinitionError(
                f"the run is of a workflow {self.name!r} that is written in code, whose name a definition has now; "
                "give one of them another name, then restart the run where the code is"
            )
        raise DefinitionError(
            f"version {self.version!r} of definition {self.name!r} is not in this store; publish it, then restart "
            "the run"
        )


async def read_definitions(store: Store, registry: Registry, read: set[tuple[str, str]]) -> bool:
    """Take the store's definitions into a registry; return whether there were any that it did not have.

    What they call may be announced, or move to another queue, after they are published, so the catalog is read anew.

    Args:
        store, registry: from where to where.
        read: which were read before.
    """
    stored = await store.definitions()
    if stored:
        registry.announced = newest(await store.catalog())
    fresh = [each for each in stored if (each.name, each.version) not in read]
    for each in fresh:
        read.add((each.name, each.version))
        try:
            dag = Definition.of_stored(each).compile(None, registry.find)
        except DefinitionError as error:
            _log.error("version %s of definition %r cannot be read: %s", each.version, each.name, error)
            continue
        if not registry.add_definition(dag, each.created_at):
            _log.warning("definition %r is not worked here: a workflow of that name is written in code", each.name)
    return bool(fresh)


def newest(catalog: Iterable[CatalogEntry]) -> dict[str, CatalogEntry]:
    """Return the entry that was last announced of each workflow."""
    found: dict[str, CatalogEntry] = {}
    for entry in catalog:
        if entry.workflow not in found or entry.seen_at > found[entry.workflow].seen_at:
            found[entry.workflow] = entry
    return found
