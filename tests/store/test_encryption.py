"""What an encrypted store shows to whoever reads or writes the store beneath it, and what becomes of wrong keys."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from perdure.model import codec
from perdure.model.decision import Action, Control, Lease, Message, RunFilter, StoredDefinition
from perdure.model.document import Document
from perdure.model.encryption import SEALED, Encryption
from perdure.model.errors import DecryptionError, StoreCorruptError, UsageError
from perdure.model.run import Dedup, RunStatus
from perdure.store import Store, open_store
from perdure.store.marked import MARK, is_encrypted, require_plain
from tests.store.making import CAPACITY, ENCRYPTION, NOW, decide, event, leased, new, one, record

OLD, NEW = bytes(32), bytes(range(32))
CANARIES = 50
OTHERS = "SELECT payload FROM records"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await at(url)
    yield opened
    await opened.close()


async def at(url: str, encryption: Encryption | None = ENCRYPTION) -> Store:
    opened = open_store(url, encryption)
    await opened.open()
    return opened


def sql(url: str, text: str, *values: object) -> list[tuple[object, ...]]:
    """Do to the file what somebody else can who may write it."""
    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    try:
        return list(connection.execute(text, values))
    finally:
        connection.close()


def canaries() -> Iterator[str]:
    """Texts that are found nowhere by chance, each as the JSON of a string."""
    return (f'"canary-{number:03}-7f3a9c"' for number in itertools.count())


async def fill(store: Store, said: Iterator[str]) -> None:
    """Store a canary wherever users' data can be."""

    def told(*fields: str) -> dict[str, str]:
        return {field: next(said) for field in fields}

    await store.create([new("a", records=(record(0, "input", next(said), ref=next(said)),), fingerprint=next(said))])
    run = await leased(store, "a")
    await store.extend([Lease("a", run.epoch, NOW + 60_000, next(said))], NOW)
    child = new("a/b", parent_id="a", parent_key="b", records=(record(0, "input", next(said)),), refusal=next(said))
    decision = decide(run, records=(record(1, "k", next(said), ref=next(said)),), children=(child,), **told("state"))
    await store.commit([decision])
    failed = record(2, "k2", next(said), kind="timer")
    await store.commit([decide(run, "waiting", seq=2, records=(failed,), children=(child,), **told("wait"))])
    await store.post([event("a", f"m{number}", next(said)) for number in range(5)], NOW, CAPACITY)
    await store.control([Control("a/b", Action.TERMINATE, next(said))], NOW)
    for run_id in ("c", "d", "e"):
        await store.create([new(run_id, records=(record(0, "input", next(said)),), dedup=Dedup(run_id, None, True))])
        again = new(f"{run_id}/2", records=(record(0, "input", next(said)),), dedup=Dedup(run_id, None, True))
        await store.create([again])
    run = await leased(store, "c")
    posts = (Message("d", "m", "event", "go", next(said), NOW),)
    output = record(1, "output", next(said), kind="output")
    await store.commit([decide(run, "complete", records=(output,), posts=posts)])
    run = await leased(store, "e", NOW + 70_000, NOW + 99_000)
    renewed = (record(0, "input", next(said)), record(1, "k", next(said)))
    await store.commit([decide(run, "queued", NOW + 70_000, renew=renewed, due_at=NOW)])
    await store.define([StoredDefinition("w", "1", next(said), NOW)])
    await store.put([Document("views", key, next(said)) for key in ("x", "y", "z")])
    await store.put([Document("views", "x", next(said), 1), Document("views", "y", next(said), 1)])
    archive = (await store.dump(1)).archives[0]
    moved = replace(archive, run=replace(archive.run, id="moved", state=next(said), progress=next(said)))
    await store.load([moved])
    await store.post([event("moved", f"n{number}", next(said)) for number in range(30)], NOW, CAPACITY)


async def test_a_file_shows_none_of_fifty_canaries_though_all_were_stored(url: str, tmp_path: Path) -> None:
    shown = {}
    for name, encryption in (("plain", None), ("sealed", ENCRYPTION)):
        place = f"sqlite:///{tmp_path}/{name}.db"
        opened = await at(place, encryption)
        said = canaries()
        await fill(opened, said)
        count = int(next(said)[8:11])
        files = b"".join((tmp_path / f"{name}.db{end}").read_bytes() for end in ("", "-wal"))
        shown[name] = sum(f"canary-{number:03}".encode() in files for number in range(count))
        await opened.close()
        assert count >= CANARIES
    assert shown["plain"] >= CANARIES  # so they are where they can be found
    assert shown["sealed"] == 0


