from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.model.run import Created
from perdure.store import Store, open_store
from tests.store.making import NOW, STORES, new, one, store_at

KINDS = list(STORES)

QUIET = 0.2
"""Seconds without a hint after which none is on its way."""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_is_of_no_use_before_open_and_after_close(kind: str, tmp_path: Path) -> None:
    store = store_at(kind, tmp_path)
    with pytest.raises(StoreUnavailableError, match="open"):
        await store.create([new("a")])
    await store.open()
    await store.open()
    await store.create([new("a")])
    await store.close()
    await store.close()
    for asked in (store.create([new("b")]), store.get(["a"]), store.wait(1)):
        with pytest.raises(StoreUnavailableError, match="open"):
            await asked


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_was_closed_can_be_opened_again(kind: str, tmp_path: Path) -> None:
    store = store_at(kind, tmp_path)
    await store.open()
    await store.create([new("a")])
    await store.close()
    await store.open()
    assert (await one(store, "a")).id == "a"
    await store.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_close_finishes_what_is_under_way(kind: str, tmp_path: Path) -> None:
    store = store_at(kind, tmp_path)
    await store.open()
    asked = [asyncio.ensure_future(store.create([new(f"r{number}")])) for number in range(50)]
    await asyncio.sleep(0)
    await store.close()
    answers = [(await answer)[0] for answer in asked]
    # One whose first answer was lost on a busy machine was asked again, and then says that its run is there.
    assert answers == [Created(f"r{number}", answers[number].is_new, "") for number in range(50)]
    await store.open()
    assert [run and run.id for run in await store.get([f"r{number}" for number in range(50)])] == [
        f"r{number}" for number in range(50)
    ]
    await store.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_two_stores_at_one_place_see_each_others_runs(kind: str, tmp_path: Path) -> None:
    one_store, other = store_at(kind, tmp_path), store_at(kind, tmp_path)
    await one_store.open()
    await other.open()
    await one_store.create([new("a")])
    assert (await one(other, "a")).id == "a"
    assert [claim.run.id for claim in await other.claim(["default"], 5, "w", NOW, NOW + 1)] == ["a"]
    assert await one_store.claim(["default"], 5, "w", NOW, NOW + 1) == []
    await one_store.close()
    await other.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_ends_when_another_store_writes(kind: str, tmp_path: Path) -> None:
    one_store, other = store_at(kind, tmp_path), store_at(kind, tmp_path)
    await one_store.open()
    await other.open()
    await one_store.wait(0)
    waiting = asyncio.ensure_future(one_store.wait(30))
    await asyncio.sleep(0)
    await other.create([new("a")])
    assert await waiting is True
    # a change between two waits is not missed
    await other.create([new("b")])
    assert await one_store.wait(30) is True
    while await one_store.wait(QUIET):
        pass
    assert await other.claim(["an empty queue"], 10, "w", NOW, NOW + 1) == []
    assert await one_store.wait(QUIET) is False
    await one_store.close()
    await other.close()


async def test_a_wait_ends_in_time_and_at_once_when_cancelled(store: Store) -> None:
    assert await store.wait(0.01) is False
    waiting = asyncio.ensure_future(store.wait(3600))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_store_may_be_used_from_several_loops_at_once(store: Store) -> None:
    def elsewhere(name: str) -> None:
        async def create() -> None:
            for number in range(20):
                await store.create([new(f"{name}{number}")])

        asyncio.run(create())

    await asyncio.gather(*(asyncio.to_thread(elsewhere, name) for name in "abc"), store.create([new("mine")]))
    assert sum((await store.stats(NOW)).status.values()) == 61


async def test_a_store_says_what_it_is(store: Store) -> None:
    info = await store.describe()
    assert info.url.startswith(("memory://", "sqlite:///", "postgresql://", "redis://"))
    assert "ss%2Fword" not in info.url
    assert "p@ss" not in f"{info}"
    assert info.durability in {"D0 memory", "D1 relaxed", "D2 local", "D3 replicated"}
    assert info.survives.endswith(".")
    assert info.schema_version >= 1


@pytest.mark.parametrize(
    ("url", "options", "hint"),
    [
        ("mysql://host/db", {}, "memory://, sqlite:///"),
        ("orders.db", {}, "sqlite:///"),
        ("", {}, "sqlite:///"),
        ("sqlite:///:memory:", {}, "memory://"),
        ("sqlite://", {}, "names no file"),
        ("sqlite:///", {}, "names no file"),
        ("sqlite://orders.db", {}, "sqlite:///orders.db"),
        ("sqlite:///a.db?speed=1", {}, "no option speed"),
        ("sqlite:///a.db", {"speed": 1}, "no option speed"),
        ("sqlite:///a.db?synchronous=maybe", {}, "synchronous"),
        ("sqlite:///a.db?busy_timeout=soon", {}, "busy_timeout"),
        ("memory://?size=1", {}, "no options"),
    ],
)
def test_a_url_that_says_nothing(url: str, options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        open_store(url, **options)


async def test_unnamed_memory_stores_are_apart_and_named_ones_together() -> None:
    stores = [open_store(url) for url in ("memory://", "memory://", "memory://shared-name", "memory://shared-name")]
    for store in stores:
        await store.open()
    await stores[0].create([new("a")])
    await stores[2].create([new("b")])
    assert [await store.get(["a", "b"]) == [None, None] for store in stores] == [False, True, False, False]


async def test_a_url_may_be_relative_escaped_and_have_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///my%20orders.db?synchronous=off&busy_timeout=2s", synchronous="normal")
    await store.open()
    info = await store.describe()
    await store.close()
    assert (tmp_path / "my orders.db").exists()
    assert info.url == f"sqlite:///{tmp_path}/my%20orders.db"
    assert (info.durability, info.settings["busy_timeout"]) == ("D1 relaxed", "2s")
    assert store_url_opens(info.url)


def store_url_opens(url: str) -> bool:
    return open_store(url) is not None
