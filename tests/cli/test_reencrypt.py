"""`perdure reencrypt`: what it says, its exit codes, and a worker beside it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from perdure import Perdure
from perdure.model.document import Document
from perdure.model.encryption import Encryption
from perdure.store import namespaced, open_store
from perdure.store.marked import MARK
from tests.cli.conftest import EVERY
from tests.store.filling import fill
from tests.store.making import new

KEYS = {"a": bytes(32), "b": bytes(range(32))}
MANY = 57
"""Texts in a store that `write` has filled."""


def keys(ids: str) -> str:
    return ",".join(f"{name}:{base64.b64encode(KEYS[name]).decode()}" for name in ids)


def write(url: str, ids: str, scope: str = "") -> None:
    async def write() -> None:
        store = open_store(url, Encryption({name: KEYS[name] for name in ids}, scope))
        await store.open()
        await fill(store)
        await store.put([Document("views", "1", "x")])
        await store.close()

    asyncio.run(write())


def reencrypt(shell: Any, *words: str, ids: str = "ba", **env: str | None) -> Any:
    return shell("reencrypt", *words, PERDURE_ENCRYPTION_KEYS=keys(ids), **env)


@pytest.mark.parametrize("url", EVERY, indirect=True)
def test_everything_gets_the_first_key(shell, url):
    write(url, "a")
    counted = reencrypt(shell, "--dry-run", "--json").json
    many = counted["texts"]["a"]
    assert counted == {
        "key": "b",
        "dry_run": True,
        "reencrypted": 0,
        "texts": {"a": many},
        "unreadable": 0,
        "reasons": [],
    }
    said = reencrypt(shell)
    assert (said.code, said.out.splitlines()) == (
        0, ["key  texts", f"b       {many}", f"{many} texts encrypted anew with key 'b'"],
    )  # fmt: skip
    assert said.err == "next: no text needs another key than 'b'; keep old ones as long as your backups\n"
    again = reencrypt(shell, ids="b")
    assert (again.code, again.out.splitlines()[1:]) == (0, [f"b       {many}", "0 texts encrypted anew with key 'b'"])
    shown = shell("runs", "show", "complete", "--json", PERDURE_ENCRYPTION_KEYS=keys("b"))
    assert (shown.code, '"done"' in shown.out) == (0, True)


def test_a_trial_says_so(shell, url):
    write(url, "a")
    said = reencrypt(shell, "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert [line.split() for line in said.out.splitlines()[1:]] == [
        ["a", str(MANY)],
        ["b", "0"],
        ["nothing", "was", "changed"],
    ]


def test_of_a_namespace(shell, url):
    write(namespaced(url, "acme"), "a", "acme")
    write(url, "a")
    said = reencrypt(shell, "--namespace", "acme")
    assert (said.code, said.out.splitlines()[-1]) == (0, f"{MANY} texts encrypted anew with key 'b'")
    assert reencrypt(shell, "--dry-run", "--json").json["texts"] == {"a": MANY}


def test_a_missing_key_is_told(shell, url):
    write(url, "a")

    async def more() -> None:
        store = open_store(url, Encryption({"b": KEYS["b"], "a": KEYS["a"]}))
        await store.open()
        await store.create([new("fresh")])
        await store.close()

    asyncio.run(more())
    said = reencrypt(shell, ids="b")
    assert said.code == 1
    assert "a" in {line.split()[0] for line in said.out.splitlines()}
    assert "is encrypted with key 'a', which is not here: add it to the keys, behind the first" in said.err
    assert "and 51 more" in said.err
    whole = reencrypt(shell, "--json", ids="b").json
    assert (whole["unreadable"], len(whole["reasons"])) == (56, 5)
    assert reencrypt(shell).code == 0


@pytest.mark.parametrize(
    ("ids", "code", "told"),
    [
        ("b", 4, "is encrypted with key 'a', which is not here"),
        ("", 2, "error: there are no keys: set PERDURE_ENCRYPTION_KEYS, the new one first, or give --app"),
    ],
)
def test_without_the_keys_nothing_is_done(shell, url, ids, code, told):
    write(url, "a")
    said = reencrypt(shell, ids=ids)
    assert (said.code, said.out, told in said.err) == (code, "", True)


def test_what_is_not_encrypted_is_not_encrypted_by_this(shell, seeded):
    said = reencrypt(shell)
    assert (said.code, "shop.db is not encrypted: move it with perdure migrate to a store that is" in said.err) == (
        4,
        True,
    )


def test_a_server_is_not_the_store(shell):
    said = reencrypt(shell, "--store", "https://shop.example?api_key=word")
    assert (said.code, "is a server: give the URL of the store itself" in said.err) == (2, True)
    assert "word" not in said.err


def test_how_far_it_is(shell, url, monkeypatch):
    monkeypatch.setattr("perdure.cli.reencrypt.NOTED", 20)
    write(url, "a")
    said = reencrypt(shell)
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["pass 1", "pass 1", "pass 2", "pass 2", "next"]
    assert reencrypt(shell, "--json").err == ""


def test_somebody_who_goes_on_with_an_old_key_is_told_of(shell, url, monkeypatch):
    """Another program writes with the old key before each pass."""
    write(url, "a")
    monkeypatch.setattr("perdure.store.resealing.PASSES", 1)
    said = reencrypt(shell)
    assert (said.code, said.out.splitlines()[-1]) == (1, f"{MANY} texts encrypted anew with key 'b'")
    assert "some program still encrypts with another key: give it 'b' first, and call this again" in said.err


def test_beside_a_worker_that_has_both_keys(shell, url):
    async def work() -> None:
        app = Perdure(url, encryption=Encryption({"b": KEYS["b"], "a": KEYS["a"]}))

        @app.workflow
        async def double(number: int) -> int:
            return 2 * number

        async with app:
            for turn in range(3):
                said = asyncio.create_task(asyncio.to_thread(reencrypt, shell))
                runs = [await app.start(double, number, id=f"{turn}-{number}") for number in range(50)]
                assert [await run.result() for run in runs] == [2 * number for number in range(50)]
                assert (await said).code == 0

    write(url, "a")
    asyncio.run(work())


def test_the_mark_is_one_of_the_texts(shell, url):
    write(url, "a")
    assert reencrypt(shell).code == 0

    async def look() -> str:
        store = open_store(url)
        await store.open()
        (mark,) = await store.read(MARK.collection, [MARK.key])
        await store.close()
        assert mark is not None
        return mark.text or ""

    assert asyncio.run(look()).startswith("sealed:b:")
