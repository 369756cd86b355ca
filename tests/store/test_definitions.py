"""Workflows as data: a version is kept as it was first defined."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.model.decision import StoredDefinition
from perdure.store import Store
from tests.store.making import NOW

ONE = StoredDefinition("checkout", "1", '{"steps": ["é\\n🎉", 1e400]}', NOW)


async def test_none_at_first(store: Store) -> None:
    assert await store.definitions() == []
    assert await store.define([]) == []


async def test_a_definition_is_kept_and_told(store: Store) -> None:
    assert await store.define([ONE]) == [ONE]
    assert await store.definitions() == [ONE]


async def test_a_version_never_changes(store: Store) -> None:
    await store.define([ONE])
    assert await store.define([replace(ONE, text="{}", created_at=NOW - 9)]) == [ONE]
    assert await store.definitions() == [ONE]


async def test_what_is_kept_comes_in_the_order_that_was_asked(store: Store) -> None:
    second, other = replace(ONE, version="2", text="[2]"), replace(ONE, name="refund", text="[3]")
    await store.define([second])
    asked = [other, replace(second, text="[4]"), ONE, replace(ONE, text="[5]"), other]
    assert await store.define(asked) == [other, second, ONE, ONE, other]


async def test_they_are_listed_by_time_then_name_and_version(store: Store) -> None:
    late = replace(ONE, name="a", created_at=NOW + 1)
    same = [replace(ONE, name=name, version=version) for name in ("é", "b", "B") for version in ("2", "10", "")]
    await store.define([late, *same])
    listed = [(kept.name, kept.version) for kept in await store.definitions()]
    assert listed == [(name, version) for name in ("B", "b", "é") for version in ("", "10", "2")] + [("a", "1")]


async def test_others_see_them(stores: list[Store]) -> None:
    await stores[0].define([ONE])
    assert await stores[1].define([replace(ONE, text="{}")]) == [ONE]
    assert await stores[2].definitions() == [ONE]


async def test_others_hear_of_them(stores: list[Store]) -> None:
    while await stores[0].wait(0.5):
        pass
    await stores[1].define([ONE])
    assert await stores[0].wait(4)  # less than after which a store looks by itself