async def test_it_reads_what_it_wrote(store: Store) -> None:
    await fill(store, canaries())
    run = await one(store, "a")
    assert run.state == '"canary-008-7f3a9c"'
    assert {message.payload for message in await store.inbox("a")} >= {
        '"canary-012-7f3a9c"',
        '"canary-013-7f3a9c"',
    }
    kinds = {(message.kind, message.state) for message in await store.inbox("a")}
    assert kinds == {("event", "ok"), ("child", "error")}
    assert (await one(store, "c")).output is not None


async def test_names_and_times_are_in_the_clear(store: Store, url: str) -> None:
    await store.create([new("a", tags={"team": "x"}, limit_key="tenant", queue="q")])
    ((run_id, workflow, queue, tags, limit_key, fingerprint),) = sql(
        url, "SELECT id, workflow, queue, json(tags), limit_key, fingerprint FROM runs"
    )
    assert (run_id, workflow, queue, tags, limit_key) == ("a", "checkout", "q", '{"team":"x"}', "tenant")
    assert str(fingerprint).startswith(SEALED)
    assert [found.id for found in (await store.find(RunFilter(tags={"team": "x"}), 9)).runs] == ["a"]


class TestForgery:
    """Somebody writes to the store beneath: runs are parked, and whoever reads is told."""

    @pytest.fixture(autouse=True)
    async def runs(self, store: Store) -> None:
        for run_id in ("a", "b"):
            records = (record(0, "input", f'"{run_id}"'), record(1, "x", f'"x of {run_id}"'), record(2, "y", '"y"'))
            await store.create([new(run_id, records=records)])
            await store.post([event(run_id, "m1", '"one"'), event(run_id, "m2", '"two"')], NOW, CAPACITY)

    async def refused(self, store: Store, told: str) -> None:
        with pytest.raises(DecryptionError, match=told):
            await store.journal("a")
        claims = {claim.run.id: claim for claim in await store.claim(["default"], 9, "w", NOW, NOW + 9)}
        assert claims["b"].unreadable is None
        assert [kept.payload for kept in claims["b"].journal] == ['"b"', '"x of b"', '"y"']
        assert told.replace("\\", "") in (claims["a"].unreadable or "")
        assert (len(claims["a"].journal), claims["a"].inbox) == (1, [])
        with pytest.raises(DecryptionError, match=told):
            await store.dump(9)

    async def test_a_plain_text_is_not_believed(self, store: Store, url: str) -> None:
        sql(url, "UPDATE records SET payload = '\"forged\"' WHERE n = 1 AND position = 0")
        await self.refused(store, "record input input of 'a' is not encrypted: somebody else wrote it")

    async def test_a_changed_text_is_not_believed(self, store: Store, url: str) -> None:
        sql(url, "UPDATE records SET payload = substr(payload, 1, length(payload) - 4) || 'AAAA' WHERE n = 1")
        await self.refused(store, "of 'a' was changed in the store, or moved there from another place")

    async def test_garbage_is_not_believed(self, store: Store, url: str) -> None:
        sql(url, "UPDATE records SET payload = 'sealed:2026b:%%%' WHERE n = 1")
        await self.refused(store, "of 'a' was changed in the store")

    async def test_an_unknown_key_is_named(self, store: Store, url: str) -> None:
        sql(url, "UPDATE records SET payload = replace(payload, '2026b', 'other') WHERE n = 1")
        await self.refused(store, "encrypted with key 'other', which is not here: add it to the keys")

    @pytest.mark.parametrize(
        "moved",
        [
            f"UPDATE records AS r SET payload = ({OTHERS} WHERE n = 2 AND position = r.position) WHERE n = 1",
            f"UPDATE records SET payload = ({OTHERS} WHERE n = 1 AND position = 2) WHERE n = 1 AND position = 1",
            "UPDATE records SET payload = (SELECT payload FROM inbox WHERE n = 1 AND seq = 1) WHERE n = 1",
            "UPDATE records SET key = 'z' WHERE n = 1 AND position = 1",
            "UPDATE records SET state = 'error' WHERE n = 1 AND position = 1",
            "UPDATE records SET payload = (SELECT fingerprint FROM runs WHERE n = 1) WHERE n = 1 AND position = 0",
            "UPDATE records SET payload = replace(payload, 'sealed:2026b:', 'sealed:2026b~:') WHERE n = 1",
        ],
    )
    async def test_a_text_that_was_moved_is_not_believed(self, store: Store, url: str, moved: str) -> None:
        sql(url, moved)
        await self.refused(store, "of 'a' was changed in the store, or moved there")

    async def test_a_message_of_another_run_is_not_believed(self, store: Store, url: str) -> None:
        sql(
            url,
            "UPDATE inbox SET payload = (SELECT payload FROM inbox WHERE n = 2 AND seq = 1) WHERE n = 1 AND seq = 1",
        )
        with pytest.raises(DecryptionError, match="message m1 event of 'a' was changed"):
            await store.inbox("a")
        (claim, _) = await store.claim(["default"], 9, "w", NOW, NOW + 9)
        assert claim.unreadable is not None

    async def test_a_run_that_hears_a_forged_message_is_lost_to_be_parked_when_it_is_claimed(
        self, store: Store, url: str
    ) -> None:
        run = await leased(store, "a")
        await store.post([event("a", "m3", '"x"')], NOW, CAPACITY)
        sql(url, "UPDATE inbox SET payload = '1' WHERE id = 'm3'")
        (committed,) = await store.commit([decide(run, records=(record(3),), seen=2)])
        assert committed.is_lost
        claims = await store.claim(["default"], 9, "w", NOW + 70_000, NOW + 80_000)
        assert {claim.run.id: claim.unreadable is None for claim in claims} == {"a": False, "b": True}

    async def test_what_stands_in_a_row_is_left_out_and_an_output_says_why(self, store: Store, url: str) -> None:
        for run_id in ("a", "b"):
            run = (await store.claim(["default"], 1, "w", NOW, NOW + 9))[0].run
            output = record(3, "output", f'"{run_id}"', kind="output")
            await store.commit([decide(run, "complete", records=(output,), state='{"s": 1}')])
        sql(url, "UPDATE runs SET state = (SELECT state FROM runs WHERE n = 2) WHERE n = 1")
        sql(url, "UPDATE records SET payload = '\"forged\"' WHERE kind = 'output' AND n = 1")
        forged, fine = await one(store, "a"), await one(store, "b")
        assert (fine.state, fine.output, forged.state) == ('{"s": 1}', '"b"', None)
        with pytest.raises(DecryptionError, match="output 3 of 'a' is not encrypted"):
            codec.decode_any(forged.output)
        assert [run.id for run in (await store.find(RunFilter(), 9)).runs] == ["b", "a"]

    async def test_a_forged_definition_is_left_out_and_a_forged_document_is_told(self, store: Store, url: str) -> None:
        await store.define([StoredDefinition("w", version, "{}", NOW) for version in "12"])
        await store.put([Document("views", "a", "1"), Document("views", "b", "2")])
        sql(url, "UPDATE definitions SET text = (SELECT text FROM definitions WHERE version = '2') WHERE version = '1'")
        assert [kept.version for kept in await store.definitions()] == ["2"]
        with pytest.raises(DecryptionError, match="definition 1 of 'w'"):
            await store.define([StoredDefinition("w", "1", "{}", NOW)])
        for change in (
            "UPDATE documents SET at = 5 WHERE key = 'a'",
            "UPDATE documents SET at = 0, revision = 2 WHERE key = 'a'",
            "UPDATE documents SET revision = 1, text = (SELECT text FROM documents WHERE key = 'b') WHERE key = 'a'",
        ):
            sql(url, change)
            with pytest.raises(DecryptionError, match="document a [12] of 'views' was changed"):
                await store.documents("views", 9)
            with pytest.raises(DecryptionError):
                await store.read("views", ["a"])

    async def test_a_fingerprint_that_cannot_be_read_is_like_no_other(self, store: Store, url: str) -> None:
        sql(url, "UPDATE runs SET fingerprint = 'f' WHERE n = 1")
        (created,) = await store.create([new("a", fingerprint="f")])
        assert (created.is_new, created.fingerprint == "f") == (False, False)


