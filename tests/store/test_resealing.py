"""A store gets another key while it is used: every text, whatever it belongs to, and nothing but texts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import apsw
import asyncpg
import msgspec
import pytest
import redis.asyncio

from perdure.model.archive import Archive
from perdure.model.decision import StoredDefinition
from perdure.model.document import Document
from perdure.model.encryption import SEALED, Encryption
from perdure.model.errors import DecryptionError, StoreCorruptError, StoreUnavailableError
from perdure.model.rewording import Rewording
from perdure.model.run import Dedup
from perdure.store import Store, open_store, resealing
from perdure.store.marked import MARK
from perdure.store.resealing import Resealed, reseal
from perdure.store.sealing import key_of
from tests.store.filling import dumped, fill
from tests.store.making import CAPACITY, NOW, STORES, event, new, record

KEYS = {"a": bytes(32), "b": bytes(range(32)), "c": bytes(range(1, 33))}


def keys(ids: str) -> Encryption:
    return Encryption({name: KEYS[name] for name in ids})


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return STORES[request.param](tmp_path)


async def at(url: str, ids: str = "") -> Store:
    opened = open_store(url, keys(ids) if ids else None)
    await opened.open()
    return opened


@pytest.fixture
async def raw(url: str) -> AsyncIterator[Store]:
    """The store as it is, with what was written with the key `a`."""
    sealed = await at(url, "a")
    await fill(sealed)
    await sealed.create([new("shared", records=(record(0, "input", "1"),), dedup=Dedup("shared", None, True))])
    await sealed.post([event("waiting", f"more-{number}") for number in range(5)], NOW, CAPACITY)
    await sealed.define([StoredDefinition("w", version, f'"{version}"', NOW) for version in "123"])
    await sealed.put([Document("views", f"{number:03}", f'"{number}"', at=NOW) for number in range(70)])
    await sealed.put([Document("views", "007", '"again"', 1, NOW + 1), Document("audit", "1", "x")])
    await sealed.close()
    opened = await at(url)
    yield opened
    await opened.close()


class Everything(msgspec.Struct):
    archives: list[Archive]
    definitions: list[StoredDefinition]
    documents: list[Document]


async def everything(url: str, ids: str = "") -> Everything:
    store = await at(url, ids)
    documents = [kept for name in await store.collections() for kept in await store.documents(name, 999)]
    if ids:
        documents = [kept for kept in documents if kept.collection != MARK.collection]  # each `open` may change it
    found = Everything(await dumped(store), await store.definitions(), documents)
    await store.close()
    return found


def texts_in(value: Any) -> list[str]:
    """Every text in what a store keeps that looks encrypted."""
    if isinstance(value, str):
        return [value] if value.startswith(SEALED) else []
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts_in(each)]
    return [text for each in value for text in texts_in(each)] if isinstance(value, list) else []


async def named(url: str) -> dict[str, int]:
    """How many texts name each key, as they stand in the store."""
    counts: dict[str, int] = {}
    for text in texts_in(msgspec.to_builtins(await everything(url))):
        counts[key_of(text)] = counts.get(key_of(text), 0) + 1
    return counts


async def test_every_text_gets_the_newest_key_and_says_the_same(raw: Store, url: str) -> None:
    before, (old, count) = await everything(url, "a"), next(iter((await named(url)).items()))
    assert (old, count) > ("a", 120)
    for ids, done in (("ba", count), ("cb", count), ("cb", 0)):
        told = await reseal(raw, keys(ids))
        assert told == Resealed(ids[0], done, {ids[0]: count}, 0, ())
        assert told.is_whole
        assert await named(url) == {ids[0]: count}
        assert await everything(url, ids[0]) == before


async def stored(url: str, tmp_path: Path) -> str:
    """Everything that stands in a store's tables or keys, whoever can reach it."""
    place, _, options = url.partition("?")
    named = dict(parse_qsl(options))
    if place.startswith("sqlite"):
        whole = tmp_path / "whole.db"
        with contextlib.closing(apsw.Connection(place.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM INTO ?", (str(whole),))
        return whole.read_bytes().decode(errors="replace")
    if place.startswith("postgres"):
        connection = await asyncpg.connect(place)
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", named["schema"])
        rows = [await connection.fetch(f"SELECT t::text FROM {named['schema']}.{name} AS t") for (name,) in tables]
        await connection.close()
        return "\n".join(text for table in rows for (text,) in table)
    client = redis.asyncio.Redis.from_url(place)
    found = []
    async for key in client.scan_iter(f"{{{named['prefix']}:*"):
        is_hash = await client.type(key) == b"hash"
        found.append(repr(await (client.hgetall(key) if is_hash else client.zrange(key, 0, -1))))
    await client.aclose()
    return "\n".join(found)


@pytest.mark.parametrize("url", ["sqlite", "postgres", "redis"], indirect=True)
async def test_nothing_of_the_old_key_is_left_in_any_place(raw: Store, url: str, tmp_path: Path) -> None:
    assert "sealed:a:" in await stored(url, tmp_path)
    await reseal(raw, keys("ba"))
    (tmp_path / "whole.db").unlink(missing_ok=True)
    left = await stored(url, tmp_path)
    assert (left.count("sealed:b") > 100, left.count("sealed:a")) == (True, 0)


async def test_what_is_shared_by_runs_of_one_key_stays_so(raw: Store, url: str) -> None:
    await reseal(raw, keys("ba"))
    (text,) = [kept.payload for kept in await raw.journal("shared")]
    assert (text or "").startswith(f"{SEALED}b~:")
    store = await at(url, "b")
    again = new("shared/2", records=(record(0, "input", "2"),), dedup=Dedup("shared", None, True))
    assert [made.id for made in await store.create([again])] == ["shared"]
    assert (await store.journal("shared"))[0].payload == "2"
    await store.close()


async def test_a_trial_only_counts(raw: Store, url: str) -> None:
    before = await everything(url)
    count = (await named(url))["a"]
    seen: list[tuple[int, int]] = []
    told = await reseal(raw, keys("ba"), dry_run=True, told=lambda number, texts: seen.append((number, texts)))
    assert told == Resealed("b", 0, {"a": count}, 0, ())
    assert not told.is_whole
    assert seen[-1] == (1, count)
    assert await everything(url) == before


class Failing:
    """A store whose server goes away after a while."""

    def __init__(self, store: Store, left: int) -> None:
        self._store = store
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        if not self._left:
            raise StoreUnavailableError("gone")
        self._left -= 1
        return await self._store.reword(rewordings)


async def test_one_that_was_cut_off_is_gone_on_with(raw: Store, url: str) -> None:
    before, count = await everything(url, "a"), (await named(url))["a"]
    done = 0
    for left in (1, 10, 40):
        with pytest.raises(StoreUnavailableError):
            await reseal(Failing(raw, left), keys("ba"))  # type: ignore[arg-type]  # passes all else on
        counted = await named(url)
        assert (counted["b"] > done, counted["a"] + counted["b"]) == (True, count)
        done = counted["b"]
    told = await reseal(raw, keys("ba"))
    assert (told.resealed, told.texts) == (count - done, {"b": count})
    assert await everything(url, "b") == before


async def test_long_journals_are_done_in_pieces(raw: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resealing, "TEXTS_AT_ONCE", 7)
    store = await at(url, "a")
    records = (record(0, "input", "0"), *(record(number, payload=f'"{number}"') for number in range(1, 60)))
    await store.create([new("long", records=records)])
    await store.close()
    assert (await reseal(raw, keys("ba"))).is_whole
    monkeypatch.setattr(resealing, "BYTES_AT_ONCE", 100)
    assert (await reseal(raw, keys("cb"))).is_whole
    store = await at(url, "c")
    assert await store.journal("long") == list(records)
    await store.close()


async def test_what_is_written_meanwhile_with_the_old_key_is_done_too(raw: Store, url: str) -> None:
    worker, number = await at(url, "ab"), 0

    class Busy(Failing):
        async def reword(self, rewordings: Sequence[Rewording]) -> int:
            nonlocal number
            if number < 30:
                number += 1
                await worker.create([new(f"fresh-{number}")])
                await worker.put(
                    [Document("views", f"0{number:03}", "fresh"), Document("views", "070", f"{number}", 0)]
                )
            return await super().reword(rewordings)

    told = await reseal(Busy(raw, 10**9), keys("ba"))  # type: ignore[arg-type]  # passes all else on
    assert told.is_whole
    assert (await named(url)).keys() == {"b"}
    await worker.close()


async def test_a_text_whose_key_is_missing_is_told_and_stays(raw: Store, url: str) -> None:
    await reseal(raw, keys("ba"))
    store = await at(url, "cb")
    await store.create([new("fresh")])
    await store.close()
    (document,) = await raw.read(MARK.collection, [MARK.key])
    assert document is not None
    assert key_of(document.text or "") == "c"
    before = await named(url)
    told = await reseal(raw, keys("ca"))
    assert (told.resealed, told.texts, told.unreadable, len(told.reasons)) == (0, before, before["b"], 5)
    assert "is encrypted with key 'b', which is not here" in told.reasons[0]
    assert not told.is_whole
    assert await named(url) == before


async def test_a_text_that_was_changed_is_told_and_stays_and_all_others_are_done(raw: Store, url: str) -> None:
    runs = {each.run.id: each for each in (await raw.dump(100)).archives}
    text, others = runs["waiting"].journal[2].payload or "", runs["queued"].journal[0].payload or ""
    await raw.reword([Rewording("run", "waiting", {text: others})])
    await raw.reword([Rewording("document", "audit", {(await raw.documents("audit", 1))[0].text or "": "plain"}, "1")])
    count = (await named(url))["a"]
    told = await reseal(raw, keys("ba"))
    assert (told.resealed, told.texts, told.unreadable) == (count - 1, {"a": 1, "b": count - 1}, 2)
    assert "document 1 1 of 'audit' is not encrypted" in told.reasons[0]
    assert "of 'waiting' was changed in the store" in told.reasons[1]


async def test_other_keys_and_what_is_not_encrypted_are_refused(raw: Store, url: str) -> None:
    before = await everything(url)
    with pytest.raises(DecryptionError, match="key 'a', which is not here"):
        await reseal(raw, keys("b"))
    with pytest.raises(DecryptionError, match="its key 'a' is another one here"):
        await reseal(raw, Encryption({"b": KEYS["b"], "a": KEYS["c"]}))
    with pytest.raises(DecryptionError, match="was changed in the store, or moved there"):
        await reseal(raw, keys("ba").scoped("acme"))
    assert await everything(url) == before
    plain = await at("memory://")
    with pytest.raises(StoreCorruptError, match="memory:// is not encrypted: move it with perdure migrate"):
        await reseal(plain, keys("a"))
