"""Texts are replaced by others that say the same, and nothing else about what they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.model.archive import Archive, ArchivedMessage
from perdure.model.decision import StoredDefinition
from perdure.model.document import Document
from perdure.model.errors import UsageError
from perdure.model.rewording import Rewording
from perdure.store import Store
from tests.store.filling import ODD, dumped, fill
from tests.store.making import CAPACITY, ENCRYPTED, NOW, STORES, decide, event, held, new, one, record, store_at


@pytest.fixture(params=STORES)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Four stores of each kind that keeps what it is given, open at one place."""
    opened = [store_at(request.param, tmp_path) for _ in range(4)]
    for each in opened:
        await each.open()
    yield opened
    for each in opened:
        await each.close()


@pytest.fixture
def store(stores: list[Store]) -> Store:
    return stores[0]


def said(text: str) -> str:
    """What a text becomes: now and then shorter, now and then longer than a length in one byte, in two, in three."""
    return {0: "", 1: f"{text}{ODD}", 2: "x" * 300, 3: f"<{text}>" * 40_000}[len(text) % 4]


def texts_of(archive: Archive) -> set[str]:
    run = archive.run
    found = {run.fingerprint, run.wait, run.state, run.progress}
    found |= {text for record in archive.journal for text in (record.payload, record.ref)}
    found |= {kept.message.payload for kept in archive.messages if not kept.is_read}
    return {text for text in found if text is not None}


def reworded(archive: Archive, texts: dict[str, str]) -> Archive:
    """What is to be in the store: the reference of these tests."""

    def other(text: str | None) -> str | None:
        return None if text is None else texts.get(text, text)

    run = archive.run
    row = {name: other(getattr(run, name)) for name in ("fingerprint", "wait", "state", "progress")}
    return Archive(
        replace(run, **row),
        [replace(each, payload=other(each.payload), ref=other(each.ref)) for each in archive.journal],
        [
            kept
            if kept.is_read
            else ArchivedMessage(replace(kept.message, payload=other(kept.message.payload)), is_read=False)
            for kept in archive.messages
        ],
    )


async def test_every_text_of_a_run_can_be_replaced_and_nothing_else_is(store: Store) -> None:
    await fill(store)
    before = await dumped(store)
    asked = [Rewording("run", each.run.id, {text: said(text) for text in texts_of(each)}) for each in before]
    stats, due = await store.stats(NOW), await store.next_due(["default", "other", "few"])
    assert await store.reword(asked) > len(before)
    assert await dumped(store) == [reworded(each, one.texts) for each, one in zip(before, asked, strict=True)]
    assert (await store.stats(NOW), await store.next_due(["default", "other", "few"])) == (stats, due)


async def test_only_what_is_still_the_old_text_is_replaced(store: Store) -> None:
    await fill(store)
    before = await dumped(store)
    asked = [Rewording("run", each.run.id, {"another": "x", '"done"': "y"}) for each in before]
    assert await store.reword(asked) == sum(kept.payload == '"done"' for each in before for kept in each.journal)
    assert await dumped(store) == [reworded(each, {'"done"': "y"}) for each in before]
    after = await dumped(store)
    assert await store.reword([*asked, Rewording("run", "nobody", {"x": "y"}), Rewording("run", "kid", {})]) == 0
    assert await dumped(store) == after
    assert await store.reword([]) == 0


async def test_texts_change_places_all_at_once_and_names_stay(store: Store) -> None:
    """`a` is a key, a payload and a ref, and becomes what another was."""
    records = (record(0, "input", "a"), record(1, "a", "b", ref="a"), record(2, "b", "a", ref="b"))
    await store.create([new("a", records=records, fingerprint="b", version="b", tags={"b": "b"})])
    await store.post([event("a", "b", "a", type="b"), event("a", "a", "b", type="a")], NOW, CAPACITY)
    await store.create([new("b", records=records)])
    (other,) = (await store.dump(9)).archives[1:]
    assert await store.reword([Rewording("run", "a", {"a": "b", "b": "a"})]) == 8
    (archive, same) = await dumped(store)
    assert [(kept.key, kept.payload, kept.ref) for kept in archive.journal] == [
        ("input", "b", None), ("a", "a", "b"), ("b", "b", "a"),
    ]  # fmt: skip
    assert [(kept.message.id, kept.message.type, kept.message.payload) for kept in archive.messages] == [
        ("b", "b", "b"), ("a", "a", "a"),
    ]  # fmt: skip
    assert (archive.run.fingerprint, archive.run.version, archive.run.tags) == ("a", "b", {"b": "b"})
    assert same == other


