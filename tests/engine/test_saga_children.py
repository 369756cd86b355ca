"""Children with an undo beside what fails: a task that may have done its work is never left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from perdure import (
    CompensationFailedError,
    Perdure,
    Retry,
    RunCompensatedError,
    RunFailedError,
    StoreUnavailableError,
    flow,
    testing,
)
from perdure.model import failure
from tests.engine.world import World

ONCE = Retry(attempts=1)


class Shop:
    """A payment on a queue beside a step that fails; `log` says what was begun, paid and refunded."""

    def __init__(self, app: Perdure, kind: str = "gather") -> None:
        self.app, self.log = app, list[str]()
        self.paid, self.failed, self.refused = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.wait: Any = self.paid.wait

        @app.task
        async def refund(what: str, result: str) -> None:
            self.log.append(f"refund {what} {result}")

        @app.task(queue="payments", undo=refund, retry=Retry(attempts=5, delay="1h", jitter=0))
        async def pay(what: str) -> str:
            self.log.append(f"begin {what}")
            await self.wait()
            if what == "fails":
                raise OSError("away")
            self.log.append(f"pay {what}")
            return f"receipt-{what}"

        @app.step(retry=ONCE)
        async def ship() -> None:
            await self.failed.wait()
            self.refused.set()
            raise OSError("no ship")

        @app.workflow(undo=refund)
        async def order(what: str) -> str:
            return await pay.options(delay=0)(what)

        @app.workflow(name="sale")
        async def sale(what: str, delay: int = 0) -> str:
            called = pay.options(delay=delay) if kind != "nested" else order
            if kind == "late":
                async with asyncio.timeout(30):
                    return await called(what)
            if kind == "block":
                try:
                    async with flow.saga():
                        await asyncio.gather(called(what), ship())
                except OSError:
                    return "not sold"
            await asyncio.gather(called(what), ship())
            return "sold"

        self.sale = sale


async def ended(run: Any) -> str:
    return str((await run.get()).status)


@pytest.mark.parametrize("kind", ["gather", "nested", "block", "late"])
@pytest.mark.parametrize("is_crashed", [False, True])
async def test_a_payment_under_way_is_made_and_then_refunded(make, world, kind: str, is_crashed: bool):
    shop = Shop(make(queues={"default": None, "payments": None}), kind)
    app = shop.app
    await app.open()
    run = await app.start(shop.sale, "book", id="r")
    await world.settle()
    shop.failed.set()
    await world.advance(40)
    assert shop.log == ["begin book"]
    assert not (await run.get()).status.is_finished
    if is_crashed:
        await world.crash(app)
        shop = Shop(app := make(queues={"default": None, "payments": None}), kind)
        shop.failed.set()
        await app.open()
        await world.advance(60)
        assert shop.log == ["begin book"]
    shop.paid.set()
    await world.advance(10)
    assert shop.log[:2] == ["begin book", "pay book"]
    assert shop.log[2:3] == ["refund book receipt-book"]
    assert await ended(app.run("r")) == ("complete" if kind == "block" else "compensated")
    assert (await app.stats()).status.get("running") is None
    await app.close()


async def test_a_payment_whose_attempt_fails_meanwhile_has_no_other(make, world):
    shop = Shop(make(queues={"default": None, "payments": None}))
    async with shop.app as app:
        run = await app.start(shop.sale, "fails", id="r")
        await world.settle()
        shop.failed.set()
        await world.settle()
        shop.paid.set()
        await world.advance(60)
        with pytest.raises(RunFailedError, match="no ship"):
            await run.result(timeout=5)
        assert await ended(run) == "errored"
        assert await ended(app.run("r/pay")) == "errored"
        assert shop.log == ["begin fails"]


async def test_a_payment_that_waits_for_its_time_or_its_next_attempt_is_not_made(make, world):
    shop = Shop(make(queues={"default": None, "payments": None}))
    shop.paid.set()
    async with shop.app as app:
        later = await app.start(shop.sale, "book", 86_400, id="later")
        again = await app.start(shop.sale, "fails", id="again")
        await world.advance(5)
        assert shop.log == ["begin fails"]
        shop.failed.set()
        await world.advance(5)
        for run in (later, again):
            with pytest.raises(RunFailedError):
                await run.result(timeout=5)
            assert await ended(run) == "errored"
            assert await ended(app.run(f"{run.id}/pay")) == "terminated"
        assert shop.log == ["begin fails"]
        await app.run("again/pay").restart()  # which the parent's wish does not outlive
        await world.advance(5)
        assert await ended(app.run("again/pay")) == "waiting"


@pytest.mark.parametrize("why", ["no worker", "paused", "turned back"])
async def test_a_payment_that_nobody_has_taken_up_holds_nobody_up(make, world, why: str):
    queues = {"default": None} if why == "no worker" else {"default": None, "payments": None}
    shop = Shop(make(queues=queues))
    async with shop.app as app:
        await app.queue("payments").pause()
        run = await app.start(shop.sale, "book", id="r")
        await world.advance(1)
        assert await ended(app.run("r/pay")) == "queued"
        if why == "turned back":
            await run.terminate(undo=True)
        else:
            shop.failed.set()
        await world.advance(1)
        assert await ended(run) == ("terminated" if why == "turned back" else "errored")
        assert await ended(app.run("r/pay")) == "terminated"
        (settled,) = [each for each in await app.store.journal("r") if each.key == "pay" and each.state == "error"]
        assert "was not begun" in str(settled.payload)
    assert shop.log == []


async def test_an_operator_may_end_a_child_that_holds_its_parent_up(make, world):
    app, log, begun = make(), list[str](), asyncio.Event()

    @app.workflow(undo=lambda result: log.append("undone"))
    async def approval() -> str:
        return await forever()

    @app.step
    async def forever() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    @app.step(retry=ONCE)
    async def fail() -> None:
        await begun.wait()
        raise OSError("no")

    @app.workflow
    async def w() -> None:
        await asyncio.gather(approval(), fail())

    async with app:
        run = await app.start(w, id="r")
        await world.advance(60)
        assert await ended(run) == "compensating"
        assert "r/approval" in str(await run.explain())
        await app.run("r/approval").terminate()
        with pytest.raises(RunFailedError):
            await run.result(timeout=5)
        assert await ended(run) == "errored"
        assert log == []


@pytest.mark.parametrize("is_nested", [False, True])
async def test_a_crash_at_any_commit_leaves_no_payment(is_nested: bool):
    app = Perdure("memory://", queues={"default": None, "payments": None})
    shop = Shop(app, "nested" if is_nested else "gather")

    shop.failed.set()
    paid: list[bool] = []

    async def soon() -> None:
        await shop.refused.wait()
        for _ in range(20):  # so that the run has failed by then
            await asyncio.sleep(0)

    async def body(engine: testing.Engine) -> None:
        shop.log.clear()
        shop.refused.clear()
        shop.wait = soon
        run = await app.start(shop.sale, "book", id="r")
        await engine.advance("10 minutes")
        with pytest.raises(RunCompensatedError):
            await run.result()
        paid.append("pay book" in shop.log)
        if paid[-1]:
            assert "refund book receipt-book" in shop.log[shop.log.index("pay book") :]

    assert await testing.crash_everywhere(app, body) > 8
    assert paid[0]


class Mixed:
    """A random tree of steps and tasks with undos, blocks and failures; `open` says what was done and not undone."""

    def __init__(self, app: Perdure, seed: int) -> None:
        self.open: Counter[str] = Counter()
        self.dice = random.Random(seed)

        async def back(key: str) -> None:
            self.open[key] -= 1 if self.open[key] else 0

        @app.step(undo=back, retry=ONCE)
        async def step(key: str, ticks: int, fails: bool) -> str:
            return await do(key, ticks, fails)

        @app.task(undo=back, retry=ONCE)
        async def task(key: str, ticks: int, fails: bool) -> str:
            return await do(key, ticks, fails)

        async def do(key: str, ticks: int, fails: bool) -> str:
            for _ in range(ticks):  # so that others fail meanwhile
                await asyncio.sleep(0)
            if fails:
                raise OSError(key)
            self.open[key] = 1
            return key

        async def back_with_all(key: str, nodes: list[Any]) -> None:
            for each in (key, *self.keys(nodes)):
                await back(each)

        @app.workflow(undo=back_with_all, name="part")
        async def part(key: str, nodes: list[Any], fails: bool) -> str:
            await perform(nodes)
            if fails:
                raise OSError(key)
            self.open[key] = 1
            return key

        async def perform(node: list[Any]) -> None:
            kind, key, inner, ticks, fails = node
            if kind in ("step", "task"):
                await (step if kind == "step" else task)(key, ticks, fails)
            elif kind == "part":
                await part(key, inner[0], fails)
            elif kind == "block":
                async with flow.saga():
                    await asyncio.gather(*map(perform, inner))
            elif kind == "late":
                async with asyncio.timeout(0.01):
                    await asyncio.gather(*map(perform, inner))
            else:
                async with asyncio.TaskGroup() as group:
                    for each in inner:
                        group.create_task(perform(each))

        @app.workflow(name="mixed")
        async def mixed(node: list[Any]) -> str:
            await perform(node)
            raise OSError("in the end")

        self.workflow = mixed

    def keys(self, node: list[Any]) -> list[str]:
        """The names of a node and those in it."""
        return [node[1], *(key for each in node[2] for key in self.keys(each))]

    def node(self, depth: int, numbers: Any = None) -> list[Any]:
        numbers = numbers if numbers is not None else iter(range(1_000))
        kind = self.dice.choice(["step", "task"] if depth == 0 else ["group", "block", "late", "part", "task"])
        inner = [self.node(depth - 1, numbers) for _ in range(self.dice.randint(1, 3))] if depth else []
        fails = self.dice.random() < 0.2
        return [kind, f"{kind}-{next(numbers)}", inner, self.dice.choice([0, 40, 80, 200, 400]), fails]


@pytest.mark.parametrize("seed", range(100, 120))
async def test_whatever_runs_in_parallel_and_wherever_it_dies_nothing_done_is_left(seed: int):
    app = Perdure("memory://")
    mixed = Mixed(app, seed)
    program = mixed.node(3)

    async def body(engine: testing.Engine) -> None:
        mixed.open.clear()
        run = await app.start(mixed.workflow, program, id="r")
        await engine.advance("30 minutes")
        with pytest.raises(RunFailedError):
            await run.result()
        left = {key for key, count in mixed.open.items() if count}
        assert not left
        assert await ended(run) == ("compensated" if await has_undone(run) else "errored")

    async def has_undone(run: Any) -> bool:
        """Whether it ran an undo, or recalled a child that did."""
        settled = [each for each in await run.journal() if each.state != "open" and each.kind in ("step", "child")]
        errors = [(each.ref, failure.decode_error(each.payload or "")) for each in settled if each.state == "error"]
        undone = [child for child, error in errors if error.is_undone]
        for child in undone:
            assert await ended(app.run(child)) == "compensated"
        return bool(undone) or any(each.key.startswith("undo") for each in settled)

    await testing.crash_everywhere(app, body)


async def test_on_every_store_a_crash_at_any_commit_leaves_no_payment(url: str):
    number = is_reached = 0
    while is_reached >= number:
        number += 1
        is_reached += await dies_at(url, number)
    assert number > 6


async def dies_at(url: str, number: int) -> bool:
    """Have the worker die at one of its commits while a payment is under way; return whether it made that many."""
    world = World()
    shop = Shop(world.app(url, queues={"default": None, "payments": None}))
    app, store = shop.app, shop.app.store
    left, release, is_reached = number, asyncio.Event(), False

    async def dies(operation: str) -> None:
        nonlocal left, is_reached
        if operation != "commit":
            return
        left -= 1
        if left > 0:
            return
        is_reached = True
        store.in_flight -= 1
        try:
            await release.wait()
            raise StoreUnavailableError("the worker is gone")
        finally:
            store.in_flight += 1

    store.before = dies
    await app.open()
    run = await app.start(shop.sale, "book", id=f"r{number}")
    await world.advance(2)
    shop.failed.set()
    await world.advance(2)
    shop.paid.set()
    await world.advance(10)
    log = shop.log
    if is_reached:
        release.set()
        await world.crash(app)
        shop = Shop(world.app(url, queues={"default": None, "payments": None}))
        app = shop.app
        shop.failed.set()
        shop.paid.set()
        await app.open()
    await world.advance(90)
    assert await ended(app.run(run.id)) == "compensated"
    done = log + shop.log
    if "pay book" in done:
        assert "refund book receipt-book" in done[done.index("pay book") :]
    assert not [each for each in (await app.runs()).runs if not each.status.is_finished]
    await app.close()
    return is_reached


def declined_sale(app, is_broken):
    """A workflow that completes, whose charge in a block is undone, unless that is broken."""

    @app.step(retry=ONCE)
    async def refund() -> None:
        if is_broken:
            raise OSError("bank is away")

    @app.step(undo=refund)
    async def charge() -> str:
        return "c1"

    @app.workflow
    async def sale() -> str:
        try:
            async with flow.saga():
                await charge()
                raise ValueError("declined")
        except ValueError:
            return "by invoice"

    return sale


async def test_a_run_that_completes_has_somebody_see_to_the_undo_that_failed_in_it(make, world):
    app, is_broken = make(), [True]

    sale = declined_sale(app, is_broken)

    @app.workflow
    async def month() -> str:
        return await sale()

    async with app:
        run, other, above = await app.start(sale, id="r"), await app.start(sale, id="o"), await app.start(month, id="m")
        await world.advance(60)
        for each in (run, other):
            assert await ended(each) == "compensation_failed"
        with pytest.raises(CompensationFailedError, match=r"run 'r' is done, and .*'charge' \(bank is away\)"):
            await run.result(timeout=5)
        assert "bank is away" in ((await run.status()).error or "")
        assert [(info.key, info.state) for info in await run.undos()] == [("charge", "failed")]
        assert await ended(above) == "waiting"  # for what it calls is to complete
        await run.mark_undone("charge", reason="by hand")
        assert await run.result(timeout=5) == "by invoice"
        is_broken.clear()
        await other.retry_undo()
        await app.run("m/sale").retry_undo()
        assert await other.result(timeout=5) == "by invoice"
        assert await above.result(timeout=5) == "by invoice"
        assert [(info.key, info.state) for info in await other.undos()] == [("charge", "undone")]


async def test_a_crash_at_any_commit_loses_no_undo_that_a_completed_run_left():
    app, is_broken = Perdure("memory://"), [True]

    sale = declined_sale(app, is_broken)

    async def body(engine: testing.Engine) -> None:
        is_broken[:] = [True]
        run = await app.start(sale, id="r")
        await engine.advance("5 minutes")
        with pytest.raises(CompensationFailedError):
            await run.result()
        is_broken.clear()
        await run.retry_undo()
        await engine.advance("5 minutes")
        assert await run.result() == "by invoice"

    assert await testing.crash_everywhere(app, body) > 5
