from __future__ import annotations

from msgspec.structs import replace

from perdure.model.decision import CatalogEntry
from perdure.store import Store
from tests.store.making import NOW

ENTRY = CatalogEntry("checkout", "v1", "default", '{"type": "object", "const": 1e400}', NOW, "worker-1")


async def test_entries_come_back_sorted_by_workflow_and_version(store: Store) -> None:
    entries = [
        replace(ENTRY, workflow=name, version=version) for name in ("b'", "a", "é") for version in ("2", "10", "")
    ]
    await store.publish(entries)
    expected = [(name, version) for name in ("a", "b'", "é") for version in ("", "10", "2")]
    assert [(entry.workflow, entry.version) for entry in await store.catalog()] == expected


async def test_an_entry_of_the_same_version_is_replaced(store: Store) -> None:
    await store.publish([ENTRY])
    newer = replace(ENTRY, queue="other", input_schema="{}", seen_at=NOW + 1, worker="worker-2")
    await store.publish([newer])
    assert await store.catalog() == [newer]


async def test_of_two_in_one_call_the_last_one_stays(store: Store) -> None:
    await store.publish([ENTRY, replace(ENTRY, queue="last")])
    assert [entry.queue for entry in await store.catalog()] == ["last"]


async def test_an_empty_catalog(store: Store) -> None:
    await store.publish([])
    assert await store.catalog() == []
