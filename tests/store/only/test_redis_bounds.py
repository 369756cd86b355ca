"""What one script works on is bounded: long journals, large inboxes, long histories, and damage."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.model.decision import Action, Control, Lease, RunFilter
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.model.run import Retention, RunStatus
from perdure.store import open_store
from perdure.store.redis.store import RedisStore
from tests.servers import ValkeyServer, cut, label
from tests.store.making import NOW, decide, event, held, leased, new, one, record

BRIEF = Retention(0, 0, 0)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server of this module's own, whose calls the tests count."""
    with ValkeyServer() as started:
        yield started


@pytest.fixture
async def store(server: ValkeyServer, tmp_path: Path) -> AsyncIterator[RedisStore]:
    opened = open_store(server.url(prefix=label(tmp_path)))
    assert isinstance(opened, RedisStore)
    await opened.open()
    yield opened
    await opened.close()


def stat(server: ValkeyServer, command: str, field: str) -> int:
    told = server.info("commandstats").get(f"cmdstat_{command}", "")
    return int(dict(part.split("=") for part in told.split(",") if part).get(field, 0))


def size(server: ValkeyServer, store: RedisStore, name: str) -> int:
    key = store._shards[0].key(name).decode()
    return int(server.call("ZCARD" if name in {"mail", "due", "expires", "created"} else "HLEN", key)) - 1  # what stays


async def long_run(store: RedisStore, run_id: str, records: int, messages: int) -> None:
    """A run that is due, with so many records and messages."""
    run = await held(store, run_id)
    kept = tuple(record(position) for position in range(1, records))
    await store.post([event(run_id, f"m{number}") for number in range(messages)], NOW, messages)
    await store.commit([decide(run, "queued", seen=messages, due_at=NOW + 1, records=kept)])


@pytest.mark.parametrize(("bound", "of"), [("RECORDS", 10), ("PIECE_BYTES", 500)])
async def test_a_long_run_is_handed_out_in_pages(
    server: ValkeyServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch, bound: str, of: int
) -> None:
    for number in range(3):
        await long_run(store, f"r{number}", 150, 130)
    await store.create([new("short", NOW + 2)])
    monkeypatch.setattr(f"perdure.store.redis.turns.{bound}", of)
    before = stat(server, "evalsha", "calls")
    claims = await store.claim(["default"], 10, "w", NOW + 2, NOW + 1000)
    assert stat(server, "evalsha", "calls") - before >= 13
    assert [claimed.run.id for claimed in claims] == ["r0", "r1", "r2", "short"]
    for claimed in claims[:3]:
        assert [kept.position for kept in claimed.journal] == list(range(150))
        assert [message.id for message in claimed.inbox] == [f"m{number}" for number in range(130)]


async def test_what_was_not_handed_out_is_for_who_has_the_lease(store: RedisStore) -> None:
    await long_run(store, "a", 3, 2)
    run = await leased(store, "a", NOW + 1)
    await store.post([event("a", "later")], NOW, 10)
    calls, shard = (await store._opened()).calls, store._shards[0]
    asked = (0, 0, run.inbox_seq, 10, 10_000)
    count, *parts = await calls.run(shard, "held", ("a", run.epoch, *asked), writes=False)
    assert (count, parts[count], parts[count + 2], len(parts)) == (3, 1, 2, 7)
    assert await calls.run(shard, "held", ("a", run.epoch - 1, *asked), writes=False) == []
    await store.extend([Lease("a", run.epoch, NOW)], NOW)
    assert await calls.run(shard, "held", ("a", run.epoch, *asked), writes=False) == []


