"""`Perdure("http://…")`: what an application does with a server is what it does with a store."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from perdure import Perdure, flow
from perdure.engine.client import client
from perdure.model.decision import RunPage
from perdure.model.errors import (
    RunExistsError,
    RunFailedError,
    RunFinishedError,
    RunNotFoundError,
    RunTerminatedError,
    StoreCorruptError,
    UsageError,
)
from perdure.model.queue import Rate
from perdure.model.run import RunStatus
from perdure.server import portions
from perdure.server.api import store
from tests.cli.conftest import Said, Shell
from tests.server.conftest import memory


def shop(url: str, **options: Any) -> Perdure:
    """An application with a few workflows, on a store or on a server."""
    app = Perdure(url, **options)

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def doubled(n: int) -> int:
        return await double(n)

    @app.workflow
    async def failing() -> None:
        raise ValueError("no tea")

    @app.workflow
    async def approved() -> str:
        flow.set("asked", "ada")
        return str(await flow.wait_for_event("answer", type="approval"))

    @app.on("order.paid")
    @app.workflow
    async def paid(order: dict[str, int]) -> dict[str, int]:
        return order

    return app


@pytest.fixture
async def remote(serving):
    """A worker, a server beside it, and an application that knows only the server."""
    served = await serving(shop(memory()))
    async with shop(str(served.http.base_url)) as app:
        app.served = served
        yield app


async def test_a_run_is_started_and_its_result_told(remote):
    run = await remote.start(remote.registry.workflows["doubled"], 21, id="a/b %ü")
    assert await run.result(timeout=10) == 42
    assert (await run.status()).output == 42
    again = await remote.start("doubled", input={"n": 21}, id="a/b %ü")
    assert not again.is_new
    assert [record.key for record in await run.journal()] == ["input", "double", "output"]


async def test_large_values_come_in_several_answers(remote, monkeypatch):
    monkeypatch.setattr(portions, "CHARACTERS", 1_000)
    monkeypatch.setattr(portions, "AT_ONCE", 3)
    asked: list[str] = []
    ask = remote.store._connections.ask

    async def counting(name: str, *args: Any, **more: Any) -> bytes:
        asked.append(name)
        return bytes(await ask(name, *args, **more))

    runs = [await remote.start("paid", input={"order": {"x" * 600: n}}, id=f"r{n}") for n in range(5)]
    for run in runs:
        await run.result(timeout=10)
    monkeypatch.setattr(remote.store._connections, "ask", counting)
    ids = [*(run.id for run in runs), "nobody"]
    assert await remote.store.get(ids) == await remote.served.app.store.get(ids)
    assert asked == ["get"] * 5, "the last run, and none, go into one"
    asked.clear()
    whole = await remote.served.app.store.journal("r0")
    assert len(whole) == 2
    assert await remote.store.journal("r0") == whole
    assert asked == ["journal"] * 2
    assert await remote.store.journal("r0", limit=1) == whole[:1]
    assert await remote.store.journal("r0", whole[-1].position) == []
    assert await remote.store.get([]) == []


async def test_an_answer_that_ends_before_it_begins_is_none(remote, monkeypatch):
    async def nothing(*_: object) -> list[object]:
        return []

    monkeypatch.setattr(store, "first_runs", nothing)
    with pytest.raises(StoreCorruptError, match="ends before it begins"):
        await remote.store.get(["r"])


async def test_many_runs_are_started_in_one_go(remote):
    runs = await remote.start_many(remote.registry.workflows["doubled"], [(n,) for n in range(1_200)])
    assert await asyncio.gather(*(run.result(timeout=30) for run in runs[:3])) == [0, 2, 4]
    assert sum((await remote.stats()).status.values()) == 1_200


async def test_an_error_comes_as_what_it_was(remote):
    run = await remote.start("failing")
    with pytest.raises(RunFailedError, match="no tea") as caught:
        await run.result(timeout=10)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(RunFinishedError):
        await run.send_event("approval")
    with pytest.raises(RunNotFoundError):
        await remote.run("nobody").get()
    with pytest.raises(UsageError, match="no worker has announced workflow 'doubled2'; did you mean 'doubled'"):
        await remote.start("doubled2")
    await remote.start("doubled", input={"n": 1}, id="one")
    with pytest.raises(RunExistsError):
        await remote.start("doubled", input={"n": 2}, id="one")


async def test_an_event_goes_through_and_what_a_run_shows_comes_back(remote):
    run = await remote.start("approved")
    await until(lambda: waits_for(remote, run, "event"))
    assert await run.state("asked") == "ada"
    assert "approval" in str(await run.explain())
    assert await run.send_event("approval", "yes", id="e1")
    assert await run.result(timeout=10) == "yes"
    assert not await run.send_event("approval", "no", id="e1")


async def test_a_run_is_paused_resumed_terminated_restarted_and_forked(remote):
    run = await remote.start("approved")
    await until(lambda: waits_for(remote, run, "event"))
    assert await run.pause() is RunStatus.PAUSED
    assert await run.resume() is RunStatus.QUEUED
    waiting = asyncio.create_task(run.result())
    await asyncio.sleep(0)
    assert await run.terminate() is RunStatus.TERMINATED
    with pytest.raises(RunTerminatedError):
        await waiting
    assert await run.restart() is RunStatus.QUEUED
    assert await run.terminate() is RunStatus.TERMINATED
    first = await remote.start("doubled", input={"n": 4})
    await first.result(timeout=10)
    forked = await first.fork(from_step="double")
    assert await forked.result(timeout=10) == 8
    actions = [
        (entry.action, entry.target) for entry in reversed(await remote.served.server.auditor.log("default").page(9))
    ]
    assert actions == [
        *((f"runs.{action}", run.id) for action in ("pause", "resume", "terminate", "restart", "terminate")),
        ("runs.fork", forked.id),
    ]


async def test_what_the_api_ends_is_told_at_once_to_whoever_waits(remote, monkeypatch):
    monkeypatch.setattr(client, "LOOK_UP_EVERY", 60)
    monkeypatch.setattr(client, "LOOK_UP_SELDOM", 60)
    run = await remote.start("approved")
    waiting = asyncio.create_task(run.result())
    await until(lambda: waits_for(remote, run, "event"))
    while not remote.served.server.hearing("default")._waiting:
        await asyncio.sleep(0.01)
    assert (await remote.served.http.post(f"/api/v1/runs/{run.id}/terminate", json={})).status_code == 200
    async with asyncio.timeout(5):
        with pytest.raises(RunTerminatedError):
            await waiting


async def test_queues_are_paused_and_limited(remote):
    queue = remote.queue("default")
    await queue.pause()
    run = await remote.start("doubled", input={"n": 1})
    assert "queue 'default' is paused" in str(await run.explain())
    await queue.set_limits(concurrency=3, rate=Rate.of(100, per="1s"))
    await queue.resume()
    assert await run.result(timeout=10) == 2
    assert (await queue.limits()).concurrency == 3
    assert [(each.name, each.is_paused) for each in await remote.queues()] == [("default", False)]
    entries = await remote.served.server.auditor.log("default").page(9)
    assert [entry.action for entry in reversed(entries)] == ["queues.pause", "queues.limit", "queues.resume"]


async def test_failed_runs_are_retried_and_discarded(remote):
    run = await remote.start("failing")
    with pytest.raises(RunFailedError):
        await run.result(timeout=10)
    queue = remote.queue("default")
    assert [dead.id for dead in (await queue.dead()).runs] == [run.id]
    assert await queue.discard_dead() == 1
    assert await queue.dead() == RunPage([], None)


async def test_schedules_are_made_changed_and_removed(remote):
    made = await remote.schedules.create("nightly", "doubled", input={"n": 1}, cron="0 3 * * *")
    assert made.workflow == "doubled"
    await remote.schedules.pause("nightly")
    assert (await remote.schedules.get("nightly")).is_paused
    run = await remote.schedules.trigger("nightly")
    assert await run.result(timeout=10) == 2
    await remote.schedules.delete("nightly")
    with pytest.raises(RunNotFoundError):
        await remote.schedules.get("nightly")
    entries = await remote.served.server.auditor.log("default").page(9)
    assert {entry.action for entry in entries} >= {"schedules.create", "schedules.change"}


async def test_an_emitted_event_starts_what_is_subscribed(remote):
    (run,) = await remote.emit("order.paid", {"order": 7}, id="e7")
    assert await run.result(timeout=10) == {"order": 7}
    assert [again.id for again in await remote.emit("order.paid", {"order": 7}, id="e7")] == [run.id]


DEFINITION = {
    "name": "twice",
    "version": "1",
    "definition": {"steps": [{"name": "only", "task": "doubled", "data": {"n": "${input.n}"}}]},
}


async def test_a_definition_is_published_and_run(remote):
    await until(lambda: announced(remote, "doubled"))
    published = await remote.publish(DEFINITION)
    assert [each.name for each in await remote.definitions()] == ["twice"]
    assert {each.name: each.kind for each in await remote.workflows()}["twice"] == "definition"
    run = await remote.start(published.name, input={"n": 5})
    assert await run.result(timeout=10) == {"only": 10}
    assert await remote.publish(DEFINITION) == published


async def test_what_an_application_ends_its_webhooks_are_told_in_that_transaction(remote):
    async with shop(remote.url) as told:
        secret = "whsec_" + base64.b64encode(bytes(32)).decode()
        told_of = Perdure(remote.url)
        told_of.webhook("https://shop.example/hook", events=["workflow:terminated"], secret=secret, name="shop")
        run = await told.start("approved")
        async with told_of:
            await told_of.run(run.id).terminate()
        (delivery,) = (await told.runs(workflow="perdure.webhook:shop")).runs
        assert delivery.id.startswith(f"{run.id}/webhook:shop:terminated")


async def test_it_is_known_who_works_there(remote):
    worker = remote.served.worker
    await until(lambda: remote.workers())
    assert [each.queues for each in await remote.workers()] == [each.queues for each in await worker.workers()]


async def test_a_server_hands_out_no_work(remote):
    with pytest.raises(UsageError, match="must be 'client', not 'all'"):
        await Perdure(remote.url, mode="all").open()
    with pytest.raises(UsageError, match="does not hand out work over HTTP; use mode='client'"):
        await remote.store.claim(["default"], 1, "w", 0, 1)
    with pytest.raises(UsageError, match="is a server: give the URL of the store itself"):
        await remote.start("doubled", input={"n": 1}, tx=object())


async def test_it_works_without_awaiting_too(remote):
    def use() -> int:
        with shop(remote.url).blocking as app:
            return app.start("doubled", input={"n": 8}).result(timeout=10)

    assert await asyncio.to_thread(use) == 16


async def test_the_command_line_asks_a_server_too(remote):
    shell = Shell(remote.url)

    async def typed(*words: str) -> Said:
        return await asyncio.to_thread(shell, *words)

    said = await typed("start", "doubled", "--input", '{"n": 3}', "--id", "one", "--wait", "--timeout", "10s", "--json")
    assert said.code == 0, said
    listed = await typed("runs", "list", "--json")
    assert [run["id"] for run in listed.json["runs"]] == ["one"]
    assert (await typed("runs", "show", "one")).code == 0
    assert (await typed("runs", "show", "two")).code == 3
    assert (await typed("runs", "restart", "one")).code == 0
    assert (await typed("queues", "list", "--json")).code == 0
    examined = await typed("doctor", "--json")
    assert examined.code == 0, examined
    assert (await typed("migrate", "--from", remote.url, "--to", "memory://")).code == 2


async def waits_for(app: Perdure, run: Any, kind: str) -> bool:
    return f'"{kind}"' in ((await run.get()).wait or "")


async def announced(app: Perdure, name: str) -> bool:
    return name in {entry.workflow for entry in await app.store.catalog()}


async def until(condition: Any, patience: float = 10) -> None:
    async with asyncio.timeout(patience):
        while not await condition():
            await asyncio.sleep(0.005)
