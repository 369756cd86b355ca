"""What runs are told, and what starts them, from other traces than their own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from perdure import flow
from tests.telemetry.test_tracing import GIVEN, Traces, events_of, hung, run_result

SENDER = TracerProvider().get_tracer("somebody")


@pytest.fixture
def traces(world, url) -> Traces:
    return Traces(world, url)


@pytest.fixture
def local(world, memory) -> Traces:
    return Traces(world, memory)


def link_of(span: ReadableSpan) -> tuple[int, int]:
    (link,) = span.links
    return link.context.trace_id, link.context.span_id


def place_of(span) -> tuple[int, int]:
    return span.get_span_context().trace_id, span.get_span_context().span_id


def register(app):
    @app.workflow(name="order")
    async def order() -> str:
        await flow.wait_for_event("approved", type="approved")
        await flow.sleep(60)
        await flow.wait_for_event("approved", type="approved")
        return "done"

    return order


async def test_an_event_is_linked_to_where_it_was_sent(traces, world):
    """By whichever worker takes it: one has the run in memory, another finds both, and the last sender has no trace."""
    one, two = traces.app(), traces.app()
    order, _ = register(one), register(two)
    await one.open()
    run = await one.start(order, id="o")
    await world.settle()
    with SENDER.start_as_current_span("approve") as sent:
        await run.send_event("approved", id="e1")
    await world.advance(1)
    first = traces.one("receive approved")
    assert traces.spans == [first], "it is told while the run goes on"
    await world.crash(one)
    with SENDER.start_as_current_span("approve again") as again:
        async with traces.app(mode="client") as client:
            await client.run("o").send_event("approved", id="e2")
    async with two:
        await world.advance(80)
        assert await run_result(two, "o", world) == "done"
    traces.assert_whole()
    whole = traces.one("order")
    first, second = traces.named("receive approved")
    assert first.parent.span_id == second.parent.span_id == whole.context.span_id
    assert link_of(first) == place_of(sent)
    assert link_of(first)[0] != whole.context.trace_id
    assert link_of(second) == place_of(again)
    assert dict(first.attributes).items() >= {"perdure.event.type": "approved", "perdure.event.id": "e1"}.items()
    assert first.start_time <= first.end_time
    assert second.end_time - second.start_time >= 20_000_000_000, "it waited for the run"
    assert events_of(whole).count("event received") == 2
    assert whole.links == ()


def delayed(store) -> asyncio.Event:
    """Have commits wait on their way to the store until the event is set."""
    release = asyncio.Event()

    async def waits(name: str) -> None:
        if name == "commit":
            with store._lock:
                store.in_flight -= 1
            await release.wait()
            with store._lock:
                store.in_flight += 1

    store.before = waits
    return release


@pytest.mark.parametrize("is_committing", [False, True])
async def test_an_event_that_comes_while_a_worker_has_the_run(local, world, is_committing):
    app, sender, go = local.app(), local.app(mode="client"), asyncio.Event()

    @app.step(name="work")
    async def work() -> None:
        await go.wait()

    @app.workflow(name="w")
    async def w() -> int:
        await work()
        await work()
        return await flow.wait_for_event("go", type="go")

    async with sender, app:
        run = await app.start(w, id="w")
        await world.settle()
        release = delayed(app.store)
        if is_committing:
            go.set()
            await world.settle()
        with SENDER.start_as_current_span("send") as sent:
            await (sender.run("w") if is_committing else run).send_event("go", 1)
        await world.settle()
        go.set()
        release.set()
        assert await run_result(app, "w", world) == 1
        assert (await run.get()).epoch == 1
    local.assert_whole()
    assert link_of(local.one("receive go")) == place_of(sent)


async def test_an_event_outside_of_any_trace_has_no_span(local, world):
    app = local.app()

    @app.workflow
    async def w() -> None:
        await flow.wait_for_event("go", type="go")

    async with app:
        run = await app.start(w)
        await run.send_event("go")
        await world.settle()
    assert [span.name for span in local.spans] == ["w"]
    assert events_of(local.one("w")) == ["begun", "event received"]


async def test_a_step_that_sends_an_event_is_linked_to_and_the_journal_names_the_event(traces, world):
    app = traces.app()

    @app.step
    async def tell(run_id: str) -> None:
        await app.run(run_id).send_event("go", id="from-a-step")

    @app.workflow(name="sender")
    async def sender(run_id: str) -> None:
        await tell(run_id)

    @app.workflow(name="receiver")
    async def receiver() -> None:
        await flow.wait_for_event("go", type="go")

    async with app:
        run = await app.start(receiver, id="r")
        await world.settle()
        await app.start(sender, "r")
        await world.settle()
        assert [record.ref for record in await run.journal() if record.kind == "event"] == ["from-a-step"]
    assert link_of(traces.one("receive go")) == place_of(traces.one("tell"))
    assert traces.one("receiver").context.trace_id != traces.one("sender").context.trace_id


async def test_an_event_that_ends_a_life_of_a_run_is_told(local, world):
    app = local.app()

    @app.workflow(name="account")
    async def account(n: int) -> None:
        await flow.wait_for_event("paid", type="paid")
        if n:
            await flow.continue_as_new(n - 1)

    async with app:
        run = await app.start(account, 2)
        for _ in range(3):
            with SENDER.start_as_current_span("pay"):
                await run.send_event("paid")
            await world.settle()
    local.assert_whole()
    assert len(local.named("receive paid")) == 3
    lives = {span.context.span_id for span in local.named("account")}
    assert {span.parent.span_id for span in local.named("receive paid")} == lives


async def test_who_has_a_run_undone_is_linked_to(local, world):
    app = local.app()

    @app.workflow(name="w")
    async def w() -> None:
        await flow.wait_for_event("never", type="never")

    async with app:
        run = await app.start(w)
        await world.settle()
        with SENDER.start_as_current_span("operator") as operator:
            await run.terminate(undo=True)
        await world.settle()
    (received,) = [span for span in local.spans if span.name.startswith("receive ")]
    assert link_of(received) == place_of(operator)


async def test_what_an_event_starts_has_a_trace_of_its_own(traces, world):
    app = traces.app()

    @app.on("order.placed")
    @app.workflow(name="ship")
    async def ship(order: dict) -> None:
        await app.emit("order.shipped", order, id=order["id"])

    @app.on("order.placed")
    @app.task(name="mail")
    async def mail(order: dict) -> None:
        await app.emit("order.mailed", order)

    @app.on("order.mailed")
    @app.workflow(name="file")
    async def file(order: dict) -> None: ...

    async with app:
        with SENDER.start_as_current_span("place") as place:
            await app.emit("order.placed", {"id": "7"}, id="7")
        await world.settle()
        await app.emit("order.mailed", {"id": "8"})
        await world.settle()
        run = await app.run("event:order.placed:7:mail").get()
    assert set(run.tags) == {"event", "tracelink"}
    (mailed,) = [span for span in traces.named("mail") if "perdure.step" not in span.attributes]
    (attempt,) = [span for span in traces.named("mail") if "perdure.step" in span.attributes]
    assert mailed.parent is None
    assert link_of(mailed) == place_of(place)
    assert mailed.context.trace_id != place.get_span_context().trace_id
    assert mailed.attributes["perdure.event.type"] == "order.placed"
    linked, alone = traces.named("file")
    assert link_of(linked) == place_of(attempt)
    assert alone.links == ()
    assert alone.attributes["perdure.event.type"] == "order.mailed"
    assert len({span.context.trace_id for span in (mailed, linked, alone)}) == 3


async def test_what_a_schedule_starts_has_a_trace_of_its_own_and_names_it(local, world):
    """Also where the worker was started in a span, and where somebody has it start something now."""
    app = local.app()

    @app.workflow(name="report")
    async def report() -> None: ...

    with SENDER.start_as_current_span("main") as main:
        await app.open()
    try:
        await app.schedules.create("reports", report, every=60)
        await world.advance(61)
        await world.advance(61)
        with SENDER.start_as_current_span("operator") as operator:
            await app.schedules.trigger("reports")
        await world.settle()
    finally:
        await app.close()
    spans = local.named("report")
    assert len(spans) == 3
    assert {span.name for span in local.spans} == {"report"}
    ours = {place.get_span_context().trace_id for place in (main, operator)}
    assert len({span.context.trace_id for span in spans} - ours) == 3
    assert [span.parent for span in spans] == [None] * 3
    assert {span.attributes["perdure.schedule"] for span in spans} == {"reports"}
    assert len({span.attributes["perdure.fire"] for span in spans}) == 3
    assert [len(span.links) for span in spans] == [0, 0, 1]
    assert link_of(spans[2]) == place_of(operator)


@pytest.mark.parametrize("given", ["", "nonsense", GIVEN + "-more"])
async def test_a_link_that_names_nothing_is_none(local, world, given):
    app = local.app()

    @app.workflow
    async def w() -> None: ...

    async with app:
        await app.start(w, tags={"tracelink": given})
        await world.settle()
    assert local.one("w").links == ()


async def test_a_worker_that_nobody_watches_takes_such_events_too(world, memory):
    app = world.app(memory)

    @app.workflow
    async def w() -> str:
        return await flow.wait_for_event("go", type="go")

    sender = Traces(world, memory).app(mode="client")
    async with app, sender:
        run = await app.start(w, id="w")
        with SENDER.start_as_current_span("send"):
            await sender.run("w").send_event("go", "there")
        waiting = asyncio.create_task(run.result(timeout=20))
        await world.advance(5)
        assert await waiting == "there"


@pytest.mark.parametrize("seed", range(8))
async def test_whenever_workers_die_no_event_has_two_spans(world, memory, seed):
    chance = random.Random(seed)
    traces, nap = Traces(world, memory), chance.randint(0, 5)

    def register(app):
        @app.step(name="work")
        async def work() -> None: ...

        @app.workflow(name="w")
        async def w() -> int:
            for _ in range(4):
                await asyncio.gather(work(), flow.wait_for_event("go", type="go"))
                await flow.sleep(nap)
            return 4

        return app

    app = register(traces.app())
    await app.open()
    for n in range(3):
        await app.start("w", id=f"w{n}")
    for event in range(4):
        setattr(app.store, chance.choice(["before", "after"]), hung(app.store, chance.randint(1, 8)))
        async with traces.app(mode="client") as client:
            for n in range(3):
                with SENDER.start_as_current_span("send"):
                    await client.run(f"w{n}").send_event("go", id=f"e{event}")
        await world.advance(chance.randint(1, 20))
        await world.crash(app)
        app = register(traces.app())
        await app.open()
    for _ in range(8):
        await world.advance(60)
    assert [run.status for run in (await app.runs()).runs] == ["complete"] * 3
    await app.close()
    ids = Counter(span.context.span_id for span in traces.spans)
    assert set(ids.values()) == {1}
    received = traces.named("receive go")
    assert len(received) >= 6, "what a worker dies over telling may be missing"
    assert all(len(span.links) == 1 for span in received)
