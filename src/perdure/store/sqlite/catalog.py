"""What is known of workflows: which ones workers have, and which ones are written as data."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from perdure.model.decision import CatalogEntry, StoredDefinition

_PUBLISH = """
INSERT INTO catalog (workflow, version, queue, input_schema, seen_at, worker, details)
SELECT value->>'$.workflow', value->>'$.version', value->>'$.queue', value->>'$.input_schema', value->>'$.seen_at',
    value->>'$.worker', value->>'$.details'
FROM jsonb_each(?) WHERE true
ON CONFLICT (workflow, version) DO UPDATE SET
    queue = excluded.queue, input_schema = excluded.input_schema, seen_at = excluded.seen_at, worker = excluded.worker,
    details = excluded.details
"""

_CATALOG = """
SELECT json_group_array(json_object('workflow', workflow, 'version', version, 'queue', queue,
    'input_schema', input_schema, 'seen_at', seen_at, 'worker', worker, 'details', details) ORDER BY workflow, version)
FROM catalog
"""

_DEFINE = """
INSERT INTO definitions (name, version, text, created_at)
SELECT value->>'$.name', value->>'$.version', value->>'$.text', value->>'$.created_at' FROM jsonb_each(?) WHERE true
ON CONFLICT (name, version) DO NOTHING
"""

_DEFINITION = "json_object('name', d.name, 'version', d.version, 'text', d.text, 'created_at', d.created_at)"
_DEFINED = f"""
SELECT json_group_array({_DEFINITION} ORDER BY j.key)
FROM jsonb_each(?) AS j
CROSS JOIN definitions AS d ON d.name = j.value->>'$.name' AND d.version = j.value->>'$.version'
"""
_DEFINITIONS = f"SELECT json_group_array({_DEFINITION} ORDER BY created_at, name, version) FROM definitions AS d"


def publish(connection: apsw.Connection, entries: Sequence[CatalogEntry]) -> None:
    """Put workflows into the catalog."""
    connection.execute(_PUBLISH, (_json(entries),))


def catalog(connection: apsw.Connection) -> list[CatalogEntry]:
    """Return the catalog."""
    return msgspec.json.decode(connection.execute(_CATALOG).get, type=list[CatalogEntry])


def define(connection: apsw.Connection, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
    """Keep definitions whose names and versions are free; return what is kept under them."""
    asked = (_json(definitions),)
    connection.execute(_DEFINE, asked)
    return msgspec.json.decode(connection.execute(_DEFINED, asked).get, type=list[StoredDefinition])


def definitions(connection: apsw.Connection) -> list[StoredDefinition]:
    """Return every definition."""
    return msgspec.json.decode(connection.execute(_DEFINITIONS).get, type=list[StoredDefinition])


def _json(batch: object) -> str:
    return msgspec.json.encode(batch).decode()
