"""What workers announce of a workflow, so that others can start it, call it and show it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.authoring.schemas import SCHEMA_BYTES
from perdure.authoring.workflow import Workflow
from perdure.model.codec import encode
from perdure.model.decision import CatalogEntry
from perdure.model.errors import PayloadTooLargeError

GRAPHS = ("dag", "definition")
"""The kinds of workflows whose input is one value, whatever it is."""

DOC_CHARACTERS = 1_000
"""How much of a description is announced."""

_made: weakref.WeakKeyDictionary[Workflow[..., Any], tuple[str, dict[str, Any]]] = weakref.WeakKeyDictionary()
"""What was made of each workflow; it is announced again and again."""


def entry_of(
    workflow: Workflow[..., Any], now: int, worker: str, more: Mapping[str, Any] | None = None
) -> CatalogEntry:
    """Return what is announced of a workflow.

    Args:
        workflow: which one.
        now: the time, in milliseconds since the epoch.
        worker: who announces it; empty for none.
        more: details beside the workflow's own, as JSON data.
    """
    input_schema, about = _schemas(workflow)
    details = {**workflow.details(), **about, **(more or {})}
    return CatalogEntry(
        workflow.name, workflow.version, workflow.queue, input_schema, now, worker, encode(details, "it", 1 << 62)
    )


def described(text: str | None) -> str:
    """Return the first paragraph of a docstring, on one line."""
    paragraph = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return paragraph if len(paragraph) <= DOC_CHARACTERS else paragraph[: DOC_CHARACTERS - 1] + "…"


def _schemas(workflow: Workflow[..., Any]) -> tuple[str, dict[str, Any]]:
    """Return the schema of the input as text, and of the output and the description what there is."""
    if workflow not in _made:
        output, doc = _bounded(workflow.output_schema()), described(workflow.doc)
        about: dict[str, Any] = {"output": msgspec.Raw(output.encode())} if output else {}
        _made[workflow] = _bounded(workflow.input_schema()) or "{}", about | ({"doc": doc} if doc else {})
    return _made[workflow]


def _bounded(schema: Mapping[str, Any] | None) -> str:
    try:
        return "" if schema is None else encode(schema, "a schema", SCHEMA_BYTES)
    except PayloadTooLargeError:
        return ""
