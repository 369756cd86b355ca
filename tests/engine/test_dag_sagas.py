"""Graphs that fail: what completed is undone, latest first, by what `compensate=` says."""

from __future__ import annotations

import pytest

from perdure import NonRetryableError, Retry, RunFailedError, workflow


@pytest.fixture
def notes() -> list[str]:
    return []


def fail(ctx):
    raise NonRetryableError("no confirmation")


async def ended(app, world, dag, *args):
    run = await app.start(dag, *args, id="r")
    for _ in range(20):
        await world.settle()
        status = (await run.get()).status
        if status.is_finished or str(status) == "compensation_failed":
            break
        await world.advance(60)
    return str(status)


async def test_the_payment_of_the_seed(make, world, notes):
    app = make()

    async def reserve(ctx):
        return {"reservationId": "res-1", "total": len(ctx.job.payload)}

    async def release(ctx):
        notes.append(f"release {ctx.results['reserve-inventory']['reservationId']}")

    async def charge(ctx):
        return {"chargeId": f"ch-{ctx.results['reserve-inventory']['total']}"}

    async def refund(ctx):
        notes.append(f"refund {ctx.results['charge-payment']['chargeId']} of {ctx.job.payload}")

    dag = (
        workflow("payment.process")
        .step("reserve-inventory", reserve, compensate=release)
        .step("charge-payment", charge, after="reserve-inventory", compensate=refund)
        .step("skipped", charge, after="reserve-inventory", when="`false`", compensate=fail)
        .step("send-confirmation", fail, after=["charge-payment", "skipped"], compensate=fail)
        .build()
    )
    app.add(dag)
    async with app:
        assert await ended(app, world, dag, ["a", "b"]) == "compensated"
        keys = [record.key for record in await app.run("r").journal() if record.kind == "step"]
    assert notes == ["refund ch-2 of ['a', 'b']", "release res-1"]
    assert keys[-2:] == ["undo:charge-payment", "undo:reserve-inventory"]


async def test_an_undo_is_tried_again_and_one_that_fails_waits_for_somebody(app, world, notes):
    async def first(ctx):
        notes.append(f"first {ctx.attempt}")
        if ctx.attempt < 3:
            raise OSError("again")

    dag = (
        workflow("w")
        .step("a", lambda ctx: 1, compensate=first)
        .step("b", lambda ctx: 2, after="a", compensate=fail)
        .step("c", fail, after="b")
        .build()
    )
    app.add(dag)
    async with app:
        assert await ended(app, world, dag) == "compensation_failed"
        assert [(info.key, info.state) for info in await app.run("r").undos()] == [("a", "undone"), ("b", "failed")]
        await app.run("r").mark_undone("b")
        await world.settle()
        assert str((await app.run("r").get()).status) == "compensated"
    assert notes == ["first 1", "first 2", "first 3"]


async def test_what_undoes_may_be_a_step_a_task_or_the_steps_own_undo(app, world, notes):
    async def undo_own(amount: int, result: str) -> None:
        notes.append(f"own {amount} {result}")

    @app.step(undo=undo_own)
    async def pay(amount: int) -> str:
        return f"paid {amount}"

    @app.step
    async def undo_step(pay: str, result: str) -> None:
        notes.append(f"step {pay}, {result}")

    @app.task
    async def undo_task(input: dict, second: str) -> None:
        notes.append(f"task {input} {second}")

    @app.task(undo=undo_own)
    async def pay_far(amount: int) -> str:
        return f"far {amount}"

    dag = (
        workflow("w")
        .step("pay", pay, data={"amount": "${input.n}"})
        .step("second", lambda pay: pay + "!", after="pay", compensate=undo_task)
        .step("third", lambda second: second + "!", after="second", compensate=undo_step)
        .step("far", pay_far, after="third", data={"amount": 7})
        .step("fail", fail, after="far")
        .build()
    )
    app.add(dag)
    async with app:
        assert await ended(app, world, dag, {"n": 5}) == "compensated"
    assert notes == ["own 7 far 7", "step paid 5, paid 5!!", "task {'n': 5} paid 5!", "own 5 paid 5"]


