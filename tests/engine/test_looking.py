"""Looking at runs: find, status, state, journal, and why a run is not moving."""

from __future__ import annotations

import asyncio
import functools
import operator

import msgspec
import pytest

from perdure import Retry, RunNotFoundError, RunStatus, RunSummary, UsageError, flow


class Receipt(msgspec.Struct):
    cents: int


@pytest.fixture
def shop(make):
    app = make()

    @app.workflow
    async def sells(n: int) -> Receipt:
        if n < 0:
            raise ValueError("negative")
        if n == 0:
            await flow.wait_for_event("payment", type="paid", timeout=None)
        return Receipt(n)

    return app, sells


async def test_runs_are_found_by_what_they_are(shop, world):
    app, sells = shop
    async with app:
        for n, name in enumerate(["order-1", "order-2", "refund-1", "refund-2"], start=-1):
            await app.start(sells, n, id=name, tags={"customer": f"c{n % 2}", "kind": name.partition("-")[0]})
            world.at += 10
        await world.settle()

        async def ids(**where):
            return [run.id for run in (await app.runs(**where)).runs]

        assert await ids() == ["refund-2", "refund-1", "order-2", "order-1"]
        assert await ids(status="complete") == ["refund-2", "refund-1"]
        assert await ids(status=["errored", RunStatus.WAITING]) == ["order-2", "order-1"]
        assert await ids(id_prefix="order") == ["order-2", "order-1"]
        assert await ids(tags={"customer": "c1"}) == ["refund-1", "order-1"]
        assert await ids(tags={"customer": "c1", "kind": "refund"}) == ["refund-1"]
        assert await ids(workflow="sells", queue="default", limit=1) == ["refund-2"]
        assert await ids(workflow="buys") == []
        assert await ids(queue="slow") == []


async def test_pages_follow_each_other(shop, world):
    app, sells = shop
    async with app:
        await app.start_many(sells, [(1,)] * 23, ids=[f"r{n:02}" for n in range(23)])
        seen, cursor = [], None
        while True:
            page = await app.runs(limit=10, cursor=cursor)
            seen.append([run.id for run in page.runs])
            cursor = page.cursor
            if cursor is None:
                break
            await app.start(sells, 1)
        assert [len(ids) for ids in seen] == [10, 10, 3]
        assert functools.reduce(operator.iadd, seen, []) == [f"r{n:02}" for n in reversed(range(23))]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1_001}, "limit"),
        ({"status": "sleeping"}, "status: 'sleeping' is none of queued"),
        ({"cursor": "page 2"}, "cursor"),
    ],
)
async def test_a_bad_search_is_refused(shop, where, message):
    app, _ = shop
    async with app:
        with pytest.raises(UsageError, match=message):
            await app.runs(**where)


async def test_status_and_output(shop, world):
    app, sells = shop
    async with app:
        good, bad, waits = [await app.start(sells, n) for n in (5, -1, 0)]
        await world.settle()
        assert await good.status() == RunSummary(RunStatus.COMPLETE, Receipt(5))
        assert await bad.status() == RunSummary(RunStatus.ERRORED, None, "ValueError: negative")
        assert await waits.status() == RunSummary(RunStatus.WAITING)
        by_id = app.run(good.id)
        assert await by_id.result() == {"cents": 5}, "without the workflow its result is plain data"
        assert await app.run(good.id, sells).result() == Receipt(5)


async def test_an_unknown_run_is_said_to_be_unknown(app):
    async with app:
        run = app.run("nobody")
        for call in (
            run.get, run.status, run.journal, run.explain, run.result, run.pause, run.resume, run.terminate, run.restart
        ):  # fmt: skip
            with pytest.raises(RunNotFoundError, match="no run 'nobody': it was never started, or retention"):
                await call()
        with pytest.raises(RunNotFoundError):
            await run.state("x")
        with pytest.raises(RunNotFoundError):
            await run.send_event("x")
        with pytest.raises(RunNotFoundError):
            await run.fork(from_step="x")


async def test_a_runs_state_is_readable_from_outside(make, world):
    app = make()

    @app.step
    async def work(n: int): ...

    @app.workflow
    async def w() -> None:
        for n in range(3):
            await work(n)
            flow.set("done", n + 1)
            flow.set("note", {"n": n})
        await flow.wait_for_event("go", type="go", timeout=None)
        flow.set("done", "all")

    async with app:
        run = await app.start(w)
        await world.settle()
        assert await run.state("done") == 3
        assert await run.state("note") == {"n": 2}
        assert await run.state("other") is None
        await run.send_event("go")
        await run.result()
        assert await run.state("done") == "all"


