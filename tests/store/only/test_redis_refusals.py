"""What a Valkey can have against us, and we against it: each in one line that names the cure."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from perdure.model.decision import CatalogEntry
from perdure.model.errors import (
    PerdureError,
    SchemaTooNewError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)
from perdure.store import Store, open_store
from perdure.store.redis.errors import translated
from perdure.store.redis.keys import NAMES
from perdure.store.redis.server import Server, _require
from perdure.store.redis.settings import settings_of
from tests.servers import ValkeyServer, label, valkey, valkey_cluster
from tests.store.making import NOW, decide, held, new, record


@pytest.fixture(scope="module")
def guarded() -> Iterator[ValkeyServer]:
    """A server of this module's own, with a password that a URL has to escape."""
    with ValkeyServer(requirepass="p@ss/word") as server:
        yield server


@pytest.fixture
async def store(guarded: ValkeyServer, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(guarded.url(prefix=label(tmp_path)))
    await opened.open()
    yield opened
    await opened.close()


async def refusal(kind: type[PerdureError], url: str, **options: Any) -> str:
    """What opening says; one line without a password."""
    store = open_store(url, **{"patience": "200ms", **options})
    with pytest.raises(kind) as caught:
        await store.open()
    message = str(caught.value)
    assert "\n" not in message
    assert "p@ss" not in message
    assert "p%40ss" not in message
    return message


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("shards", "0", "whole number from 1"),
        ("shards", "many", "whole number from 1"),
        ("durability", "disk", "server, fsync or replicated:1"),
        ("durability", "replicated:0", "server, fsync or replicated:1"),
        ("evicting", "yes", "refuse or allow"),
        ("listen", "maybe", "on or off"),
        ("poll", "soon", "no duration"),
        ("pool_size", "-1", "whole number from 1"),
        ("patience", "9999 weeks", "between 0 seconds and 100 years"),
        ("prefix", "a{b}", "letters, digits"),
        ("colour", "red", "it has durability, evicting, listen"),
    ],
)
def test_an_option_out_of_range(option: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"store: .*{option}.*{says}"):
        open_store("redis://localhost", **{option: value})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://localhost/zero", "is no database"),
        ("redis://localhost/0/1", "is no database"),
        ("redis://localhost:port/0", "is no host:port"),
        ("redis+sentinel://localhost:26379", "names no service"),
    ],
)
def test_a_url_that_is_none(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_store(url)


def test_a_url_is_read() -> None:
    watched = settings_of("valkeys+sentinel://me:a%2Fb@one:1,two/orders/3?x=1", {})
    assert [str(address) for address in watched.addresses] == ["one:1", "two:26379"]
    assert (watched.service, watched.database, watched.username, watched.password) == ("orders", 3, "me", "a/b")
    assert watched.is_encrypted
    assert watched.url == "valkeys+sentinel://me@one:1,two/orders/3"
    plain = settings_of("redis://", {})
    assert [str(address) for address in plain.addresses] == ["localhost:6379"]
    assert (plain.database, plain.is_encrypted, plain.service) == (0, False, None)
    assert settings_of("rediss://[::1]:7000/2", {}).addresses[0].host == "::1"


async def test_nobody_there() -> None:
    with ValkeyServer() as server:
        url = server.url()
    message = await refusal(StoreUnavailableError, url)
    assert re.search(r"127\.0\.0\.1:\d+ cannot be reached .*: start the server, or correct the store's URL$", message)


async def test_several_servers_are_a_cluster(guarded: ValkeyServer, tmp_path: Path) -> None:
    gone_first = guarded.url().replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:")
    assert "names several servers that are no cluster" in await refusal(UsageError, gone_first)
    node = valkey_cluster().url(prefix=label(tmp_path))
    store = open_store(node.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:"))
    await store.open()
    assert (await store.describe()).settings["cluster"] == "yes"
    assert (await store.describe()).settings["shards"] == "16"
    await store.close()


async def test_a_wrong_password(guarded: ValkeyServer) -> None:
    wrong = guarded.url().replace("p%40ss", "guess")
    assert "refuses the user or the password" in await refusal(StoreUnavailableError, wrong)
    none = f"redis://127.0.0.1:{guarded.port}"
    assert "refuses the user or the password" in await refusal(StoreUnavailableError, none)


def test_a_certificate_that_nobody_vouches_for() -> None:
    refused = exceptions.ConnectionError("Error 1 connecting to db:6379. [SSL: CERTIFICATE_VERIFY_FAILED] self-signed.")
    message = str(translated(refused, "db:6379", 10))
    assert message.startswith("db:6379: TLS failed (")
    assert "name the authority of its certificate in SSL_CERT_FILE, or write redis:// if it has no TLS" in message


async def test_no_such_database(guarded: ValkeyServer) -> None:
    assert "no such database" in await refusal(UsageError, guarded.url(99))


async def test_a_server_that_throws_data_away(guarded: ValkeyServer, tmp_path: Path) -> None:
    url = guarded.url(prefix=label(tmp_path))
    guarded.call("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    try:
        assert "set maxmemory-policy noeviction" in await refusal(StoreUnavailableError, url)
        allowed = open_store(url, evicting="allow")
        await allowed.open()
        assert "throw runs away" in " ".join((await allowed.describe()).warnings)
        await allowed.close()
    finally:
        guarded.call("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")


def test_a_server_that_is_too_old() -> None:
    settings = settings_of("redis://localhost", {})
    config = {"maxmemory": "0", "maxmemory-policy": "noeviction", "appendonly": "no"}
    with pytest.raises(StoreUnavailableError, match=r"here is Redis 6.0.16: Perdure needs 6.2 or later, so upgrade it"):
        _require(Server({"redis_version": "6.0.16"}, config), settings, "here")
    _require(Server({"redis_version": "6.2.0"}, config), settings, "here")
    with pytest.raises(StoreUnavailableError, match=r"durability=fsync needs version 7.2"):
        _require(
            Server({"redis_version": "7.0.1", "aof_enabled": "1"}, config),
            settings_of("redis://localhost", {"durability": "fsync"}),
            "here",
        )


async def test_a_replica(guarded: ValkeyServer) -> None:
    with ValkeyServer(replicaof=f"127.0.0.1 {guarded.port}", masterauth="p@ss/word") as replica:
        message = await refusal(StoreReadOnlyError, replica.url())
    assert f"is a replica of 127.0.0.1:{guarded.port}: give that one's address" in message


async def test_a_store_of_a_newer_perdure(guarded: ValkeyServer, store: Store, tmp_path: Path) -> None:
    guarded.call("HSET", f"{{{label(tmp_path)}:0}}:meta", "schema", "99")
    message = await refusal(SchemaTooNewError, guarded.url(prefix=label(tmp_path)))
    assert "has schema 99, and this Perdure knows up to 3: upgrade this program" in message


async def test_a_prefix_that_holds_something_else(guarded: ValkeyServer, store: Store, tmp_path: Path) -> None:
    prefix = label(tmp_path)
    guarded.call("HSET", f"{{{prefix}:0}}:meta", "schema", "blue")
    assert "give another ?prefix=" in await refusal(StoreCorruptError, guarded.url(prefix=prefix))
    guarded.call("DEL", f"{{{prefix}:0}}:meta")
    guarded.call("SET", f"{{{prefix}:0}}:meta", "mine")
    assert "?prefix=" in await refusal(StoreCorruptError, guarded.url(prefix=prefix))
    guarded.call("DEL", f"{{{prefix}:0}}:meta")
    guarded.call("SET", f"{{{prefix}:0}}:ids", "mine")
    with pytest.raises(StoreCorruptError, match=r"\?prefix="):
        await store.create([new("a")])


async def test_another_number_of_shards(guarded: ValkeyServer, store: Store, tmp_path: Path) -> None:
    url = guarded.url(prefix=label(tmp_path))
    assert "has 1 shards, and that stays" in await refusal(UsageError, url, shards=2)
    same = open_store(url, shards="1")
    await same.open()
    await same.close()


async def test_a_server_that_is_full_keeps_nothing_of_the_operation(
    guarded: ValkeyServer, store: Store, tmp_path: Path
) -> None:
    run = await held(store, "a")
    guarded.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(StoreFullError, match=r"maxmemory; nothing of the operation was kept: raise it"):
            await store.create([new("b")])
    finally:
        guarded.call("CONFIG", "SET", "maxmemory", "0")
    assert await store.get(["a", "b"]) == [run, None]
    assert [created.is_new for created in await store.create([new("b")])] == [True]


async def test_a_server_that_cannot_write_to_its_disk() -> None:
    with ValkeyServer(save="3600 1") as server:
        store = open_store(server.url())
        await store.open()
        (server.folder / "dump.rdb").mkdir()
        server.call("BGSAVE")
        server.until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "fail to save")
        with pytest.raises(StoreFullError, match=r"cannot write to its own disk.* nothing of the operation was kept"):
            await store.create([new("a")])
        assert await store.get(["a"]) == [None]
        await store.close()
        server.kill()  # asked to end, it would not without saving


async def test_a_user_without_the_right(guarded: ValkeyServer, store: Store, tmp_path: Path) -> None:
    guarded.call("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all", "-evalsha")
    url = f"redis://reader:secret@127.0.0.1:{guarded.port}"
    assert "does not allow this user" in await refusal(StoreReadOnlyError, url, prefix=label(tmp_path))


@pytest.mark.parametrize("missing", ["zadd", "zrem", "hincrby", "hdel", "zrevrangebylex", "hscan"])
async def test_a_missing_right_shows_before_half_of_something_is_done(
    guarded: ValkeyServer, store: Store, tmp_path: Path, missing: str
) -> None:
    guarded.call("ACL", "SETUSER", "half", "reset", "on", ">secret", "~*", "&*", "+@all", f"-{missing}")
    url = f"redis://half:secret@127.0.0.1:{guarded.port}"
    for shards in ("1", "3"):
        message = await refusal(StoreReadOnlyError, url, prefix=f"{label(tmp_path)}{shards}", shards=shards)
        assert "does not allow this user what Perdure does (" in message
        assert missing in message
        assert guarded.call("HLEN", f"{{{label(tmp_path)}{shards}:0}}:ids") <= 1


@pytest.mark.parametrize("name", [*NAMES, "catalog", "definitions"])
async def test_every_key_is_looked_at(guarded: ValkeyServer, tmp_path: Path, name: str) -> None:
    guarded.call("SET", f"{{{label(tmp_path)}:0}}:{name}", "mine")
    assert "give another one with ?prefix=" in await refusal(StoreCorruptError, guarded.url(prefix=label(tmp_path)))


async def test_a_full_server_can_be_opened(guarded: ValkeyServer, store: Store, tmp_path: Path) -> None:
    guarded.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        again = open_store(guarded.url(prefix=label(tmp_path)))
        await again.open()
        await again.close()
    finally:
        guarded.call("CONFIG", "SET", "maxmemory", "0")


async def test_a_user_with_no_more_rights_than_the_documentation_asks_for(
    guarded: ValkeyServer, tmp_path: Path
) -> None:
    prefix = label(tmp_path)
    classes = (
        "+@hash",
        "+@sortedset",
        "+@scripting",
        "+@connection",
        "+@pubsub",
        "+info",
        "+time",
        "+wait",
        "+waitaof",
    )
    guarded.call("ACL", "SETUSER", "modest", "on", ">secret", f"~{{{prefix}:*", f"&{prefix}:changed", *classes)
    store = open_store(f"redis://modest:secret@127.0.0.1:{guarded.port}", prefix=prefix, shards="3", durability="fsync")
    await store.open()
    run = await held(store, "a")
    assert [committed.is_lost for committed in await store.commit([decide(run, records=(record(1),))])] == [False]
    await store.publish([CatalogEntry("checkout", "1", "default", "{}", NOW, "w")])
    assert [entry.workflow for entry in await store.catalog()] == ["checkout"]
    assert await store.prune(NOW, 10) == 0
    assert (await store.describe()).settings["appendfsync"] == "unknown"
    assert await store.clock() is not None
    assert not await store.wait(0.01)
    await store.close()
    with pytest.raises(StoreReadOnlyError, match="NOPERM|permission"):
        other = open_store(f"redis://modest:secret@127.0.0.1:{guarded.port}", prefix=f"x{prefix}")
        await other.open()


async def test_a_server_that_does_not_tell_its_settings(guarded: ValkeyServer, tmp_path: Path) -> None:
    guarded.call("ACL", "SETUSER", "tenant", "on", ">secret", "~*", "&*", "+@all", "-config")
    store = open_store(f"redis://tenant:secret@127.0.0.1:{guarded.port}", prefix=label(tmp_path))
    await store.open()
    told = await store.describe()
    await store.close()
    assert told.settings["appendfsync"] == "unknown"
    assert told.settings["appendonly"] == "yes"
    assert "CONFIG is forbidden" in " ".join(told.warnings)
    assert told.url == f"redis://tenant@127.0.0.1:{guarded.port}"


async def test_a_script_of_somebody_else_that_does_not_end(tmp_path: Path) -> None:
    with ValkeyServer(**{"busy-reply-threshold": "100"}) as server:
        store = open_store(server.url(patience="300ms"))
        await store.open()
        endless = asyncio.create_task(asyncio.to_thread(_swallow, server, "EVAL", "while true do end", 0))
        with pytest.raises(StoreUnavailableError, match="busy with somebody's script .* SCRIPT KILL"):
            while True:
                await store.next_due(["default"])
                await asyncio.sleep(0)
        server.call("SCRIPT", "KILL")
        await endless
        assert await store.next_due(["default"]) is None
        await store.close()


def _swallow(server: ValkeyServer, *command: Any) -> None:
    with pytest.raises(Exception, match="killed"):
        server.call(*command)


async def test_what_is_not_open() -> None:
    store = open_store(valkey().url())
    with pytest.raises(StoreUnavailableError, match="is not open"):
        await store.claim(["default"], 1, "w", NOW, NOW)
    with pytest.raises(StoreUnavailableError, match="is not open"):
        await store.wait(0)


async def test_no_transactions_for_a_programs_own_sql(store: Store) -> None:
    with pytest.raises(UsageError, match="redis://"):
        await store.begin()
    with pytest.raises(UsageError, match="redis://"):
        await store.create_in(object(), [])