async def test_a_lease_holds_and_its_holder_is_not_disturbed(store: Store) -> None:
    run = await held(store, "a")
    await store.post([event("a", "m")], NOW, CAPACITY)
    assert await store.reword([Rewording("run", "a", {'"x"': '"y"', '{"order": 1}': "{}"})]) == 2
    (committed,) = await store.commit([decide(run, records=(record(1),), consumed=("m",), seen=1)])
    assert not committed.is_lost
    (again,) = await store.commit([decide(run, records=(record(1),), consumed=("m",), seen=1)])
    assert not again.is_lost
    assert [kept.payload for kept in await store.journal("a")] == ["{}", "1"]
    assert await store.inbox("a") == []


async def test_a_run_that_ended_tells_its_new_output(store: Store) -> None:
    run = await held(store, "a")
    await store.commit([decide(run, "complete", records=(record(1, "output", "1", kind="output"),))])
    await store.reword([Rewording("run", "a", {"1": "2"})])
    assert (await one(store, "a")).output == "2"


async def test_a_child_is_found_where_its_parent_is(store: Store) -> None:
    run = await held(store, "a")
    child = new("elsewhere", parent_id="a", parent_key="k", records=(record(0, "input", "x"),))
    await store.commit([decide(run, "waiting", records=(record(1),), children=(child,))])
    assert await store.reword([Rewording("run", name, {"x": "y"}) for name in ("elsewhere", "a")]) == 1
    assert (await store.journal("elsewhere"))[0].payload == "y"


async def test_a_document_keeps_its_revision_and_its_time(store: Store) -> None:
    await store.put([Document("views", key, "old", at=NOW) for key in ("a", "ab", "b")])
    await store.put([Document("views", "b", "new", 1, at=NOW + 1), Document("views", "minus", "old", at=-5)])
    wanted = [Rewording("document", "views", {"old": said("odd" + ODD)}, key) for key in ("a", "b", "c", "minus")]
    assert await store.reword(wanted) == 2
    text = said("odd" + ODD)
    assert await store.documents("views", 9) == [
        Document("views", "a", text, 1, NOW),
        Document("views", "ab", "old", 1, NOW),
        Document("views", "b", "new", 2, NOW + 1),
        Document("views", "minus", text, 1, -5),
    ]
    assert await store.put([Document("views", "a", "later", 1, NOW + 2)]) == [True]
    assert await store.reword([Rewording("document", "views", {"later": "later", "x": "y"}, "a")]) == 1
    assert await store.read("views", ["a"]) == [Document("views", "a", "later", 2, NOW + 2)]


async def test_a_definition_keeps_its_version_and_its_time(store: Store) -> None:
    await store.define([StoredDefinition("w", version, '{"é": 1}', NOW) for version in "12"])
    asked = [Rewording("definition", "w", {'{"é": 1}': ODD}, "2"), Rewording("definition", "w", {"x": "y"}, "1")]
    assert await store.reword([*asked, Rewording("definition", "v", {"x": "y"}, "1")]) == 1
    kept = [StoredDefinition("w", "1", '{"é": 1}', NOW), StoredDefinition("w", "2", ODD, NOW)]
    assert await store.definitions() == kept
    assert await store.reword(asked) == 0


async def test_beside_somebody_who_commits_nothing_is_lost(stores: list[Store]) -> None:
    """Each commit stays, and each text is either the old one or the new one."""
    worker, others = stores[0], stores[1:]
    await worker.create([new(f"r{number}", records=(record(0, "input", "old"),)) for number in range(8)])
    runs = [claim.run for claim in await worker.claim(["default"], 8, "w", NOW, NOW + 60_000)]

    async def work() -> None:
        for position in range(1, 25):
            decisions = [
                decide(run, seq=position, records=(record(position, payload="old"),), state="old") for run in runs
            ]
            assert not any(answer.is_lost for answer in await worker.commit(decisions))

    async def reword(store: Store) -> int:
        count = 0
        for _ in range(10):
            count += await store.reword([Rewording("run", run.id, {"old": "new"}) for run in reversed(runs)])
        return count

    _, *counts = await asyncio.gather(work(), *map(reword, others))
    await reword(others[0])
    for archive in await dumped(worker):
        assert [kept.payload for kept in archive.journal] == ["new"] * 25
        assert (archive.run.state, archive.run.journal_length) == ("new", 25)
    assert sum(counts) > 0


@pytest.mark.parametrize("kind", ENCRYPTED)
async def test_a_store_that_encrypts_refuses(kind: str, tmp_path: Path) -> None:
    store = store_at(kind, tmp_path)
    await store.open()
    with pytest.raises(UsageError, match="perdure reencrypt"):
        await store.reword([])
    await store.close()