class TestKeys:
    async def test_a_new_key_comes_first_and_the_old_one_stays_readable(self, url: str) -> None:
        before = await at(url, Encryption({"old": OLD}))
        await before.create([new("a", fingerprint="f")])
        await before.close()
        store = await at(url, Encryption({"new": NEW, "old": OLD}))
        (made,) = await store.create([new("a", fingerprint="f")])
        assert (made.is_new, made.fingerprint) == (False, "f")
        run = await leased(store, "a")
        await store.commit([decide(run, "waiting", records=(record(1),), due_at=NOW)])
        assert [kept.payload for kept in await store.journal("a")] == ['{"order": 1}', "1"]
        assert "keys new, old" in (await store.describe()).settings["encryption"]
        await store.close()
        keys = [str(payload).split(":")[1] for (payload,) in sql(url, "SELECT payload FROM records ORDER BY position")]
        assert keys == ["old", "new"]
        after = await at(url, Encryption({"new": NEW}))
        (claim,) = await after.claim(["default"], 9, "w", NOW, NOW + 9)
        assert claim.unreadable == (
            "fingerprint of 'a' is encrypted with key 'old', which is not here: add it to the keys, behind the first"
        )
        await after.close()

    @pytest.mark.parametrize(
        ("other", "told"),
        [
            (Encryption({"another": NEW}), "encrypted with key '2026b', which is not here"),
            (Encryption({"2026b": OLD}), "or its key '2026b' is another one here"),
            (ENCRYPTION.scoped("acme"), "was changed in the store, or moved there"),
        ],
    )
    async def test_other_keys_and_another_scope_are_refused_at_once(
        self, store: Store, url: str, other: Encryption, told: str
    ) -> None:
        with pytest.raises(DecryptionError, match=told):
            await at(url, other)

    async def test_a_store_that_is_not_encrypted_is_refused_unless_it_is_empty(self, url: str) -> None:
        plain = await at(url, None)
        await require_plain(plain)
        await plain.create([new("a")])
        with pytest.raises(StoreCorruptError, match=r"store.db is not encrypted: move it with perdure migrate"):
            await at(url)
        await plain.close()

    async def test_an_encrypted_store_is_refused_without_keys(self, store: Store, url: str) -> None:
        plain = await at(url, None)
        assert await is_encrypted(plain)
        with pytest.raises(
            DecryptionError, match=r"store.db is encrypted: give this program the keys, PERDURE_ENCRYPT"
        ):
            await require_plain(plain)
        await plain.close()
        assert not await is_encrypted(store)
        assert await store.read(MARK.collection, [MARK.key]) == [MARK.kept]

    async def test_it_is_said_what_to_install(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("perdure.store.find_spec", lambda name: None)
        with pytest.raises(
            UsageError, match=r"^encryption: it needs the package cryptography: pip install 'perdure\[cr"
        ):
            open_store(url, ENCRYPTION)


async def test_a_step_of_a_transaction_is_sealed_too(store: Store, url: str) -> None:
    await store.create([new("a")])
    run = await leased(store, "a")
    transaction = await store.begin()
    transaction.connection.execute("CREATE TABLE mine (x)")
    await transaction.commit(decide(run, "waiting", records=(record(1, "k", '"secret"'),), due_at=NOW))
    (rolled_back := await store.begin()).connection.execute("INSERT INTO mine VALUES (1)")
    await rolled_back.roll_back()
    assert str(sql(url, "SELECT payload FROM records WHERE position = 1")[0][0]).startswith(SEALED)
    assert sql(url, "SELECT count(*) FROM mine") == [(0,)]
    assert (await store.journal("a"))[1].payload == '"secret"'
    theirs = apsw.Connection(url.removeprefix("sqlite:///"))
    theirs.execute("BEGIN IMMEDIATE")
    assert [made.is_new for made in await store.create_in(theirs, [new("b")])] == [True]
    theirs.execute("COMMIT")
    theirs.close()
    assert (await one(store, "b")).status is RunStatus.QUEUED
    assert len(await store.journal("b")) == 1
