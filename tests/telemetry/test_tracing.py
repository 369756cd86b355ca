"""Traces, as an exporter in memory gets them from several workers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from perdure import Perdure, Retry, flow
from perdure.model.errors import StoreConflictError
from perdure.tasks.http import http_request_task
from perdure.telemetry import OpenTelemetry, run_context
from tests.engine.bodies import log_and_tell
from tests.engine.test_transactional_steps import interpose

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traces:
    """What each of several workers exports, as processes of their own would."""

    def __init__(self, world, url: str) -> None:
        self.world = world
        self.url = url
        self.exported = InMemorySpanExporter()

    def app(self, sampler=None, **options):
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(self.exported))
        return self.world.app(self.url, telemetry=[OpenTelemetry(provider)], **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exported.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time)

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def assert_whole(self) -> None:
        """No id twice, and every parent there, in one trace."""
        ids = Counter(span.context.span_id for span in self.spans)
        assert all(count == 1 for count in ids.values()), ids
        assert len({span.context.trace_id for span in self.spans}) == 1
        assert [span.name for span in self.spans if span.parent and span.parent.span_id not in ids] == []


@pytest.fixture
def traces(world, url) -> Traces:
    return Traces(world, url)


@pytest.fixture
def local(world, memory) -> Traces:
    return Traces(world, memory)


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def register(app, go: asyncio.Event):
    @app.step(name="charge", retry=Retry(attempts=3, delay=2))
    async def charge() -> str:
        if app.tries.pop(0):
            raise ConnectionError("the bank is closed")
        return "paid"

    @app.step(name="pack")
    async def pack() -> str:
        await go.wait()
        return "packed"

    @app.workflow(name="order")
    async def order() -> str:
        await charge()
        await flow.sleep(60)
        await pack()
        await flow.wait_for_event("approved", type="approved")
        return "done"

    return order


async def test_a_run_has_one_trace_over_crashes_and_workers(traces, world):
    go, still = asyncio.Event(), asyncio.Event()
    go.set()
    one, two = traces.app(), traces.app()
    one.tries, two.tries = [True, False], []
    order = register(one, still)
    register(two, go)
    await one.open()
    began = world.now()
    run = await one.start(order, id="order-1")
    await world.advance(3)
    await world.advance(60)
    assert [span.name for span in traces.spans] == ["charge", "charge"], "pack is under way, and tells nothing"
    await world.crash(one)
    async with two:
        await world.advance(20)
        assert traces.one("pack").attributes["perdure.worker.id"] == two.worker.id
        await two.run("order-1").send_event("approved")
        assert await run_result(two, run.id, world) == "done"
    traces.assert_whole()
    whole = traces.one("order")
    assert {span.parent.span_id for span in traces.spans if span is not whole} == {whole.context.span_id}
    assert whole.parent is None
    assert whole.start_time == began * 1_000_000
    assert whole.end_time > traces.one("pack").end_time
    assert events_of(whole) == ["begun", "timer fired", "event received"]
    failed, paid = traces.named("charge")
    assert failed.status.status_code is StatusCode.ERROR
    assert events_of(failed) == ["exception", "retry"]
    assert failed.events[0].attributes["exception.message"] == "the bank is closed"
    assert (paid.attributes["perdure.attempt"], paid.status.status_code) == (2, StatusCode.UNSET)
    assert paid.start_time - failed.end_time >= 2_000_000_000
    assert whole.attributes["perdure.run.status"] == "complete"


async def run_result(app, run_id: str, world):
    waiting = asyncio.create_task(app.run(run_id).result(timeout=20))
    await world.settle()
    return await waiting


async def test_what_was_not_committed_is_not_told_twice(traces, world):
    """The step ends, its commit never reaches the store, and another worker runs it again."""
    one, two = traces.app(), traces.app()
    calls = []

    def register(app, name):
        @app.step(name="once")
        async def once() -> int:
            calls.append(name)
            return len(calls)

        @app.workflow(name="w")
        async def w() -> int:
            first = await once()
            await flow.sleep(100)
            return first

        return w

    w, _ = register(one, "one"), register(two, "two")
    await one.open()
    release = one.store.hold("commit")
    await one.start(w, id="w")
    await world.settle()
    assert calls == ["one"]
    assert traces.spans == []
    await world.crash(one)
    release.set()
    async with two:
        taken_by = two.worker.id
        await world.advance(20)
        await world.advance(101)
        assert await run_result(two, "w", world) == 2
    traces.assert_whole()
    assert Counter(span.name for span in traces.spans) == {"once": 1, "w": 1}
    assert traces.one("once").attributes["perdure.worker.id"] == taken_by


def hung(store, commits: int):
    """From so many commits on, have none of them answered: what is durable then, nobody tells."""

    async def hangs(name: str) -> None:
        nonlocal commits
        if name != "commit":
            return
        commits -= 1
        if commits > 0:
            return
        with store._lock:
            store.in_flight -= 1
        try:
            await asyncio.Event().wait()
        finally:
            with store._lock:
                store.in_flight += 1

    return hangs


@pytest.mark.parametrize("seed", range(12))
async def test_whenever_workers_die_no_span_is_there_twice(world, memory, seed):
    """Workers die at random moments; what they told agrees with the journals, but for what they died over telling."""
    chance = random.Random(seed)
    traces, nap = Traces(world, memory), chance.randint(1, 30)

    def register(app):
        @app.step(name="inner")
        async def inner() -> int:
            return 1

        @app.step(name="work", retry=Retry(attempts=4, delay=1))
        async def work(n: int) -> int:
            if chance.random() < 0.3:
                raise ConnectionError
            return n + (await inner() if n % 2 else 0)

        @app.workflow(name="leaf")
        async def leaf(n: int) -> int:
            return await work(n)

        @app.workflow(name="parent")
        async def parent() -> int:
            found = await asyncio.gather(work(1), work(2), leaf(3))
            await flow.sleep(nap)
            return sum(found) + await work(4)

        return app

    app = register(traces.app())
    await app.open()
    runs = [(await app.start("parent", id=f"p{n}")).id for n in range(4)]
    for _ in range(6):
        setattr(app.store, chance.choice(["before", "after"]), hung(app.store, chance.randint(1, 12)))
        await world.advance(chance.randint(1, 20))
        await world.crash(app)
        app = register(traces.app())
        await app.open()
    await world.advance(200)
    await world.advance(200)
    journals = {}
    for run in (await app.runs(limit=100)).runs:
        assert run.status.is_finished, (await app.run(run.id).explain()).reasons
        journals[run.id] = {(r.key, r.attempt) for r in await app.run(run.id).journal() if r.kind == "step"}
    await app.close()
    assert len(journals) >= len(runs)
    ids = Counter(span.context.span_id for span in traces.spans)
    assert set(ids.values()) == {1}
    attempts = [span for span in traces.spans if "perdure.step" in span.attributes]
    for span in attempts:
        about = span.attributes
        assert (about["perdure.step"], about["perdure.attempt"]) in journals[about["perdure.run.id"]]
    assert len(attempts) > sum(map(len, journals.values())) / 3
    by_run = {span.attributes["perdure.run.id"]: span for span in traces.spans if "perdure.step" not in span.attributes}
    for span in attempts:
        whole = by_run.get(span.attributes["perdure.run.id"])
        if whole is not None and "/" not in span.attributes["perdure.step"]:
            assert span.parent.span_id == whole.context.span_id
            assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time


async def test_replays_tell_nothing(local, world):
    app = local.app()

    @app.step
    async def work(n: int) -> int:
        return n

    @app.workflow
    async def w() -> None:
        for n in range(3):
            await work(n)
            await flow.sleep(60)

    async with app:
        await app.start(w, id="w")
        for _ in range(4):
            await world.advance(61)
        assert (await app.run("w").get()).epoch >= 3
    local.assert_whole()
    assert Counter(span.name for span in local.spans) == {"work": 3, "w": 1}


async def test_a_run_joins_the_trace_that_it_was_started_in(local, world):
    app = local.app()

    @app.workflow
    async def w() -> None: ...

    tracer = TracerProvider().get_tracer("web")
    async with app:
        with tracer.start_as_current_span("request") as request:
            await (await app.start(w)).result(timeout=5)
            await app.start_many(w, [()] * 2)
        await app.start(w, tags={"traceparent": GIVEN})
        await world.settle()
    spans = local.named("w")
    place = request.get_span_context()
    assert [span.parent.span_id for span in spans[:3]] == [place.span_id] * 3
    assert {span.context.trace_id for span in spans[:3]} == {place.trace_id}
    assert f"{spans[3].parent.span_id:016x}" in GIVEN
    assert f"{spans[3].context.trace_id:032x}" in GIVEN


@pytest.mark.parametrize("given", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_tag_that_names_no_trace_counts_for_none(local, world, given):
    app = local.app()

    @app.workflow
    async def w() -> None: ...

    async with app:
        await app.start(w, tags={"traceparent": given})
        await world.settle()
    assert local.one("w").parent is None


async def test_children_and_what_steps_start_are_in_the_trace(traces, world):
    app = traces.app()

    @app.workflow
    async def leaf(n: int) -> int:
        return n

    @app.task
    async def task() -> str:
        return "task"

    @app.step
    async def starts() -> None:
        await app.start(leaf, 3, id="leaf-3")

    @app.workflow
    async def parent() -> list:
        await starts()
        return [await leaf(1), await task()]

    async with app:
        await app.start(parent, id="p")
        await world.settle()
        await world.advance(1)
        assert await run_result(app, "p", world) == [1, "task"]
    traces.assert_whole()
    whole = traces.one("parent")
    of = {span.attributes["perdure.run.id"]: span for span in traces.named("leaf")}
    assert of.pop("leaf-3").parent.span_id == traces.one("starts").context.span_id
    (child,) = of.values()
    assert child.parent.span_id == whole.context.span_id
    assert child.attributes["perdure.run.parent_id"] == "p"
    run, body = sorted(traces.named("task"), key=lambda span: "perdure.step" in span.attributes)
    assert run.parent.span_id == whole.context.span_id
    assert body.parent.span_id == run.context.span_id
    assert events_of(whole).count("child ended") == 2


async def test_a_step_finds_its_span_and_may_add_to_it(local, world):
    app = local.app()
    found = []

    @app.step
    async def inner() -> None:
        trace.get_current_span().set_attribute("customer", 7)
        with trace.get_tracer("mine", tracer_provider=provider).start_as_current_span("query"):
            await asyncio.sleep(0)

    @app.step
    async def outer() -> None:
        found.append(trace.get_current_span().get_span_context())
        await inner()

    @app.step
    def in_thread() -> None:
        found.append(trace.get_current_span().get_span_context())

    @app.workflow
    async def w() -> None:
        await outer()
        await in_thread()

    provider = app.telemetry[0]._provider
    async with app:
        await (await app.start(w)).result(timeout=5)
    local.assert_whole()
    assert [place.span_id for place in found] == [local.one(n).context.span_id for n in ("outer", "in_thread")]
    assert local.one("inner").parent.span_id == local.one("outer").context.span_id
    assert local.one("inner").attributes["customer"] == 7
    assert local.one("query").parent.span_id == local.one("inner").context.span_id


async def test_a_nested_step_of_a_later_attempt_stands_under_it(local, world):
    one, two = local.app(), local.app()
    go = asyncio.Event()

    def register(app):
        @app.step(name="inner")
        async def inner() -> None: ...

        @app.step(name="outer", retry=Retry(attempts=2, delay=1))
        async def outer() -> None:
            if not app.is_second:
                app.is_second = True
                raise ConnectionError
            await inner()
            await go.wait()

        @app.workflow(name="w")
        async def w() -> None:
            await outer()

        return w

    one.is_second, two.is_second = False, True
    w, _ = register(one), register(two)
    await one.open()
    await one.start(w, id="w")
    await world.advance(2)
    assert [span.name for span in local.spans] == ["outer", "inner"]
    await world.crash(one)
    go.set()
    async with two:
        await world.advance(20)
        assert await run_result(two, "w", world) is None
    local.assert_whole()
    assert local.one("inner").parent.span_id == local.named("outer")[1].context.span_id


async def test_a_failed_run_says_why(local, world):
    app = local.app()

    @app.step(retry=Retry(attempts=1))
    async def work() -> None:
        raise ValueError("no such customer")

    @app.workflow
    async def w() -> None:
        await work()

    async with app:
        await app.start(w)
        await world.settle()
    for name in ("work", "w"):
        span = local.one(name)
        assert span.status.status_code is StatusCode.ERROR
        assert "no such customer" in span.status.description
        (told,) = [event for event in span.events if event.name == "exception"]
        assert "ValueError" in told.attributes["exception.type"]


async def test_each_life_of_a_run_has_a_span_of_its_own(local, world):
    app = local.app()

    @app.workflow
    async def w(n: int) -> None:
        if n:
            await flow.continue_as_new(n - 1)

    async with app:
        run = await app.start(w, 2)
        await world.settle()
        await run.restart()
        await world.settle()
    local.assert_whole()
    spans = local.named("w")
    assert len(spans) >= 4
    (first,) = [span for span in spans if span.parent is None]
    assert {span.parent.span_id for span in spans if span is not first} == {first.context.span_id}
    assert first.attributes["perdure.run.status"] == "continued"


async def test_a_fork_stays_in_the_trace_where_there_was_one(local, world):
    app = local.app()

    @app.step
    async def work() -> None: ...

    @app.workflow
    async def w() -> None:
        await work()

    async with app:
        run = await app.start(w, tags={"traceparent": GIVEN})
        await world.settle()
        await run.fork(from_step="work")
        await world.settle()
    local_ids = [span.context.span_id for span in local.named("w")]
    assert len(set(local_ids)) == 2
    assert {f"{span.context.trace_id:032x}" for span in local.named("w")} == {GIVEN[3:35]}


async def test_each_run_that_a_schedule_starts_has_a_trace_of_its_own(local, world):
    app = local.app()

    @app.workflow(name="report")
    async def report() -> None: ...

    async with app:
        await app.schedules.create("reports", report, every=60)
        for _ in range(4):
            await world.advance(61)
    spans = local.named("report")
    assert len(spans) >= 3
    assert len({span.context.trace_id for span in spans}) == len(spans)
    assert {span.name for span in local.spans} == {"report"}


async def test_sampling_takes_whole_traces(local, world):
    app = local.app(sampler=ParentBased(TraceIdRatioBased(0.5)))

    @app.step
    async def work() -> None: ...

    @app.workflow
    async def w() -> None:
        await work()

    async with app:
        await app.start_many(w, [()] * 40)
        await world.settle()
    by_trace = Counter(span.context.trace_id for span in local.spans)
    assert set(by_trace.values()) == {2}
    assert 5 < len(by_trace) < 35


async def test_a_transaction_that_cannot_be_committed_is_a_failed_attempt(world, tmp_path):
    traces = Traces(world, f"sqlite:///{tmp_path}/a.db")
    conflicts = []

    async def commit(transaction, decision):
        if not conflicts:
            conflicts.append(1)
            await transaction.roll_back()
            raise StoreConflictError("somebody was in the way")
        return await transaction.commit(decision)

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(traces.exported))
    app = Perdure(traces.url, telemetry=[OpenTelemetry(provider)])

    @app.task(tx=True, retry=Retry(attempts=2, delay=0.01))
    async def pay() -> int:
        return flow.attempt()

    async with app:
        interpose(app, commit)
        assert await (await pay.enqueue()).result(timeout=20) == 2
    traces.assert_whole()
    run, failed, paid = sorted(traces.named("pay"), key=lambda span: span.attributes.get("perdure.attempt", 0))
    assert run.attributes["perdure.run.status"] == "complete"
    assert failed.status.description == "StoreConflictError: somebody was in the way"
    assert paid.parent.span_id == failed.parent.span_id == run.context.span_id


async def test_the_trace_goes_on_over_http(local, world):
    heard = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append({line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head.decode().split("\r\n")})
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    app = local.app()
    call = http_request_task(guard=False)
    app.add(call)
    app.webhook(
        f"http://127.0.0.1:{port}/told",
        events=["workflow:completed"],
        secret="whsec_" + "a" * 32,
        workflows=["w"],
        guard=False,
    )

    @app.workflow
    async def w() -> None:
        await call(f"http://127.0.0.1:{port}/called")

    async with server, app:
        await app.start(w, id="w")
        while len(local.named("w")) + len(heard) < 3 or (await app.stats()).status.keys() != {"complete"}:
            await world.settle()
            await asyncio.sleep(0.01)
    local.assert_whole()
    for request in heard:
        _, whole, parent, _ = request["traceparent"].split("-")
        assert f"{local.one('w').context.trace_id:032x}" == whole
        assert parent in {f"{span.context.span_id:016x}" for span in local.spans}


async def test_what_a_step_logs_names_its_span(local):
    app = Perdure(local.url, telemetry=local.app().telemetry)
    found = []

    @app.step(name="draw")
    def draw() -> None:
        found.append(run_context())

    @app.workflow(name="pictures")
    async def pictures() -> None:
        await draw()

    async with app:
        await (await app.start(pictures)).result(timeout=30)
    place = local.one("draw").context
    (about,) = found
    assert (about["trace_id"], about["span_id"]) == (f"{place.trace_id:032x}", f"{place.span_id:016x}")


async def test_a_step_in_a_process_knows_its_trace(local):
    app = Perdure(local.url, telemetry=local.app().telemetry)
    draw = app.step(log_and_tell, name="draw", run_in="process")

    @app.workflow(name="pictures")
    async def pictures() -> list[str | None]:
        return await draw("drawn")

    async with app:
        (trace,) = await (await app.start(pictures)).result(timeout=30)
    place = local.one("draw").context
    assert trace == f"00-{place.trace_id:032x}-{place.span_id:016x}-01"
