"""What is known of a workflow as a graph: of a definition from the store, of one in code from what workers announce."""

from __future__ import annotations

import msgspec

from perdure.engine.app import Perdure
from perdure.engine.definitions import PublishedDefinition
from perdure.model.run import Run
from perdure.server.dashboard.graphs import Step, steps_of_definition, steps_of_details


async def definitions_of(app: Perdure, name: str) -> list[PublishedDefinition]:
    """Return the versions of a definition, latest published first; none where there is no such definition."""
    found = [stored for stored in await app.store.definitions() if stored.name == name]
    return [PublishedDefinition.of(stored) for stored in reversed(found)]


async def graph_of(app: Perdure, run: Run) -> list[Step]:
    """Return the steps of the graph that a run is of; none where it is of none, or not known."""
    entry = next((each for each in await app.client.announced.entries() if each.workflow == run.workflow), None)
    details = {} if entry is None else msgspec.json.decode(entry.details)
    if details.get("kind") != "definition":
        return steps_of_details(details)
    for published in await definitions_of(app, run.workflow):
        if published.version == run.version:
            return steps_of_definition(published.data)
    return []
