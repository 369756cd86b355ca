"""Deliveries to a real HTTP server, and what a receiver makes of them."""

from __future__ import annotations

import base64
import json

import pytest

from perdure import (
    DefinitionError,
    NonRetryableError,
    RunFailedError,
    RunStatus,
    UsageError,
    WebhookVerificationError,
    flow,
    webhooks,
)
from perdure.engine.triggers import webhooks as engine_webhooks
from tests.engine.receiver import Receiver, receiving
from tests.engine.world import NOW, until

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
LOCAL = ["127.0.0.1"]


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def failing(app):
    @app.workflow
    async def bad(wait: float = 0) -> None:
        await flow.sleep(wait)
        raise NonRetryableError("no such card")

    return bad


async def arrived(world, receiver: Receiver, count: int) -> None:
    await until(lambda: len(receiver.got) >= count)
    await world.settle()
    await until(lambda: not any(app.worker and app.worker.turns for app in world.apps))
    assert len(receiver.got) == count


async def test_a_delivery_is_signed(world, app, receiver):
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=SECRET, name="shop")
    bad = failing(app)
    async with app:
        await app.start(bad, id="r", tags={"customer": "ada"})
        await arrived(world, receiver, 1)
        ((headers, body),) = receiver.got
        told = webhooks.verify(body, headers, SECRET, now=NOW / 1000)
        assert told == {
            "type": "workflow:failed", "at": "2023-11-14T22:13:20Z", "run_id": "r", "workflow": "bad", "version": "",
            "queue": "default", "status": "errored", "tags": {"customer": "ada"}, "parent_id": None,
            "failed_step": None, "error": "NonRetryableError: no such card",
        }  # fmt: skip
        assert headers["content-type"] == "application/json"
        delivery = await app.run(headers["webhook-id"]).get()
        assert (delivery.workflow, delivery.status) == ("perdure.webhook:shop", RunStatus.COMPLETE)
        assert delivery.id.startswith("r/webhook:shop:failed:")
        assert SECRET[6:20] not in str(await app.run(delivery.id).journal())


async def test_a_delivery_is_tried_again(world, app, receiver):
    receiver.statuses = [500, 302]
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=SECRET)
    bad = failing(app)
    async with app:
        await app.start(bad, id="r")
        await arrived(world, receiver, 1)
        await world.advance(5)
        await arrived(world, receiver, 2)
        await world.advance(10)
        await arrived(world, receiver, 3)
        await world.advance(1_000)
        assert len(receiver.got) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert [int(headers["webhook-timestamp"]) - NOW // 1000 for headers, _ in receiver.got] == [0, 5, 15]
    assert len({headers["webhook-signature"] for headers, _ in receiver.got}) == 3


async def test_a_receiver_that_is_gone_gets_no_more(world, app, receiver):
    receiver.statuses = [410]
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=SECRET, name="x")
    bad = failing(app)
    async with app:
        await app.start(bad)
        await arrived(world, receiver, 1)
        (run,) = (await app.runs(workflow="perdure.webhook:x")).runs
        assert run.status is RunStatus.ERRORED


async def test_the_body_of_an_answer_is_left_unread(world, app, receiver):
    receiver.is_endless = True
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=SECRET, name="x")
    bad = failing(app)
    async with app:
        await app.start(bad)
        await arrived(world, receiver, 1)
        (run,) = (await app.runs(workflow="perdure.webhook:x")).runs
        assert run.status is RunStatus.COMPLETE


async def test_nobody_listens_at_first(world, app):
    with receiving() as gone:
        url = gone.url
    app.webhook(url, allow=LOCAL, events=["workflow:failed"], secret=SECRET, name="x")
    bad = failing(app)
    async with app:
        await app.start(bad)
        await world.settle()
        (run,) = (await app.runs(workflow="perdure.webhook:x")).runs
        await until(lambda: not app.worker.turns)
        (reason,) = (await app.run(run.id).explain()).reasons
        assert "All connection attempts failed" in reason


@pytest.mark.parametrize(
    "guarded", [{"guard": False}, {"allow": ["LOCALHOST."]}, {"allow": ["*.localhost", "::1", *LOCAL]}]
)
async def test_a_receiver_inside_is_told_where_that_is_allowed(world, app, receiver, guarded):
    url = receiver.url.replace("127.0.0.1", "localhost")
    app.webhook(url, events=["workflow:failed"], secret=SECRET, **guarded)
    bad = failing(app)
    async with app:
        await app.start(bad)
        await arrived(world, receiver, 1)


async def test_a_name_of_an_address_inside_gets_no_delivery(world, app, receiver):
    app.webhook(receiver.url.replace("127.0.0.1", "localhost"), events=["workflow:failed"], secret=SECRET, name="x")
    bad = failing(app)
    async with app:
        await app.start(bad)
        await world.settle()
        (run,) = (await app.runs(workflow="perdure.webhook:x")).runs
        await until(lambda: not app.worker.turns)
        with pytest.raises(RunFailedError, match="no request is made to localhost, which is .*on the public internet"):
            await app.run(run.id).result(timeout=5)
    assert receiver.got == []


