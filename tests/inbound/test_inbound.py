"""A request that is verified starts one run, which is durable before it is answered; whatever else starts none."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import tracemalloc
from dataclasses import dataclass

import pytest

from perdure import Context, RunStatus, StoreUnavailableError, flow, inbound, workflow
from perdure.model.limits import NAME_LENGTH
from tests.engine.world import until
from tests.inbound.asking import SECRET, client, post, raw, signed, verifier

PAID = {"id": "evt_1", "type": "invoice.paid", "total": 7}


@dataclass
class Paid:
    id: str
    total: int


def keeping(app, **options):
    """An application that keeps what comes in."""
    got = []

    @app.webhook("/hooks/stripe", verify=verifier(), **options)
    @app.workflow
    async def keep(event: dict) -> str:
        got.append(event)
        return event["id"]

    return got


async def runs(app):
    return (await app.runs()).runs


async def test_one_run_for_all_tries_of_a_delivery(make, world):
    app, other = make(), make(mode="client")
    got = keeping(app)
    keeping(other)
    async with app, other:
        answers = await asyncio.gather(*(post(each, "/hooks/stripe", PAID) for each in (app, other) * 10))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.content for answer in answers} == {b""}
        await until(lambda: got)
        await world.settle()
        (run,) = await runs(app)
        assert (run.workflow, run.tags) == ("keep", {"webhook": "/hooks/stripe", "event": "invoice.paid"})
        assert got == [PAID]
        await post(app, "/hooks/stripe", {**PAID, "id": "evt_2"})
        assert len(await runs(app)) == 2


async def test_the_run_is_durable_before_the_answer(make):
    app = make(mode="client")
    keeping(app)
    async with app:
        assert (await post(app, "/hooks/stripe", PAID)).status_code == 200
    again = make(mode="client")
    async with again:
        assert [run.status for run in await runs(again)] == [RunStatus.QUEUED]


async def test_a_delivery_is_known_for_as_long_as_services_try(app, world):
    got = keeping(app)
    async with app:
        await post(app, "/hooks/stripe", PAID)
        await until(lambda: got)
        await world.advance(4 * 86_400 - 60)
        await post(app, "/hooks/stripe", PAID)
        await world.settle()
        assert len(got) == 1
        await world.advance(120)
        await post(app, "/hooks/stripe", PAID)
        await until(lambda: len(got) == 2)


async def test_what_comes_in_is_typed(app):
    got = []

    @app.webhook("/hooks/stripe", verify=verifier(), key=lambda paid: paid.total, where=lambda paid: paid.total > 1)
    @app.task
    async def keep(paid: Paid) -> None:
        got.append(paid)

    async with app:
        for number, total in enumerate((7, 7, 8, 1)):
            answer = await post(app, "/hooks/stripe", {"id": f"evt_{number}", "type": "x", "total": total})
            assert answer.status_code == 200
        await until(lambda: len(got) == 2)
        assert sorted(paid.total for paid in got) == [7, 8]
        answer = await post(app, "/hooks/stripe", {"id": "evt_9", "total": "many"})
        assert answer.status_code == 422
        assert "total" in answer.json()["detail"]
        assert len(await runs(app)) == 2


async def test_a_graph_takes_the_event_as_its_input(app):
    async def total(ctx: Context) -> object:
        return ctx.job.payload

    graph = workflow("graph").step("total", total).build()
    app.add(graph)
    app.webhook("/hooks/stripe", verify=verifier())(graph)
    async with app:
        for event in (PAID, [1]):
            assert (await post(app, "/hooks/stripe", event)).status_code == 200
        results = [await app.run(run.id).result() for run in await runs(app)]
        assert sorted(results, key=str) == [{"total": [1]}, {"total": PAID}]


async def test_some_types_of_event_are_taken_and_others_dropped(app):
    got = keeping(app, only=["invoice.paid"], where="total > `1`")
    async with app:
        for number, (kind, total) in enumerate(itertools.product(("invoice.paid", "invoice.sent"), (1, 2))):
            event = {"id": f"evt_{number}", "type": kind, "total": total}
            assert (await post(app, "/hooks/stripe", event)).status_code == 200
        await until(lambda: got)
        assert [event["id"] for event in got] == ["evt_1"]
        assert len(await runs(app)) == 1


async def test_workflows_share_a_path(app):
    verify = verifier()

    @app.webhook("/hooks/stripe", verify=verify, only=["invoice.paid"])
    @app.webhook("/hooks/other", verify=verifier())
    @app.workflow
    async def paid(event: dict) -> None: ...

    @app.webhook("/hooks/stripe", verify=verify)
    @app.workflow
    async def every() -> None: ...

    async with app:
        await post(app, "/hooks/stripe", PAID)
        assert sorted(run.workflow for run in await runs(app)) == ["every", "paid"]
        await post(app, "/hooks/other", PAID)
        assert len(await runs(app)) == 3  # a path of its own has keys of its own


async def test_a_task_gives_off_an_event_of_it(app):
    @app.webhook("/hooks/stripe", verify=verifier())
    @app.task
    async def tell(event: dict) -> None:
        await flow.emit(f"stripe.{event['type']}", event)

    @app.on("stripe.invoice.paid")
    @app.workflow
    async def paid(event: dict) -> str:
        return event["id"]

    async with app:
        await post(app, "/hooks/stripe", PAID)
        (told,) = (await app.runs(workflow="tell")).runs
        await app.run(told.id).result()
        (run,) = (await app.runs(workflow="paid")).runs
        assert await app.run(run.id).result() == "evt_1"


async def test_a_verifier_of_ones_own(app):
    def verify(body: bytes, headers: dict[str, str]) -> object:
        if headers["X-Token"] != "t":
            raise PermissionError(headers["x-token"])
        return body.decode()

    got = []

    @app.webhook("/hooks/own", verify=verify)
    @app.workflow
    async def keep(event: str) -> None:
        got.append(event)

    async with app, client(inbound.asgi(app)) as http:
        for _ in range(2):
            assert (await http.post("/hooks/own", content=b"hello", headers={"x-token": "t"})).status_code == 200
        await until(lambda: got == ["hello", "hello"])  # nothing tells them apart
        for headers in ({}, {"x-token": "u"}):
            assert (await http.post("/hooks/own", content=b"hello", headers=headers)).status_code == 401
        answer = await http.post("/hooks/own", content=b"\xff", headers={"x-token": "t"})
        assert answer.status_code == 400


async def test_a_reply_starts_nothing(app):
    @app.webhook("/hooks/own", verify=lambda body, headers: inbound.Received(None, reply="héllo"))
    @app.workflow
    async def keep(event: object) -> None: ...

    async with app:
        answer = await post(app, "/hooks/own", b"")
        assert (answer.status_code, answer.text) == (200, "héllo")
        assert not await runs(app)


async def test_requests_that_are_wrong(app, caplog):
    caplog.set_level(logging.DEBUG, "perdure.inbound")
    keeping(app)
    async with app, client(inbound.asgi(app)) as http:
        body, headers = signed(PAID)
        for path in ("/hooks", "/hooks/stripe/", "/hooks/stripe2", "/hooks//stripe", "/", "/hooks/../hooks/stripe/x"):
            assert (await http.post(path, content=body, headers=headers)).status_code == 404
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"):
            answer = await http.request(method, "/hooks/stripe", content=body, headers=headers)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        wrong = await http.post("/hooks/stripe", content=body, headers=signed(PAID, "other")[1])
        assert wrong.status_code == 401
        assert wrong.headers["content-type"] == "application/problem+json"
        assert "Stripe-Signature" in wrong.json()["detail"]
        twice = [*headers.items(), *headers.items()]
        assert (await http.post("/hooks/stripe", content=body, headers=twice)).status_code == 401
        for unreadable in (b"", b"{", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}', b'{"id":"evt_1",}', b"NaN"):
            answer = await post(app, "/hooks/stripe", unreadable)
            assert answer.status_code == 400, unreadable[:20]
        for misfit in (b"7", b"null", b'"x"', b"[]"):
            assert (await post(app, "/hooks/stripe", misfit)).status_code == 422, misfit
        assert (await post(app, "/hooks/stripe", b'{"id":"\\ud800"}')).status_code in (400, 422)
        assert not await runs(app)
    assert "evt_1" not in caplog.text


@pytest.mark.parametrize("key", [lambda event: event["gone"], lambda event: None, lambda event: True, lambda event: ""])
async def test_a_key_that_cannot_be_told(app, key, caplog):
    keeping(app, key=key)
    async with app:
        answer = await post(app, "/hooks/stripe", PAID)
        assert answer.status_code == 500
        assert "the log says more" in answer.json()["detail"]
        assert not await runs(app)
    assert "/hooks/stripe failed" in caplog.text


async def test_a_key_that_is_the_whole_event_is_not_logged(app, caplog):
    keeping(app, key=lambda event: event)
    async with app:
        assert (await post(app, "/hooks/stripe", PAID)).status_code == 500
    assert "an object of type dict" in caplog.text
    assert "evt_1" not in caplog.text


@pytest.mark.parametrize("verdict", [True, False])
async def test_a_verifier_that_says_only_whether_it_holds_is_told(app, verdict, caplog):
    @app.webhook("/hooks/own", verify=lambda body, headers: verdict)
    @app.workflow
    async def keep() -> None: ...

    async with app:
        assert (await post(app, "/hooks/own", PAID)).status_code == 500
        assert not await runs(app)
    assert f"its verifier returned {verdict}; it has to return the event" in caplog.text


async def test_an_id_that_is_none_loses_no_event(app, caplog):
    @app.webhook("/hooks/own", verify=lambda body, headers: inbound.Received(1, id=headers.get("x-id", "")))
    @app.workflow
    async def keep(event: int) -> None: ...

    async with app, client(inbound.asgi(app)) as http:
        assert (await http.post("/hooks/own")).status_code == 500
        assert (await http.post("/hooks/own", headers={"X-Id": "1"})).status_code == 200
        assert len(await runs(app)) == 1
    assert "verify: as the id it returned an empty text" in caplog.text


async def test_what_a_verifier_raises_is_logged_without_its_text(app, caplog):
    caplog.set_level(logging.DEBUG, "perdure.inbound")

    def verify(body, headers):
        raise PermissionError("secret")

    @app.webhook("/hooks/own", verify=verify)
    @app.workflow
    async def keep() -> None: ...

    async with app:
        assert (await post(app, "/hooks/own", PAID)).status_code == 401
    assert re.search(r"its verifier raised PermissionError in .*test_inbound\.py, line \d+", caplog.text)
    assert "secret" not in caplog.text


async def test_keys_of_any_length(app):
    keeping(app, key=lambda event: event["key"])
    async with app:
        for key in ("k", "k" * NAME_LENGTH, "k" * 10_000, "é\n", 7):
            for _ in range(2):
                assert (await post(app, "/hooks/stripe", {"id": "e", "key": key})).status_code == 200
        assert len(await runs(app)) == 5


async def test_a_type_that_is_no_tag(app):
    keeping(app)
    async with app:
        for kind in ("x" * (NAME_LENGTH + 1), "a\nb"):
            await post(app, "/hooks/stripe", {"id": kind[:9], "type": kind})
        assert [run.tags for run in await runs(app)] == [{"webhook": "/hooks/stripe"}] * 2


async def test_a_store_that_cannot_be_reached(app, world):
    keeping(app)
    closed = await post(app, "/hooks/stripe", PAID)
    assert (closed.status_code, closed.headers["retry-after"]) == (503, "5")
    async with app:

        async def down(*args, **options):
            raise StoreUnavailableError("postgresql://db.internal/shop: no route to host")

        app.client.create = down
        answer = await post(app, "/hooks/stripe", PAID)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "internal" not in answer.text
        del app.client.create
        assert (await post(app, "/hooks/stripe", PAID)).status_code == 200


async def test_a_store_that_takes_its_time(app, caplog):
    got, slow = keeping(app), asyncio.Event()

    async with app:
        create = app.client._creates._operation

        async def slowly(news):
            await slow.wait()
            return await create(news)

        app.client._creates._operation = slowly
        answer = await post(app, "/hooks/stripe", PAID, answer_within=0.05)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "has not answered within 0.05 seconds" in caplog.text
        slow.set()
        assert (await post(app, "/hooks/stripe", PAID)).status_code == 200
        await until(lambda: got)
        assert len(await runs(app)) == 1


async def test_a_body_over_the_bound_is_not_read(app):
    keeping(app)
    part = b"x" * 65_536
    async with app:
        served = inbound.asgi(app)
        tracemalloc.start()
        status, taken = await raw(served, itertools.repeat(part, 5 * 2**30 // len(part)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (status, taken) == (413, 17)
        assert peak < 4 * 2**20
        for length in (b"1048577", b"5368709120", b"9" * 400):
            assert await raw(served, [part], headers=[(b"content-length", length)]) == (413, 0)
        assert (await post(app, "/hooks/stripe", {**PAID, "text": "x" * 99}, body_bytes=100)).status_code == 413
        large = {**PAID, "text": "x" * 1_100_000}
        assert (await post(app, "/hooks/stripe", large, body_bytes=2**21)).status_code == 413
        assert not await runs(app)


async def test_all_bodies_together_have_a_bound(app):
    keeping(app)
    async with app:
        served = inbound.asgi(app, body_bytes=1_000, bodies_bytes=2_500, body_within=0.5)
        slow = [asyncio.create_task(raw(served, [b"x" * 900], ends=False)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await raw(served, [b"x" * 900]) == (503, 1)
        body, headers = signed(PAID)
        async with client(served) as http:
            assert (await http.post("/hooks/stripe", content=body, headers=headers)).status_code == 200
            assert await asyncio.gather(*slow) == [(408, 1)] * 2
            large = signed({**PAID, "text": "x" * 900})
            assert await raw(served, [b"x" * 900] * 2) == (413, 2)
            for _ in range(5):
                assert (await http.post("/hooks/stripe", content=large[0], headers=large[1])).status_code == 200


async def test_senders_that_go_or_do_not_go_on(app):
    keeping(app)
    async with app:
        served = inbound.asgi(app, body_within=0.02)
        assert await raw(served, [b"{"]) == (0, 1)
        assert await raw(served, [b"{"], ends=False) == (408, 1)


async def test_paths_begin_where_it_is_mounted(app):
    keeping(app)
    body, headers = signed(PAID)
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def asked(**scope):
        sent = []

        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        await inbound.asgi(app)({"type": "http", "method": "POST", "headers": pairs, **scope}, receive, send)
        return sent[0]["status"]

    async with app:
        assert await asked(path="/in/hooks/stripe", root_path="/in") == 200
        assert await asked(path="/hooks/stripe", root_path="/hooks/stripe") == 200
        assert await asked(path="/hooks/stripe", root_path="/in") == 200
        assert await asked(path="/in/hooks/stripe", root_path="/i") == 404


async def test_served_by_itself_it_opens_the_application(make):
    app = make(mode="client")
    keeping(app)
    incoming: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outgoing: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    served = asyncio.create_task(inbound.asgi(app)({"type": "lifespan"}, incoming.get, outgoing.put))
    await incoming.put({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    assert (await post(app, "/hooks/stripe", PAID)).status_code == 200
    await incoming.put({"type": "lifespan.shutdown"})
    assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
    await served
    assert (await post(app, "/hooks/stripe", PAID)).status_code == 503


async def test_served_by_itself_it_says_what_is_wrong(make):
    app = make(mode="client")
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    async def closed():
        raise StoreUnavailableError("no such host")

    app.open = closed
    await inbound.asgi(app)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no such host"}]
    with pytest.raises(NotImplementedError):
        await inbound.asgi(app)({"type": "websocket"}, receive, send)


async def test_an_application_that_is_open_stays_so(app):
    messages = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive():
        return messages.pop()

    async def send(message):
        pass

    async with app:
        await inbound.asgi(app)({"type": "lifespan"}, receive, send)
        assert await runs(app) == []


def test_secrets_are_not_shown(app):
    keeping(app)
    assert SECRET not in repr(app.registry.hooks)
