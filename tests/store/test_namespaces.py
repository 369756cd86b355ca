"""A namespace is a store of its own, at a URL that follows from another's."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from perdure.model.document import Document
from perdure.model.errors import UsageError
from perdure.store import namespaced, open_store
from tests.store.making import NOW, STORES, new


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://", "memory://"),
        ("memory://shop", "memory://shop.acme"),
        ("sqlite:///shop.db", "sqlite:///shop.acme.db"),
        ("sqlite:////var/lib.d/shop", "sqlite:////var/lib.d/shop.acme"),
        ("sqlite:////var/.shop?synchronous=off", "sqlite:////var/.shop.acme?synchronous=off"),
        ("sqlite:///a.b/s.hop.db?busy_timeout=5%20s", "sqlite:///a.b/s.hop.acme.db?busy_timeout=5%20s"),
        ("postgresql://ada:s%40@db:5432/orders", "postgresql://ada:s%40@db:5432/orders?schema=perdure_acme"),
        ("postgres://db/orders?sslmode=require&schema=s", "postgres://db/orders?sslmode=require&schema=s_acme"),
        ("redis://:pw@one:6379/0", "redis://:pw@one:6379/0?prefix=perdure.acme"),
        ("valkeys://one?prefix=p&shards=4", "valkeys://one?prefix=p.acme&shards=4"),
        ("redis+sentinel://one,two/main/0", "redis+sentinel://one,two/main/0?prefix=perdure.acme"),
    ],
)
def test_each_store_has_a_place_for_it(url: str, expected: str) -> None:
    assert namespaced(url, "acme") == expected
    assert namespaced(url, "default") == url


def test_a_schema_has_letters_that_it_may_have() -> None:
    assert namespaced("postgresql://db/orders", "eu-1_a") == "postgresql://db/orders?schema=perdure_eu__1_a"


@pytest.mark.parametrize("name", ["", "A", "é", "a b", "a.b", "a/b", "-a", "a-", "a--b", "a_-b", "x" * 41])
def test_a_name_is_short_and_plain(name: str) -> None:
    with pytest.raises(UsageError, match=r"^namespace: .* must be up to 40 small letters and digits, with single - or"):
        namespaced("memory://shop", name)


TEXTS = ("".join(letters) for length in range(1, 7) for letters in itertools.product("ab0_-", repeat=length))
NAMES = [text for text in TEXTS if re.fullmatch(r"[ab0]+([_-][ab0]+)*", text)]


@pytest.mark.parametrize("url", ["sqlite:///s.db", "postgresql://db/orders", "redis://one", "memory://shop"])
def test_two_names_are_two_stores(url: str) -> None:
    places = {namespaced(url, name): name for name in NAMES}
    assert [places[namespaced(url, name)] for name in NAMES] == NAMES


@pytest.mark.parametrize("kind", STORES)
async def test_nothing_of_one_is_seen_in_another(kind: str, tmp_path: Path) -> None:
    url = STORES[kind](tmp_path)
    stores = [open_store(namespaced(url, name)) for name in ("default", "acme", "acme-2")]
    for store in stores:
        await store.open()
    await stores[1].create([new("a")])
    await stores[1].put([Document("views", "a", "{}")])
    assert [run is None for store in stores for run in await store.get(["a"])] == [True, False, True]
    assert [len(await store.documents("views", 9)) for store in stores] == [0, 1, 0]
    assert [len(await store.claim(["default"], 9, "w", NOW, NOW + 9)) for store in stores] == [0, 1, 0]
    for store in stores:
        await store.close()
