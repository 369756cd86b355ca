"""Events that start workflows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from perdure import DefinitionError, Perdure, RunStatus, SerializationError, UsageError, flow, workflow
from perdure.engine.triggers.events import ANNOUNCED_FOR_MS


@dataclass
class Order:
    number: int
    total: float


def shop(app, **options):
    @app.on("order.created", **options)
    @app.workflow
    async def invoice(order: Order) -> str:
        return f"{order.number}: {order.total}"

    return invoice


async def results(runs) -> list[object]:
    return [await run.result() for run in runs]


async def test_an_event_starts_every_subscriber(world, app):
    shop(app)
    got = []

    @app.on("order.created")
    @app.task(queue="mail")
    async def mail(order: dict, copies: int = 1) -> None:
        got.append((order, copies))

    @app.on("order.created")
    @app.on("order.paid")
    @app.workflow
    async def refresh() -> str:
        return "fresh"

    app.settings = type(app.settings)(queues=("default", "mail"))
    async with app:
        runs = await app.emit("order.created", Order(7, 9.5), id="evt-1")
        assert await results(runs) == ["7: 9.5", None, "fresh"]
        assert [run.id for run in runs] == [
            "event:order.created:evt-1:invoice", "event:order.created:evt-1:mail", "event:order.created:evt-1:refresh",
        ]  # fmt: skip
        assert got == [({"number": 7, "total": 9.5}, 1)]
        assert (await runs[1].get()).tags == {"event": "order.created"}
        assert await results(await app.emit("order.paid")) == ["fresh"]
        assert await app.emit("order.lost") == []


async def test_an_event_of_one_id_starts_each_once(world, app):
    shop(app)
    async with app:
        (first,) = await app.emit("order.created", {"number": 1, "total": 1}, id="e")
        (second,) = await app.emit("order.created", {"number": 2, "total": 2}, id="e")
        assert (first.id, await second.result()) == (second.id, "1: 1.0")
        (third,) = await app.emit("order.created", {"number": 2, "total": 2})
        assert third.id != first.id


@pytest.mark.parametrize(
    "where", ["total > `100`", "total > `100` && number", lambda order: order.total > 100, "@.total > `100`"]
)
async def test_conditions(world, app, where):
    shop(app, where=where)
    async with app:
        assert await app.emit("order.created", {"number": 1, "total": 100}) == []
        assert len(await app.emit("order.created", {"number": 1, "total": 101})) == 1


async def test_workflows_of_other_applications_are_started(world, make):
    worker, client, stranger = make(), make(mode="client"), make(queues=["strange"])
    shop(worker, where="total > `100`")

    @stranger.workflow(queue="strange")
    async def other() -> None: ...

    async with worker, client, stranger:
        for app in (client, stranger):
            assert await app.emit("order.created", {"number": 1, "total": 100}) == []
            (run,) = await app.emit("order.created", {"number": 1, "total": 101})
            await world.settle()
            assert (await run.get()).status is RunStatus.COMPLETE


async def test_a_condition_in_somebody_elses_code_is_an_error(world, make):
    worker, client = make(), make(mode="client")
    shop(worker, where=lambda order: order.total > 100)
    async with worker, client:
        with pytest.raises(UsageError, match="'invoice' has a condition in Python, which only the application"):
            await client.emit("order.created", {"number": 1, "total": 101})
        assert (await client.runs()).runs == []


async def test_a_subscription_that_nobody_announces_is_over(world, make):
    worker, client = make(), make(mode="client")
    shop(worker)
    async with client:
        async with worker:
            await world.settle()
        await world.advance(ANNOUNCED_FOR_MS / 1000)
        assert len(await client.emit("order.created", {"number": 1, "total": 1})) == 1
        await world.advance(60)
        assert await client.emit("order.created", {"number": 1, "total": 1}) == []


async def test_while_two_versions_are_at_work_both_count(world, make):
    old, new, client = make(), make(), make(mode="client")

    @old.workflow
    async def invoice(order: dict) -> None: ...

    @new.on("order.created")
    @new.workflow(version="2", name="invoice")
    async def newer(order: dict) -> None: ...

    async with client, old:
        async with new:
            await world.advance(35)  # the older one has announced itself behind it
            assert len(await client.emit("order.created", {})) == 1
        await world.advance(200)
        assert await client.emit("order.created", {}) == []


async def test_a_worker_emits_too(world, make):
    app = make(mode="worker")
    shop(app)
    async with app:
        (run,) = await app.emit("order.created", {"number": 1, "total": 1}, id="x" * 200)
        await world.settle()
        assert (await run.get()).status is RunStatus.COMPLETE
        assert len(run.id) < 100


@pytest.mark.parametrize("payload", [{"n": 5}, {}, [1, 2], 7])
async def test_a_graph_takes_the_payload_as_its_whole_input(world, make, payload):
    worker, client = make(), make(mode="client")
    graph = workflow("graph").step("same", lambda context: context.input).build()
    worker.add(graph)
    worker.on("order.created")(graph)
    worker.schedule(every="1h", args=(payload,))(graph)
    async with client, worker:
        for app in (worker, client):
            (run,) = await app.emit("order.created", payload)
            await world.settle()
            assert (await run.result()) == {"same": payload}
        run = await client.schedules.trigger("graph")
        await world.settle()
        assert await run.result() == {"same": payload}
        assert (await worker.schedules.get("graph")).input == payload


async def test_workflow_code_emits_once(world, app):
    shop(app)
    failures = []

    @app.step
    async def body() -> list[str]:
        found = await flow.emit("order.created", {"number": 2, "total": 2})
        failures.append(len(failures))
        if len(failures) == 1:
            raise RuntimeError("once more")
        return found

    @app.workflow
    async def parent() -> list[str]:
        return [*await flow.emit("order.created", {"number": 1, "total": 1}), *await body()]

    async with app:
        run = await app.start(parent, id="p")
        await world.advance(60)
        assert await run.result() == ["event:order.created:p:emit:invoice", "event:order.created:p:body:invoice"]
        assert await app.run("event:order.created:p:emit:invoice").result() == "1: 1.0"
        assert len((await app.runs(workflow="invoice")).runs) == 2
        assert [record.key for record in await run.journal()] == ["input", "emit", "body", "body", "output"]


async def test_each_event_that_a_step_gives_off_is_one_of_its_own(world, app):
    shop(app)
    attempts = []

    @app.step
    async def body() -> list[str]:
        found = [(await flow.emit("order.created", {"number": number, "total": 1}))[0] for number in range(3)]
        attempts.append(found)
        if len(attempts) == 1:
            raise RuntimeError("once more")
        return found

    @app.workflow
    async def parent() -> list[str]:
        return await body()

    async with app:
        run = await app.start(parent, id="p")
        await world.advance(60)
        assert attempts[0] == attempts[1] == await run.result()
        assert [await app.run(each).result() for each in attempts[0]] == ["0: 1.0", "1: 1.0", "2: 1.0"]


async def test_a_run_that_begins_anew_gives_off_new_events(world, app):
    shop(app)

    @app.workflow
    async def parent(number: int = 0) -> None:
        await flow.emit("order.created", {"number": number, "total": 1})
        if number < 2:
            await flow.continue_as_new(number + 1)

    async with app:
        await (await app.start(parent, id="p")).result()
        await world.settle()
        assert sorted([await app.run(run.id).result() for run in (await app.runs(workflow="invoice")).runs]) == [
            "0: 1.0", "1: 1.0", "2: 1.0",
        ]  # fmt: skip


async def test_one_id_is_that_of_one_event(world, app):
    """Neither two types nor two workflows are taken for one another."""

    @app.on("order.created")
    @app.on("order.paid")
    @app.workflow
    async def note(order: dict) -> None: ...

    @app.on("order.created")
    @app.workflow(name="b:note")
    async def other(order: dict) -> None: ...

    async with app:
        found = [
            run.id
            for event, event_id in (("order.created", "a"), ("order.paid", "a"), ("order.created", "a:b"))
            for run in await app.emit(event, {}, id=event_id)
        ]
        assert len(set(found)) == len(found) == 5
        assert [run.id for run in await app.emit("order.paid", {}, id="\udcff")] not in found


async def test_flow_emit_outside_is_refused(app):
    with pytest.raises(UsageError, match=r"flow.emit was called outside a step"):
        await flow.emit("order.created")


async def test_what_cannot_be_emitted(world, app):
    @app.on("order.created")
    @app.workflow
    async def anything(order: object) -> None: ...

    shop(app)

    async with app:
        for event in ("", "x" * 201, "a\nb", None):
            with pytest.raises(UsageError, match="event type"):
                await app.emit(event)
        for event_id in ("", "x" * 201, 5):
            with pytest.raises(UsageError, match="event id"):
                await app.emit("order.created", {}, id=event_id)
        with pytest.raises(SerializationError, match="the input of workflow 'invoice' does not fit"):
            await app.emit("order.created", {"number": "one"})
        with pytest.raises(SerializationError, match="the payload of the event cannot be stored"):
            await app.emit("order.created", object())
        assert (await app.runs()).runs == []


async def test_a_condition_that_fails_starts_nothing(world, app):
    shop(app, where=lambda order: 1 / 0)
    async with app:
        with pytest.raises(ZeroDivisionError):
            await app.emit("order.created", {"number": 1, "total": 1})


async def test_what_cannot_be_subscribed(app):
    @app.workflow
    async def needy(one: int, other: int) -> None: ...

    with pytest.raises(
        DefinitionError, match="'needy' cannot be started by an event: beside the payload it needs 'other'"
    ):
        app.on("e")(needy)
    invoice = shop(app)
    with pytest.raises(DefinitionError, match="'invoice' is started by event 'order.created' already"):
        app.on("order.created")(invoice)
    with pytest.raises(UsageError, match="^where: 'total >' is no expression"):
        app.on("e", where="total >")(invoice)
    with pytest.raises(DefinitionError, match="must be a JMESPath expression or a plain function"):
        app.on("e", where=5)(invoice)
    with pytest.raises(UsageError, match="workflow 'invoice' is not registered with this application"):
        Perdure("memory://elsewhere").on("e")(invoice)
    with pytest.raises(UsageError, match="@app.on stands above"):
        app.on("e")(len)


async def test_a_payload_that_does_not_fit_somebody_elses_workflow_fails_there(world, make):
    worker, client = make(), make(mode="client")
    shop(worker)
    async with worker, client:
        (run,) = await client.emit("order.created", {"number": "one"})
        await world.settle()
        assert (await run.get()).status is RunStatus.ERRORED


def test_code_that_cannot_await():
    app = Perdure(f"memory://{uuid.uuid4()}")
    invoice = shop(app)
    with app.blocking as blocking:
        (run,) = blocking.emit("order.created", Order(7, 9.5), id="e")
        assert run.result() == "7: 9.5"
        blocking.schedules.create("hourly", invoice, Order(8, 1), every="1h")
        assert blocking.schedules.trigger("hourly").result() == "8: 1.0"
        assert [summary.name for summary in blocking.schedules.list()] == ["hourly"]
