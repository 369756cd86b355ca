from __future__ import annotations

import asyncio
import json

import pytest

from perdure import Perdure
from perdure.model.document import Document
from perdure.model.errors import StoreUnavailableError
from perdure.server.security.audit import COLLECTION, START, Log
from tests.server.conftest import memory
from tests.servers import label, postgres, valkey


@pytest.fixture
async def app():
    async with Perdure(memory(), mode="client") as app:
        yield app


async def filled(app, count=6):
    log = Log(app.store, app.world)
    for number in range(1, count + 1):
        await log.add("ada", "key", "runs.pause", f"run-{number}", "because", {"n": number})
    return log


async def rewrite(app, key, change):
    """Change a document behind everybody's back."""
    (kept,) = await app.store.read(COLLECTION, [f"{key:015d}"])
    text = None if change is None else change(kept.text)
    assert await app.store.put([Document(COLLECTION, kept.key, text, kept.revision, kept.at)]) == [True]


async def test_entries_come_latest_first_and_hold(app):
    log = await filled(app)
    entries = await log.page(3)
    assert [(entry.number, entry.target, entry.details) for entry in entries] == [
        (number, f"run-{number}", {"n": number}) for number in (6, 5, 4)
    ]
    assert [entry.number for entry in await log.page(10, 4)] == [3, 2, 1]
    verdict = await log.verify()
    assert (verdict.entries, verdict.broken, verdict.message) == (6, None, "")
    assert verdict.head != START


async def test_a_refusal_stays_one_where_the_log_cannot_be_read(keyed):
    keyed = await keyed()
    await filled(keyed.served.app, 1)
    await rewrite(keyed.served.app, 1, lambda text: "{")
    assert (await keyed.ask("viewer", "POST", "/api/v1/runs/a/pause", json={})).status_code == 403
    assert (await keyed.ask("operator", "POST", "/api/v1/runs/a/pause", json={})).status_code == 500  # it is not done


async def test_an_empty_log_holds(app):
    verdict = await Log(app.store, app.world).verify()
    assert (verdict.entries, verdict.head, verdict.broken) == (0, START, None)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "valkey"])
async def test_servers_that_write_at_once_make_one_chain(kind, tmp_path):
    url = {
        "memory": memory,
        "sqlite": lambda: f"sqlite:///{tmp_path}/shop.db",
        "postgres": lambda: postgres().url(schema=label(tmp_path)),
        "valkey": lambda: valkey().url(prefix=label(tmp_path)),
    }[kind]()
    async with Perdure(url, mode="client") as one, Perdure(url, mode="client") as other:
        logs = [Log(app.store, app.world) for app in (one, other, one, other)]
        await asyncio.gather(
            *(log.add("ada", "key", "runs.pause", f"{i}-{n}") for i, log in enumerate(logs) for n in range(30))
        )
        verdict = await logs[0].verify()
        assert (verdict.entries, verdict.broken) == (120, None)
        entries = await logs[0].page(500)
        assert {entry.target for entry in entries} == {f"{i}-{n}" for i in range(4) for n in range(30)}


async def test_many_entries_are_few_writes(app, monkeypatch):
    log = Log(app.store, app.world)
    writes = 0
    put = app.store.put

    async def counted(documents):
        nonlocal writes
        writes += 1
        return await put(documents)

    monkeypatch.setattr(app.store, "put", counted)
    await asyncio.gather(*(log.add("ada", "key", "runs.pause", str(n)) for n in range(200)))
    assert writes <= 2
    assert (await log.verify()).entries == 200


def edited(text):
    document = json.loads(text)
    document["entry"]["who"] = "eve"
    return json.dumps(document)


def edited_well(text):
    """As somebody does who makes the hash of the entry anew, and not those behind it."""
    import hashlib

    document = json.loads(text)
    document["entry"]["who"] = "eve"
    raw = json.dumps(document["entry"], separators=(",", ":"))
    return f'{{"hash":"{hashlib.sha256(("0" * 64 + raw).encode()).hexdigest()}","entry":{raw}}}'


@pytest.mark.parametrize(
    ("number", "change", "broken", "message"),
    [
        (3, edited, 3, "not what was written"),
        (3, edited_well, 3, "not what was written"),
        (1, edited_well, 2, "not what was written"),
        (3, None, 3, "it is gone"),
        (1, None, 1, "it is gone"),
        (4, lambda text: "nonsense", 4, "cannot be read"),
        (4, lambda text: text.replace('"number":4', '"number":7'), 4, "not what was written"),
    ],
)
async def test_the_first_entry_that_does_not_hold_is_named(app, number, change, broken, message):
    log = await filled(app)
    await rewrite(app, number, change)
    verdict = await log.verify()
    assert (verdict.broken, verdict.entries) == (broken, broken - 1)
    assert message in verdict.message


async def test_an_entry_that_is_put_in_is_found(app):
    log = await filled(app)
    (second,) = await app.store.read(COLLECTION, [f"{2:015d}"])
    await app.store.put([Document(COLLECTION, f"{7:015d}", second.text, 0, second.at)])
    assert (await log.verify()).broken == 7


async def test_an_end_that_was_taken_off_is_found_by_who_kept_a_hash(app):
    log = await filled(app)
    whole = await log.verify()
    await rewrite(app, 6, None)
    cut = await log.verify()
    assert (cut.entries, cut.broken) == (5, None)
    assert (await log.verify((6, whole.head))).broken == 6
    assert (await log.verify((5, cut.head))).broken is None
    assert (await log.verify((5, whole.head))).broken == 5


async def test_an_entry_that_cannot_be_written_is_an_error(app, monkeypatch):
    log = await filled(app, 1)

    async def unavailable(documents):
        raise StoreUnavailableError("not now")

    monkeypatch.setattr(app.store, "put", unavailable)
    with pytest.raises(StoreUnavailableError):
        await log.add("ada", "key", "runs.pause", "x")
    monkeypatch.undo()
    await log.add("ada", "key", "runs.pause", "y")
    assert [entry.target for entry in await log.page(5)] == ["y", "run-1"]


async def test_large_details_are_kept_as_a_hash(app):
    log = Log(app.store, app.world)
    await log.add("ada", "key", "runs.pause", "", details={"ids": ["x" * 100] * 1_000})
    (entry,) = await log.page(1)
    assert set(entry.details) == {"bytes", "sha256"}
