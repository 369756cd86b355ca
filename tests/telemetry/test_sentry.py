"""What Sentry is sent: each failure once, with where it happened, and nobody's data."""

from __future__ import annotations

import asyncio
import json

import pytest
import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from perdure import Retry, flow
from perdure.telemetry import Sentry


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__({"dsn": "http://key@localhost/1"})
        self.events: list[dict] = []

    def capture_envelope(self, envelope) -> None:
        self.events += [item.get_event() for item in envelope.items if item.get_event() is not None]

    def flush(self, timeout, callback=None) -> None: ...


@pytest.fixture
def sent():
    kept = Kept()
    with sentry_sdk.isolation_scope():
        yield kept
    sentry_sdk.init()


def sentry(sent: Kept) -> Sentry:
    """As it is by default, with what the application logs as an error, but for what reaches into the whole process."""
    return Sentry(
        "http://key@localhost/1",
        transport=sent,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[LoggingIntegration()],
    )


def deep(customer: str) -> None:
    raise ValueError(f"no customer {customer}")


async def test_a_step_that_fails_for_good_is_reported_once_and_not_with_its_run_again(world, url, sent):
    app = world.app(url, telemetry=[sentry(sent)])

    @app.step(name="charge", retry=Retry(attempts=2, delay=1))
    async def charge(card: str) -> None:
        deep("7")

    @app.workflow(name="order")
    async def order(card: str) -> None:
        await charge(card)

    async with app:
        await app.start(order, "4111-1111", id="order-1", tags={"a": "b"})
        await world.settle()
        assert sent.events == [], "it is tried again"
        await world.advance(2)
    (event,) = sent.events
    assert event["level"] == "error"
    assert event["tags"] == {
        "perdure.run": "order-1",
        "perdure.workflow": "order",
        "perdure.queue": "default",
        "perdure.step": "charge",
    }
    assert event["contexts"]["perdure"]["attempts"] == 2
    assert event["fingerprint"] == ["{{ default }}", "order", "charge"]
    cause, last = event["exception"]["values"]
    assert (cause["type"], cause["value"]) == ("ValueError", "no customer 7")
    assert last["type"] == "StepRetriesExceededError"
    frame = cause["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["in_app"]) == ("deep", True)
    assert not any(each["in_app"] for each in cause["stacktrace"]["frames"] if "/src/perdure/" in each["filename"])
    assert "raise ValueError" in frame["context_line"]
    assert "4111" not in json.dumps(event)


async def test_a_run_that_fails_by_itself_is_reported(world, memory, sent):
    app = world.app(memory, telemetry=[sentry(sent)])

    @app.workflow(name="order")
    async def order() -> None:
        await flow.sleep(60)
        deep("8")

    async with app:
        await app.start(order)
        await world.advance(61)
        await world.settle()
    (event,) = sent.events
    assert event["exception"]["values"][0]["value"] == "no customer 8"
    assert "perdure.step" not in event["tags"]


async def test_a_task_that_fails_is_reported_once(world, memory, sent):
    app = world.app(memory, telemetry=[sentry(sent)])

    @app.task(name="mail", retry=Retry(attempts=1))
    async def mail() -> None:
        deep("9")

    async with app:
        await mail.enqueue()
        await world.settle()
    (event,) = sent.events
    assert event["tags"]["perdure.step"] == "mail"


async def test_a_child_is_reported_and_not_its_parent_again(world, memory, sent):
    app = world.app(memory, telemetry=[sentry(sent)])

    @app.workflow(name="child")
    async def child() -> None:
        deep("11")

    @app.workflow(name="parent")
    async def parent() -> None:
        await child()

    async with app:
        await app.start(parent, id="p")
        await world.settle()
        await world.advance(3)
        assert (await app.run("p").get()).status == "errored"
    assert [event["tags"]["perdure.workflow"] for event in sent.events] == ["child"]


async def test_a_step_that_failed_turns_ago_is_not_reported_again(world, memory, sent):
    app = world.app(memory, telemetry=[sentry(sent)])

    @app.step(name="charge", retry=Retry(attempts=1))
    async def charge() -> None:
        deep("12")

    @app.workflow(name="order")
    async def order() -> None:
        try:
            await charge()
        except ValueError as error:
            await flow.sleep(60)
            raise RuntimeError("no order") from error

    async with app:
        await app.start(order, id="o")
        await world.advance(61)
        await world.settle()
        assert (await app.run("o").get()).status == "errored"
    (event,) = sent.events
    assert event["tags"]["perdure.step"] == "charge"


async def test_a_parked_run_is_a_warning(world, memory, sent):
    app = world.app(memory, telemetry=[sentry(sent)])

    @app.workflow(name="w")
    async def w() -> None:
        await asyncio.get_running_loop().create_future()

    async with app:
        await app.start(w, id="w")
        await world.settle()
    (event,) = sent.events
    assert event["level"] == "warning"
    assert event["exception"]["values"][0]["type"] == "Parked"
    assert event["fingerprint"] == ["perdure.parked", "w"], "why it is parked may be told with other words each time"


async def test_what_cannot_be_undone_is_reported(world, memory, sent):
    app = world.app(memory, telemetry=[sentry(sent)])

    @app.step(name="refund", retry=Retry(attempts=1))
    async def refund() -> None:
        deep("10")

    @app.step(name="charge", undo=refund)
    async def charge() -> None: ...

    @app.workflow(name="order")
    async def order() -> None:
        await charge()
        raise RuntimeError("out of stock")

    async with app:
        await app.start(order, id="o")
        await world.advance(60)
        assert (await app.run("o").get()).status == "compensation_failed"
    assert [event["exception"]["values"][0]["type"] for event in sent.events] == ["ValueError", "CompensationFailed"]