async def test_a_redirect_is_an_answer_and_is_not_followed(world, app, receiver):
    with receiving() as inside:
        receiver.statuses, receiver.location = [302], inside.url
        app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=SECRET, name="x")
        bad = failing(app)
        async with app:
            await app.start(bad)
            await arrived(world, receiver, 1)
            (run,) = (await app.runs(workflow="perdure.webhook:x")).runs
            (reason,) = (await app.run(run.id).explain()).reasons
            assert "webhook 'x' answered 302" in reason
        assert inside.got == []


async def test_a_delivery_outlives_its_worker(world, make, receiver):
    """It is there once the change is, though the worker dies in the moment after the commit."""
    one, other = make(), make()
    for app in (one, other):
        app.webhook(receiver.url, allow=LOCAL, events=["workflow:started", "workflow:failed"], secret=SECRET)
        failing(app)
    await one.open()
    await one.start("bad", id="r", input={"wait": 30})
    await arrived(world, receiver, 1)

    async def die(name: str) -> None:
        if name == "commit":
            one.store.after = None
            await world.crash(one)

    one.store.after = die
    await world.advance(30)
    await world.settle()
    assert len(receiver.got) == 1
    async with other:
        assert (await other.run("r").get()).status is RunStatus.ERRORED
        await arrived(world, receiver, 2)
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["workflow:started", "workflow:failed"]


async def test_of_some_workflows_and_events(world, app, receiver):
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:completed"], secret=SECRET, workflows=["wanted"], name="x")

    @app.workflow
    async def wanted() -> None: ...

    @app.workflow
    async def other() -> None: ...

    async with app:
        await app.start(other)
        await app.start(wanted, id="r")
        await arrived(world, receiver, 1)
        assert json.loads(receiver.got[0][1])["run_id"] == "r"


async def test_a_terminated_run_is_told_of(world, app, receiver):
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:terminated"], secret=SECRET)
    bad = failing(app)
    async with app:
        await app.start(bad, 1_000.0, id="r")
        await world.settle()
        receiver.statuses = [500]
        await app.run("r").terminate()
        await arrived(world, receiver, 1)
        assert json.loads(receiver.got[0][1])["status"] == "terminated"
        await app.run(receiver.got[0][0]["webhook-id"]).terminate()
        await world.advance(60)
        assert len((await app.runs()).runs) == 2  # nobody is told of deliveries


async def test_what_a_client_terminates_is_told_of_by_a_worker(world, make, receiver):
    worker, client = make(queues=["mail"]), make(mode="client")
    for app in (worker, client):
        app.webhook(receiver.url, allow=LOCAL, events=["workflow:terminated"], secret=SECRET)

        @app.workflow(queue="mail")
        async def nap() -> None:
            await flow.sleep("1 day")

    async with worker, client:
        run = await client.start("nap")
        await world.settle()
        await run.terminate()
        await arrived(world, receiver, 1)


async def test_each_restart_is_told_of_again(world, app, receiver):
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=SECRET)
    bad = failing(app)
    async with app:
        await app.start(bad, id="r")
        await arrived(world, receiver, 1)
        await app.run("r").restart()
        await arrived(world, receiver, 2)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2


async def test_both_secrets_while_they_are_changed(world, app, receiver):
    app.webhook(receiver.url, allow=LOCAL, events=["workflow:failed"], secret=[OTHER, SECRET])
    bad = failing(app)
    async with app:
        await app.start(bad)
        await arrived(world, receiver, 1)
    ((headers, body),) = receiver.got
    for secret in (SECRET, OTHER, [SECRET, OTHER]):
        assert webhooks.verify(body, headers, secret, now=NOW / 1000)["type"] == "workflow:failed"


BODY = b'{"type":"workflow:failed"}'


def signed(**changes: str) -> dict[str, str]:
    signature = webhooks.signature([bytes(range(32))], "msg_1", 1_000, BODY)
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": "1000", "Webhook-Signature": signature, **changes}


def test_the_example_of_the_specification():
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert webhooks.verify('{"test": 2432232314}', headers, secret, now=1_614_265_330) == {"test": 2_432_232_314}


@pytest.mark.parametrize("now", [700, 1_000, 1_300])
def test_what_is_signed_lately_is_believed(now):
    assert webhooks.verify(BODY, signed(), SECRET, now=now) == {"type": "workflow:failed"}
    assert webhooks.verify(BODY.decode(), signed(), [OTHER, SECRET], now=now) == {"type": "workflow:failed"}