async def test_the_journal_tells_what_happened(make, world):
    app = make()

    @app.step(retry=Retry(attempts=2, delay=60, jitter=0))
    async def work(n: int) -> int:
        if flow.attempt() == 1:
            raise OSError("down")
        return n

    @app.workflow
    async def w(n: int) -> int:
        await flow.sleep(5, name="breathe")
        flow.random()
        await work(n)
        return await work(n + 1)

    async with app:
        run = await app.start(w, 7)
        await world.advance(200)
        assert await run.result() == 8
        journal = await run.journal()
    assert [(r.position, r.key, r.kind, r.state, r.attempt) for r in journal] == [
        (0, "input", "input", "ok", 1),
        (1, "breathe", "timer", "ok", 1),
        (2, "random", "value", "ok", 1),
        (3, "work", "step", "open", 1),
        (4, "work", "step", "ok", 2),
        (5, "work#2", "step", "open", 1),
        (6, "work#2", "step", "ok", 2),
        (7, "output", "output", "ok", 1),
    ]
    assert journal[0].payload == '{"n":7}'
    assert [record.at for record in journal] == sorted(record.at for record in journal)


async def explained(app, world, workflow, *args, **options):
    run = await app.start(workflow, *args, **options)
    await world.settle()
    return str(await run.explain())


async def test_every_reason_for_not_moving_is_explained(make, world):
    app = make(concurrency=100)

    @app.step(retry=Retry(attempts=3, delay=100))
    async def fails():
        raise OSError("no route to host")

    @app.step
    async def hangs():
        await asyncio.Event().wait()

    @app.workflow
    async def child():
        await flow.wait_for_event("never", type="never", timeout=None)

    @app.workflow
    async def w(what: str):
        match what:
            case "sleep":
                await flow.sleep("1 hour", name="nap")
            case "event":
                await flow.wait_for_event("approval", type="approved", timeout="5 minutes")
            case "child":
                await child()
            case "retry":
                await fails()
            case "many":
                await asyncio.gather(*(flow.sleep(60 + n) for n in range(30)))
            case "step":
                await hangs()
            case "error":
                raise ValueError("bad order")

    async with app:
        assert "is waiting: 'nap' sleeps until" in await explained(app, world, w, "sleep")
        text = await explained(app, world, w, "event")
        assert "'approval' waits for an event of type 'approved' until" in text
        assert "(in 5 min)" in text
        assert "'child' waits for child run 'c/child'" in await explained(app, world, w, "child", id="c")
        text = await explained(app, world, w, "retry")
        assert "step 'fails' failed 1 times (no route to host) and is tried again" in text
        assert "and 10 more" in await explained(app, world, w, "many")
        text = await explained(app, world, w, "step", id="s")
        assert f"is running: worker {app.worker.id} has it, with a lease that ends" in text
        await app.run("s").pause()
        assert "it pauses as soon as the steps that run have ended" in str(await app.run("s").explain())
        assert "it failed" in (text := await explained(app, world, w, "error"))
        assert "UTC (just now): bad order" in text
        run = await app.start(w, "event")
        await world.settle()
        await run.send_event("refused")
        await world.settle()
        assert "unread events that its code has not asked for yet: refused" in str(await run.explain())
        await run.pause()
        assert "is paused: an operator paused it; resume it to go on" in str(await run.explain())
        await run.terminate()
        assert "is terminated: it ended" in str(await run.explain())
        assert "it starts" in await explained(app, world, w, "x", delay="1 hour")
        await app.run("s").terminate()


async def test_what_nobody_works_on_is_explained(make, world):
    client = make(mode="client")

    def register(app):
        @app.workflow(name="w")
        async def w():
            await flow.sleep(1_000_000)

        return w

    w = register(client)
    async with client:
        run = await client.start(w)
        assert "no worker has ever announced workflow 'w': start one that registers it" in str(await run.explain())
        worker = make(mode="worker")
        register(worker)
        async with worker:
            await world.settle()
        world.at += 2_000_000_000
        assert "no worker has announced workflow 'w' since" in str(await run.explain())


async def test_a_lease_that_ran_out_is_explained(make, world):
    first = make()

    @first.step
    async def hangs():
        await asyncio.Event().wait()

    @first.workflow
    async def w():
        await hangs()

    await first.open()
    run_id = (await first.start(w)).id
    await world.settle()
    await world.crash(first)
    world.at += 20_000
    client = make(mode="client")
    async with client:
        text = str(await client.run(run_id).explain())
    assert "its lease ended" in text
    assert "the next worker that looks will take it" in text
