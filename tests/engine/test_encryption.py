"""Whole engines on stores that are encrypted: all works alike, and what was forged parks one run, not a worker."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure import (
    Debounce,
    DecryptionError,
    Dedup,
    Encryption,
    Perdure,
    Retry,
    RunExistsError,
    RunFailedError,
    RunParkedError,
    UsageError,
    flow,
)
from perdure.engine.keys import KEYS, encryption_here
from perdure.engine.moving import move
from perdure.model.document import Document
from perdure.model.encryption import SEALED
from perdure.store import Store, open_store
from tests.engine.test_moving import Clock
from tests.store.filling import fill
from tests.store.making import ENCRYPTION, STORES

SECRET = "canary-7f3a9c"
"""What may be read nowhere but in clear text."""


@pytest.fixture
def make(world: Any, url: str) -> Any:
    return lambda **options: world.app(url, encryption=ENCRYPTION, **options)


async def everything(url: str) -> str:
    """All that a store without keys tells."""
    plain = open_store(url)
    await plain.open()
    archives = (await plain.dump(100)).archives
    documents = [await plain.documents(name, 100) for name in await plain.collections()]
    told = f"{archives}{documents}{await plain.definitions()}"
    await plain.close()
    return told


async def test_all_that_runs_do_works_and_shows_nothing(make: Any, world: Any, url: str) -> None:
    app = make()
    broken = [True]

    @app.task(retry=Retry(attempts=1))
    async def charge(card: str) -> str:
        if broken[0]:
            raise ValueError(f"no such card {card}")
        return f"charged {card}"

    @app.step
    async def look(card: str) -> str:
        return card

    @app.workflow
    async def order(card: str, left: int) -> str:
        flow.set("card", card)
        await look(card)
        said = await flow.wait_for_event(f"go{left}", type=f"go{left}")
        try:
            done = await charge(card)
        except Exception as error:
            done = str(error.__cause__)
        if left:
            await flow.continue_as_new(card, left - 1)
        return f"{done}, {said}"

    async with app:
        run = await app.start(order, SECRET, 1, id="one")
        assert not (await app.start(order, SECRET, 1, id="one")).is_new
        with pytest.raises(RunExistsError):
            await app.start(order, "other", 1, id="one")
        await world.settle()
        assert "go1" in str(await run.explain())
        assert await run.state("card") == SECRET
        for kind in ("go1", "go0"):
            await run.send_event(kind, SECRET)
        assert await run.result(timeout=5) == f"no such card {SECRET}, {SECRET}"
        broken[0] = False
        fork = await run.fork(from_step="charge", id="two")
        assert await fork.result(timeout=5) == f"charged {SECRET}, {SECRET}"
        assert not (await run.fork(from_step="charge", id="two")).is_new
        dead, _ = (await app.queue("default").dead()).runs
        with pytest.raises(RunFailedError, match=f"no such card {SECRET}"):
            await app.run(dead.id).result()
        await app.run(dead.id).restart()
        assert await app.run(dead.id).result(timeout=5) == f"charged {SECRET}"
        await app.store.put([Document("views", "a", f'"{SECRET}"')])
    told = await everything(url)
    assert SEALED in told
    assert SECRET not in told


async def test_what_replaces_an_input_is_read(make: Any, world: Any, url: str) -> None:
    app = make()

    @app.task
    async def save(text: str) -> str:
        return text

    async with app:
        late = save.options(debounce=Debounce("10s", key="doc"))
        first = await late.enqueue("draft")
        second = await late.enqueue(SECRET)
        assert second.id == first.id
        await world.advance(11)
        assert await second.result(timeout=5) == SECRET
        once = save.options(dedup=Dedup("doc"))
        assert await (await once.enqueue(SECRET)).result(timeout=5) == SECRET
    assert SECRET not in await everything(url)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


async def test_a_forged_run_is_parked_and_the_worker_goes_on_with_the_others(world: Any, file: str) -> None:
    client, worker = (world.app(file, encryption=ENCRYPTION, mode=mode) for mode in ("client", "worker"))

    @worker.workflow
    async def w(card: str) -> str:
        return card

    async with client:
        runs = [await client.start("w", input={"card": f"{SECRET}{n}"}, id=f"r{n}", anyway=True) for n in range(3)]
        swap(file, "UPDATE records SET payload = (SELECT payload FROM records WHERE n = 3) WHERE n = 2")
        async with worker:
            assert [await runs[n].result(timeout=5) for n in (0, 2)] == [f"{SECRET}0", f"{SECRET}2"]
            with pytest.raises(RunParkedError, match="record input input of 'r1' was changed in the store, or moved"):
                await runs[1].result(timeout=5)
            swap(file, "UPDATE records SET payload = 'forged' WHERE n = 1 AND kind = 'output'")
            with pytest.raises(DecryptionError, match="output 1 of 'r0' is not encrypted"):
                await client.run("r0").result(timeout=5)


async def test_a_run_whose_key_is_missing_goes_on_once_it_is_there(world: Any, file: str) -> None:
    old, new = (Encryption({name: key}) for name, key in (("old", bytes(32)), ("new", bytes(range(32)))))
    both = Encryption({**new.keys, **old.keys})

    def app_with(keys: Encryption) -> Perdure:
        app = world.app(file, encryption=keys)

        @app.workflow
        async def w(card: str) -> str:
            await flow.sleep(60)
            return card

        return app

    async with (first := app_with(old)):
        await first.start("w", input={"card": SECRET}, id="r")
        await world.settle()
    async with app_with(both):  # which seals the mark with the new key
        pass
    async with (third := app_with(new)):
        await world.advance(61)
        with pytest.raises(RunParkedError, match="encrypted with key 'old', which is not here: add it to the keys"):
            await third.run("r").result(timeout=5)
    async with (last := app_with(both)):
        await last.run("r").resume()
        await world.advance(61)
        assert await last.run("r").result(timeout=5) == SECRET


async def test_keys_of_the_environment(world: Any, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encryption_here() is None
    monkeypatch.setenv(KEYS, "2026a:" + "A" * 43 + "=")
    assert repr(encryption_here("acme")) == "Encryption(keys=2026a, scope='acme')"
    async with Perdure(file, mode="client") as app:
        await app.start("w", input=SECRET, id="r", anyway=True)
        assert (await app.store.journal("r"))[0].payload == f'"{SECRET}"'
    monkeypatch.setenv(KEYS, "")
    app = Perdure(file, mode="client")
    with pytest.raises(DecryptionError, match=r"store\.db is encrypted: give this program the keys"):
        await app.open()
    monkeypatch.setenv(KEYS, "2026a")
    with pytest.raises(UsageError, match="^encryption: write each key as id:base64"):
        Perdure(file)


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
async def test_a_move_encrypts_decrypts_and_takes_a_new_key(kind: str, tmp_path: Path) -> None:
    url = STORES[kind](tmp_path)
    plain = await opened("memory://")
    await fill(plain)
    await plain.put([Document("views", "a", "1"), Document("audit", "1", "2"), Document("audit", "2", "3")])
    sealed = await opened(url, ENCRYPTION)
    renewed = await opened(f"sqlite:///{tmp_path}/renewed.db", Encryption({"new": bytes(32)}))
    back = await opened("memory://")
    for source, target in ((plain, sealed), (sealed, renewed), (renewed, back)):
        moved = await move(source, target, env=Clock())
        assert (moved.is_whole, moved.documents) == (True, 3)
    again = await move(plain, back, env=Clock())
    assert (again.is_whole, again.documents, again.moved) == (True, 0, 0)
    assert await back.documents("audit", 9) == await plain.documents("audit", 9)
    assert (await back.dump(1000)).archives == (await plain.dump(1000)).archives
    await back.put([Document("views", "a", "another", 1)])
    different = await move(plain, back, env=Clock())
    assert (different.is_whole, different.documents_different.runs) == (False, ["views/a"])
    for store in (plain, sealed, renewed, back):
        await store.close()


async def opened(url: str, encryption: Encryption | None = None) -> Store:
    store = open_store(url, encryption)
    await store.open()
    return store


def swap(url: str, text: str) -> None:
    """Do to the file what somebody else can who may write it."""
    with contextlib.closing(apsw.Connection(url.removeprefix("sqlite:///"))) as connection:
        connection.execute(text)
