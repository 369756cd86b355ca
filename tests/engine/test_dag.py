"""Graphs of steps, run by an engine: order, conditions, what steps are given, failures and children."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from perdure import NonRetryableError, Retry, RunFailedError, UsageError, flow, workflow


@dataclass
class Order:
    id: str
    cents: int


async def results_of(app, dag, *args, **options):
    run = await app.start(dag, *args, **options)
    return await run.result(timeout=5)


async def test_the_order_of_the_seed(make):
    app = make()

    async def validate(ctx):
        order = ctx.job.payload
        if not order["items"]:
            raise NonRetryableError("empty order")
        return {"valid": True, "total": sum(item["qty"] for item in order["items"])}

    async def charge(ctx):
        return {"chargeId": f"ch_{ctx.results['validate']['total']}"}

    async def ship(ctx):
        return {"trackingNumber": f"1Z{ctx.job.payload['email'][0]}"}

    async def notify(ctx):
        return {"notified": ctx.results["ship"]["trackingNumber"], "by": ctx.workflow.workflow_id}

    order = (
        workflow("order.process")
        .step("validate", validate)
        .step("charge", charge, after="validate")
        .step("ship", ship, after="charge")
        .step("notify", notify, after="ship")
        .build()
    )
    app.add(order)
    async with app:
        given = {"items": [{"sku": "WIDGET-1", "qty": 2}], "email": "customer@example.com"}
        assert await results_of(app, order, given, id="o-1") == {
            "validate": {"valid": True, "total": 2},
            "charge": {"chargeId": "ch_2"},
            "ship": {"trackingNumber": "1Zc"},
            "notify": {"notified": "1Zc", "by": "o-1"},
        }
        assert (await results_of(app, "order.process", input=given))["ship"] == {"trackingNumber": "1Zc"}
        keys = [record.key for record in await app.run("o-1").journal()]
        assert keys == ["input", "validate", "charge", "ship", "notify", "output"]
        run = await app.start(order, {"items": [], "email": "x"})
        with pytest.raises(RunFailedError) as caught:
            await run.result(timeout=5)
        assert isinstance(caught.value.__cause__, NonRetryableError)


async def test_steps_that_do_not_depend_on_each_other_run_at_once(app):
    begun: list[str] = []
    both = asyncio.Event()

    async def meet(ctx):
        begun.append(ctx.workflow.step_id)
        if len(begun) == 2:
            both.set()
        await both.wait()
        return ctx.workflow.step_id

    dag = (
        workflow("parallel")
        .step("users", meet)
        .step("products", meet)
        .step("merge", lambda ctx: dict(ctx.results), after=["users", "products"])
        .build()
    )
    app.add(dag)
    async with app:
        assert (await results_of(app, dag))["merge"] == {"users": "users", "products": "products"}
    assert begun == ["users", "products"]


@pytest.mark.parametrize("when", [lambda ctx: ctx.results["charge"]["total"] > 10_000, "steps.charge.total > `10000`"])
@pytest.mark.parametrize(("total", "ran"), [(20_000, True), (5, False)])
async def test_a_step_whose_condition_does_not_hold_is_skipped_and_those_behind_it_go_on(app, when, total, ran):
    dag = (
        workflow("conditional")
        .step("charge", lambda ctx: {"total": ctx.input["total"]})
        .step("premium", lambda ctx: "premium", after="charge", when=when)
        .step("ship", lambda ctx: ctx.results.get("premium"), after="premium")
        .build()
    )
    app.add(dag)
    async with app:
        results = await results_of(app, dag, {"total": total})
    assert results["ship"] == ("premium" if ran else None)
    assert ("premium" in results) is ran


async def test_a_skip_may_cascade(app):
    def nothing(ctx):
        return sorted(ctx.results)

    dag = (
        workflow("cascade")
        .step("a", nothing)
        .step("b", nothing, after="a", when="`false`", when_unmet="skip-cascade")
        .step("c", nothing, after="b")
        .step("d", nothing, after=["a", "c"])
        .step("e", nothing, after="a")
        .build()
    )
    app.add(dag)
    async with app:
        assert await results_of(app, dag) == {"a": [], "e": ["a"]}


async def test_a_graph_of_which_everything_is_skipped_completes(app):
    dag = workflow("nothing").step("a", lambda ctx: 1, when=lambda ctx: False).build()
    app.add(dag)
    async with app:
        assert await results_of(app, dag) == {}


async def test_a_step_sees_the_results_of_those_before_it_only(app):
    seen: dict[str, str] = {}

    def look(ctx):
        for name in ("beside", "skipped"):
            with pytest.raises(KeyError) as caught:
                ctx.results[name]
            seen[name] = str(caught.value)
        return [len(ctx.results), list(ctx.results), ctx.run_id, ctx.attempt, ctx.idempotency_key]

    dag = (
        workflow("views")
        .step("first", lambda ctx: 1)
        .step("beside", lambda ctx: 2)
        .step("skipped", lambda ctx: 3, when="`false`")
        .step("look", look, after=["first", "skipped"])
        .build()
    )
    app.add(dag)
    async with app:
        results = await results_of(app, dag, id="r")
    assert results["look"] == [1, ["first"], "r", 1, "r:look"]
    assert "does not come before step 'look'" in seen["beside"]
    assert "was skipped" in seen["skipped"]


async def test_arguments_come_by_name_and_types_are_read_back(app):
    @app.step
    async def price(input: Order) -> int:
        assert isinstance(input, Order)
        return input.cents

    @app.task
    async def invoice(price: int, order: Order) -> str:
        return f"{order.id}: {price}"

    @app.workflow
    async def archive(invoice: str, copies: int = 2) -> str:
        return f"{invoice} x{copies}"

    def close(archive: str, ctx, price: int = 0) -> str:
        return f"{archive} for {ctx.input.id}, {price}"

    dag = (
        workflow("named", input=Order, output="close")
        .step("price", price)
        .step("invoice", invoice, after="price")
        .step("archive", archive, after="invoice")
        .step("close", close, after="archive")
        .build()
    )
    app.add(dag)
    async with app:
        assert await results_of(app, dag, Order("o-1", 5)) == "o-1: 5 x2 for o-1, 5"
        assert await results_of(app, "named", input={"id": "o-1", "cents": 5}) == "o-1: 5 x2 for o-1, 5"


async def test_data_says_what_a_step_is_called_with(app):
    @app.task
    async def mail(to: str, body: str) -> str:
        return f"{to}: {body}"

    @app.step
    async def add(a: int, b: int) -> int:
        return a + b

    dag = (
        workflow("data", output={"mail": "${steps.mail}", "n": "${steps.more}"})
        .step("add", add, data={"a": "${input.a}", "b": 1})
        .step("more", add, after="add", data=lambda ctx: {"a": ctx.results["add"], "b": ctx.input["a"]})
        .step("mail", mail, after="more", data={"to": "x@y", "body": "sum ${steps.more} in ${workflow.name}"})
        .build()
    )
    app.add(dag)
    async with app:
        assert await results_of(app, dag, {"a": 2}) == {"mail": "x@y: sum 5 in data", "n": 5}


async def test_decorators_on_a_builder(app):
    order = workflow("decorated")

    @order.step()
    async def first(ctx):
        return 1

    @order.step(after="first", name="second step")
    def second(first: int) -> int:
        return first + 1

    @order.map(over=lambda ctx: [1, 2, 3], after="first")
    async def third(item: int, first: int) -> int:
        return item + first

    dag = order.build()
    app.add(dag)
    assert second(1) == 2
    async with app:
        assert await results_of(app, dag) == {"first": 1, "second step": 2, "third": [2, 3, 4]}


async def test_a_graph_in_a_graph_and_in_code(make):
    app = make()
    inner = workflow("inner").step("double", lambda ctx: ctx.input["n"] * 2).build()
    outer = (
        workflow("outer")
        .step("whole", inner)
        .step("given", inner, after="whole", data={"n": "${steps.whole.double}"})
        .build()
    )

    @app.workflow
    async def code(n: int) -> object:
        return [await outer({"n": n}), await inner(n=1)]

    app.add(inner, outer)
    async with app:
        assert await results_of(app, code, 3) == [{"whole": {"double": 6}, "given": {"double": 12}}, {"double": 2}]


async def test_a_step_that_fails_stops_what_runs_beside_it(make, world):
    app = make()
    stopped = asyncio.Event()

    async def slow(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def fail(ctx):
        raise NonRetryableError("declined")

    @app.task
    async def never() -> None:
        raise AssertionError

    dag = (
        workflow("failing")
        .step("slow", slow)
        .step("child", never, queue="nobody's")
        .step("fail", fail)
        .step("behind", fail, after="slow")
        .build()
    )
    app.add(dag)
    async with app:
        run = await app.start(dag, id="r")
        with pytest.raises(RunFailedError) as caught:
            await run.result(timeout=5)
        assert isinstance(caught.value.__cause__, NonRetryableError)
        await asyncio.wait_for(stopped.wait(), 5)
        await world.settle()
        assert str((await app.run("r/child").get()).status) == "terminated"
        assert [record.key for record in await run.journal()] == ["input", "child", "fail", "output"]


async def test_each_step_has_its_retries_and_its_timeout(app, world):
    attempts: list[str] = []

    async def flaky(ctx):
        attempts.append(f"{ctx.workflow.step_id} {ctx.attempt}")
        if ctx.attempt < 4:
            raise OSError("again")

    @app.task(retry=Retry(attempts=1))
    async def far() -> int:
        attempts.append(f"far {flow.attempt()}")
        if flow.attempt() < 3:
            raise OSError("again")
        return flow.attempt()

    retry = Retry(attempts=4, delay="1m", backoff="constant", jitter=0)
    dag = workflow("retried").step("flaky", flaky, retry=retry).step("far", far, retry=retry, timeout="5s").build()
    app.add(dag)
    async with app:
        run = await app.start(dag)
        await world.advance(300)
        assert (await run.result(timeout=5))["far"] == 3
    assert sorted(attempts) == ["far 1", "far 2", "far 3", "flaky 1", "flaky 2", "flaky 3", "flaky 4"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"when": lambda ctx: ctx.results["a"]["missing"]}, "step 'b', when: TypeError"),
        ({"data": lambda ctx: 1 // 0}, "step 'b', data: ZeroDivisionError"),
        ({"when": lambda ctx: asyncio.sleep(0)}, "step 'b', when: it is async"),
        ({"data": "${abs('x')}"}, "cannot be evaluated"),
        ({"data": "${steps.a}"}, "it must give an object"),
    ],
)
async def test_an_error_in_a_condition_or_in_data_says_where_it_stands(app, options, said):
    @app.step
    async def b(x: int, y: int = 0) -> int:
        return x

    dag = workflow("wrong").step("a", lambda ctx: 1).step("b", b, after="a", **{"data": {"x": 1}, **options}).build()
    app.add(dag)
    async with app:
        run = await app.start(dag)
        with pytest.raises(RunFailedError) as caught:
            await run.result(timeout=5)
        assert said in str(caught.value)


async def test_a_worker_that_dies_is_followed_by_one_that_goes_on(make, world):
    calls: list[str] = []

    def build(app):
        gate = asyncio.Event()

        async def note(ctx):
            calls.append(ctx.workflow.step_id)
            if ctx.workflow.step_id == "b" and calls.count("b") == 1:
                await gate.wait()
            return len(calls)

        dag = (
            workflow("crashing")
            .step("a", note)
            .step("b", note, after="a")
            .step("c", note, after="a")
            .step("d", note, after=["b", "c"])
            .build()
        )
        app.add(dag)
        return dag

    first = make()
    dag = build(first)
    await first.open()
    await first.start(dag, id="r")
    await world.settle()
    await world.crash(first)
    second = make()
    build(second)
    async with second:
        await world.advance(60)
        await second.run("r").result(timeout=5)
    assert calls == ["a", "b", "c", "b", "d"]


async def test_it_can_be_listed_found_and_cancelled_like_any_run(app, world):
    async def wait(ctx):
        await asyncio.Event().wait()

    dag = workflow("listed").step("wait", wait).build()
    app.add(dag)
    async with app:
        run = await app.start(dag)
        await world.settle()
        assert [found.id for found in (await app.runs(workflow="listed")).runs] == [run.id]
        await run.terminate()
        assert str((await app.run(run.id).get()).status) == "terminated"


@pytest.mark.parametrize("given", [[1, 2], [], 0, "x", False, {"a": 1}])
async def test_started_by_its_name_it_takes_any_input(app, given):
    @app.workflow
    async def code(n: int = 1) -> int:
        return n

    app.add(workflow("any").step("a", lambda ctx: ctx.job.payload).build())
    async with app:
        assert await results_of(app, "any", input=given) == {"a": given}
        assert await results_of(app, "any") == {"a": {}}
        if not isinstance(given, dict):
            with pytest.raises(UsageError, match="must be an object, the arguments of workflow 'code' by name"):
                await app.start("code", input=given)


async def test_called_outside_it_says_what_to_do():
    dag = workflow("plain").step("a", lambda ctx: 1).build()
    with pytest.raises(Exception, match=r"app.start\(dag, input\)"):
        await dag({})
