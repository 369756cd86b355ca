"""What is listed of a store: the workflows that it knows of, and runs for which something holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from perdure.authoring.announcing import entry_of
from perdure.authoring.workflow import Workflow
from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.model.decision import CatalogEntry, RunFilter, RunPage
from perdure.model.run import Run
from perdure.store.contract import Store

LOOKS = 20
"""How many pages are looked through for one of those runs for which something holds, at most."""


class WorkflowSummary(msgspec.Struct, frozen=True):
    """A workflow, as workers have announced it.

    Attributes:
        name: its name.
        kind: `workflow`, `task`, `dag` or `definition`.
        versions: those that were announced, the latest first.
        queue: where its runs go.
        input: JSON Schema of its input: of an object with its arguments by name, or of a graph's one value; empty where
            nothing is known of it.
        output: JSON Schema of its result; None where nothing is known of it.
        doc: the first paragraph of what is written about it.
        workers: who announced it in the last 90 seconds: of each version, the one that did so last.
        seen_at: when it was announced last, in milliseconds since the epoch; None if it is only registered here.
    """

    name: str
    kind: str
    versions: tuple[str, ...]
    queue: str
    input: dict[str, Any]
    output: dict[str, Any] | None
    doc: str
    workers: tuple[str, ...]
    seen_at: int | None


async def find_those(
    store: Store, where: RunFilter, holds: Callable[[Run], bool], limit: int, cursor: str | None
) -> RunPage:
    """Return a page of those runs for which something holds, latest created first.

    Where it holds for few, or the store has looked at as many as it does at once, a page has fewer than `limit`, though
    more follow.
    """
    found: list[Run] = []
    for _ in range(LOOKS):
        asked = limit - len(found)
        page = await store.find(where, asked, cursor)
        found += [run for run in page.runs if holds(run)]
        cursor = page.cursor
        if cursor is None or len(found) == limit or len(page.runs) < asked:
            break
    return RunPage(found, cursor)


def summaries(
    catalog: Iterable[CatalogEntry], registered: Iterable[Workflow[..., Any]], now: int
) -> list[WorkflowSummary]:
    """Return the workflows of a catalog and those that are registered here, by name.

    Args:
        catalog: what was announced.
        registered: what is registered here; where it was announced too, that counts.
        now: the time, in milliseconds since the epoch.
    """
    entries: dict[str, list[CatalogEntry]] = {}
    for entry in sorted(catalog, key=lambda entry: entry.seen_at, reverse=True):
        entries.setdefault(entry.workflow, []).append(entry)
    found = {name: _summary(announced, announced[0].seen_at, now) for name, announced in entries.items()}
    for workflow in registered:
        if workflow.name not in found:
            found[workflow.name] = _summary([entry_of(workflow, now, "")], None, now)
    return [found[name] for name in sorted(found)]


def _summary(entries: list[CatalogEntry], seen_at: int | None, now: int) -> WorkflowSummary:
    latest = entries[0]
    about = msgspec.json.decode(latest.details)
    present = [entry.worker for entry in entries if entry.worker and now - entry.seen_at <= WORKER_GONE_AFTER]
    return WorkflowSummary(
        latest.workflow,
        str(about.get("kind", "workflow")),
        tuple(entry.version for entry in entries),
        latest.queue,
        msgspec.json.decode(latest.input_schema),
        about.get("output"),
        str(about.get("doc", "")),
        tuple(dict.fromkeys(present)),
        seen_at,
    )