async def test_messages_count_in_what_one_script_hands_out(
    server: ValkeyServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.store.redis.turns.RECORDS", 50)
    await store.create([new(f"r{number}") for number in range(10)])
    for number in range(10):
        await store.post([event(f"r{number}", f"m{index}") for index in range(20)], NOW, 100)
    before = stat(server, "evalsha", "calls")
    claims = await store.claim(["default"], 10, "w", NOW, NOW + 1000)
    assert stat(server, "evalsha", "calls") - before == 5
    assert [len(claimed.inbox) for claimed in claims] == [20] * 10


async def test_an_answer_may_take_as_long_as_something_comes(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url(prefix=label(tmp_path), listen="off")
    near = open_store(url)
    await near.open()
    run = await held(near, "a")
    payload = f'"{"x" * 1_000_000}"'
    await near.commit(
        [decide(run, "queued", due_at=NOW, records=(record(1, payload=payload), record(2, payload=payload)))]
    )
    monkeypatch.setattr("perdure.store.redis.calls.ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("perdure.store.redis.calls._SHORTEST_ANSWER", 0.3)

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        while piece := await reader.read(32_768):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(seconds)

    accepted: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        ways = [
            asyncio.ensure_future(trickle(reader, far_writer, 0)),
            asyncio.ensure_future(trickle(far_reader, writer, 0.02)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        far_writer.transport.abort()
        writer.transport.abort()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    slow = open_store(url.replace(f":{server.port}", f":{listening.sockets[0].getsockname()[1]}"))
    await slow.open()
    (claimed,) = await slow.claim(["default"], 1, "w", NOW, NOW + 1000)
    assert (len(claimed.journal), claimed.run.epoch) == (3, run.epoch + 1)
    await slow.close()
    await near.close()
    await asyncio.gather(*filter(None, accepted))
    listening.close()
    await listening.wait_closed()


async def test_a_claim_that_is_not_answered_is_not_made_again(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.store.redis.calls.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("perdure.store.redis.calls._SHORTEST_ANSWER", 0.2)
    async with cut(server.port) as line:
        url = server.url(prefix=label(tmp_path), listen="off")
        store, near = open_store(line.url(url)), open_store(url)
        await store.open()
        await near.open()
        await store.create([new("a"), new("b")])
        assert await store.claim(["default"], 1, "w", NOW - 1, NOW) == []
        server.call("CLIENT", "PAUSE", 600, "ALL")
        with pytest.raises(StoreUnavailableError, match="did not answer in time"):
            await store.claim(["default"], 1, "w", NOW, NOW + 1000)
        server.call("CLIENT", "UNPAUSE")
        assert (await one(near, "b")).epoch == 0
        await store.close()
        await near.close()


async def test_read_messages_are_not_looked_at_again(server: ValkeyServer, store: RedisStore) -> None:
    run = await held(store, "a")
    await store.post([event("a", "never")], NOW, 10**6)
    for seq in range(1, 11):
        ids = [f"m{seq}.{number}" for number in range(2000)]
        await store.post([event("a", message) for message in ids], NOW, 10**6)
        await store.commit([decide(run, seq=seq, consumed=tuple(ids), seen=2000 * seq + 1)])
    took = []
    for _ in range(5):
        await store.extend([Lease("a", run.epoch, NOW)], NOW)
        server.call("CONFIG", "RESETSTAT")
        (claimed,) = await store.claim(["default"], 1, "w", NOW, NOW + 1000)
        run = claimed.run
        assert [message.id for message in claimed.inbox] == ["never"]
        took.append(stat(server, "hmget", "usec"))
    assert min(took) < 1000


async def test_continuing_as_new_looks_at_the_messages_of_children_alone(
    server: ValkeyServer, store: RedisStore
) -> None:
    run = await held(store, "a")
    ids = [f"m{number}" for number in range(2000)]
    await store.post([event("a", message) for message in ids], NOW, 10**6)
    await store.post([event("a", "c1", kind="child"), event("a", "c2", kind="child"), event("a", "left")], NOW, 10**6)
    await store.commit([decide(run, consumed=(*ids, "c1"), seen=2003)])
    server.call("CONFIG", "RESETSTAT")
    await store.commit([decide(run, seq=2, seen=2003, renew=(record(0, "input"),))])
    assert stat(server, "hget", "calls") < 10
    assert (size(server, store, "inbox"), size(server, store, "seen"), size(server, store, "mail")) == (2001, 2001, 1)
    assert [message.id for message in await store.inbox("a")] == ["left"]
    assert [posted.value for posted in await store.post([event("a", "c1"), event("a", "m7")], NOW, 10)] == [
        "new",
        "duplicate",
    ]
    await store.control([Control("a", Action.RESTART)], NOW)
    assert (size(server, store, "inbox"), size(server, store, "mail")) == (2, 2)


async def test_a_long_run_is_removed_in_pieces(
    server: ValkeyServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await store.create([new(name, retention=BRIEF)])
        await store.post([event(name, f"m{number}") for number in range(25)], NOW, 100)
        await store.post([event(name, "c", kind="child")], NOW, 100)
        run = await leased(store, name)
        kept = tuple(record(position) for position in range(1, 60))
        await store.commit([decide(run, "complete", records=kept, consumed=("m1",))])
    await store.create([new("other")])
    calls, shard = (await store._opened()).calls, store._shards[0]
    assert await calls.run(shard, "prune", (NOW, 1, 10), writes=True) == [1, 1]
    assert await store.get(["a"]) == [None]
    assert [run.id for run in (await store.find(RunFilter(), 10)).runs] == ["other", "b"]
    assert {archive.run.id for archive in (await store.dump(10)).archives} == {"b", "other"}
    assert sum((await store.stats(NOW)).status.values()) == 2
    assert [made.is_new for made in await store.create([new("a")])] == [True]
    monkeypatch.setattr("perdure.store.redis.control.PRUNED_RECORDS", 10)
    before = stat(server, "evalsha", "calls")
    assert await store.prune(NOW, 1) == 1
    assert stat(server, "evalsha", "calls") - before >= 16
    assert [size(server, store, name) for name in ("ids", "runs", "records", "inbox", "seen", "mail", "expires")] == [
        2,
        2,
        2,
        0,
        0,
        0,
        0,
    ]
    assert await store.prune(NOW, 10) == 0


async def test_a_damaged_run_holds_nobody_up(server: ValkeyServer, store: RedisStore) -> None:
    await store.create([new(name) for name in ("bad", "worse", "good", "better")])
    key = store._shards[0].key
    server.call("HDEL", key("records").decode(), "11:0")
    server.call("HDEL", key("runs").decode(), "12")
    claims = await store.claim(["default"], 1, "w", NOW, NOW + 1000)
    assert [claimed.run.id for claimed in claims] == ["good"]
    assert (await one(store, "bad")).status is RunStatus.PAUSED
    assert [claimed.run.id for claimed in await store.claim(["default"], 9, "w", NOW, NOW + 1000)] == ["better"]
    assert await store.next_due(["default"]) == NOW + 1000
    assert (await store.find(RunFilter(), 9)).runs[-1].id == "bad"


async def test_an_archive_whose_journal_is_not_whole_is_refused(store: RedisStore) -> None:
    await store.create([new("a")])
    (archive,) = (await store.dump(1)).archives
    damaged = replace(archive, run=replace(archive.run, id="b", journal_length=2))
    with pytest.raises(UsageError, match="run 'b' has 1 records where it says 2"):
        await store.load([replace(archive, run=replace(archive.run, id="c")), damaged])
    assert await store.get(["b", "c"]) == [None, None]


async def test_looking_for_a_rare_tag_takes_few_scripts(server: ValkeyServer, store: RedisStore) -> None:
    await store.create([new(f"r{number}", NOW, tags={"order": str(number)}) for number in range(1200)])
    before = stat(server, "evalsha", "calls")
    page = await store.find(RunFilter(tags={"order": "3"}), 1)
    assert [run.id for run in page.runs] == ["r3"]
    assert stat(server, "evalsha", "calls") - before <= 8


async def test_a_server_of_another_language_sorts_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["localedef", "-i", "da_DK", "-f", "UTF-8", str(tmp_path / "da_DK.UTF-8")]
    if shutil.which(made[0]) is None or subprocess.run(made, check=False).returncode:  # noqa: ASYNC221  # nobody waits
        pytest.skip("this machine cannot make the language of Denmark, in which aa comes after z")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "da_DK.UTF-8")
    with ValkeyServer() as server:
        store = open_store(server.url())
        await store.open()
        early, late, now = 0x019AA0000000, 0x019AB0000000, 0x019AC0000000
        await store.create([new("b", late), new("a", early), new("c", now, workflow="other"), new("d", now + 1)])
        assert sum(queue.due for queue in (await store.stats(now)).queues) == 3
        claims = await store.claim(["default"], 10, "w", now, now + 1000)
        assert [claimed.run.id for claimed in claims] == ["a", "b", "c"]
        await store.close()