@pytest.mark.parametrize(
    ("body", "headers", "now", "message"),
    [
        (BODY + b" ", signed(), 1_000, "no signature is one of this body"),
        (BODY, signed(**{"Webhook-Id": "msg_2"}), 1_000, "no signature"),
        (BODY, signed(**{"Webhook-Timestamp": "1001"}), 1_001, "no signature"),
        (BODY, signed(**{"Webhook-Signature": "v1,AAAA"}), 1_000, "no signature"),
        (BODY, signed(**{"Webhook-Signature": signed()["Webhook-Signature"].replace("v1,", "v2,")}), 1_000, "no sign"),
        (BODY, signed(**{"Webhook-Signature": "ü"}), 1_000, "no signature"),
        (BODY, signed(**{"Webhook-Signature": "v1,\udcff"}), 1_000, "no signature"),
        (BODY, signed(**{"Webhook-Id": "\udcff"}), 1_000, "no signature"),
        (BODY, signed(**{"Webhook-Timestamp": "9" * 5_000}), 1_000, "is no number of seconds"),
        (BODY, signed(), 1_301, "1000 is more than 300 s from 1301: an old delivery"),
        (BODY, signed(), 699, "is more than 300 s from 699"),
        (BODY, signed(), None, "is more than 300 s"),
        (BODY, signed(**{"Webhook-Timestamp": "soon"}), 1_000, "'soon' is no number of seconds"),
        (BODY, signed(**{"Webhook-Timestamp": ""}), 1_000, "the header webhook-timestamp is missing"),
        (BODY, {}, 1_000, "the header webhook-id is missing"),
    ],
)
def test_what_is_not_believed(body, headers, now, message):
    with pytest.raises(WebhookVerificationError, match=message):
        webhooks.verify(body, headers, SECRET, now=now)


def test_the_tolerance_is_the_receivers():
    assert webhooks.verify(BODY, signed(), SECRET, now=5_000, tolerance="2 hours")
    with pytest.raises(WebhookVerificationError, match="more than 10 s"):
        webhooks.verify(BODY, signed(), SECRET, now=1_011, tolerance=10)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "short", "whsec_" + 23 * "A", [], [SECRET, "x"], "ü" * 40, 5 * SECRET]
)
def test_what_is_no_secret(app, secret):
    with pytest.raises(UsageError, match="secret: "):
        app.webhook("https://example.com", events=["workflow:failed"], secret=secret)
    with pytest.raises(UsageError, match="secret: "):
        webhooks.verify(BODY, signed(), secret)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://example.com", {}, "must begin with https:// or http://"),
        ("https://", {}, "and name a host"),
        ("https://x:99999", {}, "url: 'https://x:99999' must .*: Port out of range"),
        ("http://[::1", {}, "url: .*: Invalid IPv6 URL"),
        ("https://exa mple.com", {}, "without spaces"),
        ("https://x/\n", {}, "without spaces"),
        (5, {}, "url: 5 must begin with"),
        ("https://user:word@example.com", {}, "^url: it holds a user or a password; receivers know deliveries"),
        ("http://10.0.0.1/", {}, "^url: no request is made to 10.0.0.1: .* an operator can allow it: .* by allow="),
        ("http://[::ffff:7f00:1]/", {}, "^url: no request is made to ::ffff:7f00:1: "),
        ("https://x", {"allow": "10.0.0.0/8"}, "^allow: '10.0.0.0/8' is one text; give a list"),
        ("https://x", {"allow": ["10.0.0.0/99"]}, "^allow: '10.0.0.0/99' is no address, network"),
        ("https://x", {"allow": ["10.0.0.1"], "guard": False}, "is what a guard lets pass; take it away"),
        ("https://x", {"events": []}, "must be a list of some of workflow:started"),
        ("https://x", {"events": "workflow:failed"}, "must be a list"),
        ("https://x", {"events": ["workflow:lost"]}, "'workflow:lost' is none of"),
        ("https://x", {"workflows": "bad"}, "must be a list of names"),
        ("https://x", {"name": "a/b"}, "webhook name: 'a/b' must not hold"),
        ("https://x", {"retries": 5}, "webhook: there is no option 'retries'; known: workflows, name, queue, timeout"),
        ("https://x", {"timeout": "soon"}, "timeout: 'soon' is no duration"),
    ],
)
def test_what_is_no_webhook(app, url, options, message):
    with pytest.raises(UsageError, match=message):
        app.webhook(url, **{"events": ["workflow:failed"], "secret": SECRET, **options})


def test_a_name_is_taken_once(app):
    app.webhook("https://example.com/hooks", events=["workflow:failed"], secret=SECRET)
    with pytest.raises(DefinitionError, match="a webhook 'example.com-hooks' is registered already"):
        app.webhook("https://example.com/hooks", events=["workflow:completed"], secret=SECRET)


def test_without_httpx_nothing_is_promised(app, monkeypatch):
    monkeypatch.setattr(engine_webhooks, "find_spec", lambda name: None)
    with pytest.raises(DefinitionError, match=r"webhooks are delivered with httpx.*install perdure\[http\]"):
        app.webhook("https://example.com", events=["workflow:failed"], secret=SECRET)