async def test_each_item_of_a_map_is_undone(app, world, notes):
    @app.task(retry=Retry(attempts=1))
    async def hold(item: int) -> str:
        if item == 2:
            raise ValueError("two")
        return f"held {item}"

    async def release(ctx):
        notes.append(f"{ctx.results['hold']}, {ctx.item}, {ctx.index}")

    dag = (
        workflow("w")
        .map("hold", hold, over="${input.items}", limit=1, tolerate=1, compensate=release)
        .step("fail", fail, after="hold")
        .build()
    )
    app.add(dag)
    async with app:
        assert await ended(app, world, dag, {"items": [1, 2, 3]}) == "compensated"
    assert notes == ["held 3, 3, 2", "held 1, 1, 0"]


async def test_a_graph_that_is_terminated_can_be_undone(app, world, notes):
    gates = []

    async def wait(ctx):
        gates.append(ctx.run_id)
        raise OSError("not yet")

    dag = (
        workflow("w")
        .step("a", lambda ctx: 1, compensate=lambda ctx: notes.append(f"a {ctx.results['a']}"))
        .step("wait", wait, after="a", retry=Retry(attempts=1_000, delay="1h", max_delay="1h"))
        .build()
    )
    app.add(dag)
    async with app:
        run = await app.start(dag)
        await world.settle()
        assert gates
        await run.terminate(undo=True)
        await world.settle()
        assert str((await run.get()).status) == "compensated"
    assert notes == ["a 1"]


async def test_a_definition_is_undone_by_tasks(app, world, notes):
    @app.task
    async def reserve(n: int) -> dict:
        return {"id": n}

    @app.task
    async def release(id: int, by: str) -> None:
        notes.append(f"released {id} by {by}")

    @app.task
    async def explode() -> None:
        raise NonRetryableError("no")

    async with app:
        await app.publish(
            {
                "name": "saga",
                "definition": {
                    "steps": [
                        {
                            "taskName": "reserve",
                            "data": {"n": "${input.n}"},
                            "compensate": {
                                "taskName": "release",
                                "data": {"id": "${steps.reserve.id}", "by": "${workflow.name}"},
                            },
                        },
                        {"taskName": "explode", "data": {}},
                    ]
                },
            }
        )
        assert (
            await ended(
                app,
                world,
                "saga",
            )
            == "errored"
        )
        run = await app.start("saga", input={"n": 4}, id="s")
        await world.settle()
        assert str((await run.get()).status) == "compensated"
    assert notes == ["released 4 by saga"]


async def test_what_failed_is_told_with_its_step(app, world):
    heard = []

    @app.observe("workflow:failed", "workflow:compensating", "workflow:compensated")
    async def hear(event) -> None:
        heard.append((event.type, event.run_id, event.failed_step, event.error))

    async def fail(ctx) -> None:
        raise NonRetryableError("no")

    async def fine(ctx) -> int:
        return 1

    @app.task
    async def lost(ctx_of: int = 1) -> None:
        raise NonRetryableError("no")

    def begun(name):
        return workflow(name).step("a", fine)

    app.add(
        begun("inline").step("b", fail, after="a").build(),
        begun("task").step("b", lost, after="a").build(),
        begun("mapped").map("b", fail, after="a", over=lambda ctx: [1, 2]).build(),
        begun("asked").step("b", fine, after="a", when=lambda ctx: 1 / 0).build(),
        workflow("undone").step("a", fine, compensate=fine).step("b", fail, after="a").build(),
        workflow("result", output=lambda ctx: 1 / 0).step("a", fine).build(),
    )
    app.add(workflow("outer").step("c", app.registry.workflows["inline"]).build())
    async with app:
        for name in ("inline", "task", "mapped", "asked", "undone", "result", "outer"):
            await app.start(name, id=name)
            await world.advance(5)
            with pytest.raises(RunFailedError) as caught:
                await app.run(name).result(timeout=5)
            step = {"result": None, "outer": "c"}.get(name, "b")
            assert (f"step {step!r}: " in str(caught.value)) is (step is not None)
            assert getattr(caught.value.__cause__, "failed_step", None) == step
            assert {each[2] for each in heard if each[1] == name} == {step}
        cause = caught.value.__cause__.__cause__
        assert cause.failed_step == "b"  # of the graph within
        assert [each[0] for each in heard if each[1] == "undone"] == ["workflow:compensating", "workflow:compensated"]
        assert "in step 'b'" in str(await app.run("inline").explain())
