"""The class entrypoint: the API of Cloudflare-style engines, whole, and its order workflow run to the end."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import itertools

import msgspec
import pytest

from perdure import (
    EventTimeoutError,
    NonRetryableError,
    RunFailedError,
    RunStatus,
    StepRetriesExceededError,
    UsageError,
    WorkflowEntrypoint,
    WorkflowEvent,
    WorkflowStep,
)
from tests.engine.world import NOW

PRICES = {"WIDGET-1": 10, "GADGET-5": 25}


class Item(msgspec.Struct):
    sku: str
    quantity: int


class OrderPayload(msgspec.Struct):
    order_id: str
    user_id: str
    items: list[Item]


class StripeWebhook(msgspec.Struct):
    payment_intent_id: str
    amount: int
    status: str
    customer_id: str


@dataclasses.dataclass
class Services:
    """What the workflow's `env` is: the outside world of the seed's example."""

    users: dict[str, dict[str, str]]
    mails: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    reserved: list[str] = dataclasses.field(default_factory=list)
    cancelled: list[str] = dataclasses.field(default_factory=list)
    declines: int = 0
    charges: int = 0

    async def create_intent(self, amount: int, order_id: str) -> dict[str, str]:
        self.charges += 1
        if self.charges <= self.declines:
            raise ConnectionError("stripe is away")
        return {"id": f"pi_{order_id}", "amount": str(amount)}


class OrderWorkflow(WorkflowEntrypoint[Services, OrderPayload]):
    async def run(self, event: WorkflowEvent[OrderPayload], step: WorkflowStep):
        order = event.payload

        async def fetch():
            user = self.env.users.get(order.user_id)
            if user is None:
                raise NonRetryableError("User not found")
            return {"user": user, "total": sum(PRICES[item.sku] * item.quantity for item in order.items)}

        found = await step.do("Fetch user and calculate total", fetch)
        intent = await step.do(
            "Initiate Stripe payment",
            {"retries": {"limit": 3, "delay": "2 seconds", "backoff": "exponential"}, "timeout": "30 seconds"},
            lambda: self.env.create_intent(found["total"] * 100, order.order_id),
        )
        try:
            webhook = await step.wait_for_event(
                "Wait for Stripe payment confirmation",
                type=f"stripe.payment.{intent['id']}",
                timeout="10 minutes",
                into=StripeWebhook,
            )
        except EventTimeoutError:
            await step.do("Cancel order", lambda: self.env.cancelled.append(order.order_id))
            return {"status": "cancelled", "reason": "payment_timeout"}

        async def mail(template: str) -> None:
            self.env.mails.append((found["user"]["email"], template))

        await step.do("Reserve inventory", lambda: self.env.reserved.append(order.order_id))
        await step.do("Send order confirmation email", lambda: mail("order-confirmation"))
        await step.sleep("24 hours")
        await step.do("Send thank you email", lambda: mail("thank-you-review"))
        return {
            "order_id": order.order_id,
            "payment_id": webhook.payment_intent_id,
            "total": found["total"],
            "status": "completed",
            "follow_up_sent": True,
        }


PAYLOAD = OrderPayload("order-001", "user-123", [Item("WIDGET-1", 2), Item("GADGET-5", 1)])
PAID = StripeWebhook("pi_order-001", 4_500, "succeeded", "cus_1")


@pytest.fixture
def services():
    return Services({"user-123": {"email": "ada@example.com"}})


async def test_the_order_of_the_seed_runs_to_its_end(make, world, services):
    engine = make(mode="all", env=services)
    orders = engine.register(OrderWorkflow)
    services.declines = 2
    async with engine:
        run = await orders.create(id="order-001", params=PAYLOAD)
        await world.advance(10)
        assert services.charges == 3
        assert (await run.status()).status is RunStatus.WAITING
        webhook_sees = await orders.get("order-001")
        await webhook_sees.send_event(type="stripe.payment.pi_order-001", payload=PAID)
        await world.settle()
        assert services.reserved == ["order-001"]
        assert services.mails == [("ada@example.com", "order-confirmation")]
        await world.advance(86_390)
        assert len(services.mails) == 1
        await world.advance(20)
        output = {
            "order_id": "order-001",
            "payment_id": "pi_order-001",
            "total": 45,
            "status": "completed",
            "follow_up_sent": True,
        }
        assert await run.wait_for_completion(timeout=5, poll_interval=1) == output
        summary = await run.status()
        assert (summary.status, summary.output, summary.error) == (RunStatus.COMPLETE, output, None)
    assert services.mails[1] == ("ada@example.com", "thank-you-review")


async def test_the_order_that_nobody_pays_is_cancelled(make, world, services):
    engine = make(env=services)
    orders = engine.register(OrderWorkflow)
    async with engine:
        run = await orders.create(params=PAYLOAD)
        await world.advance(601)
        assert await run.wait_for_completion(timeout=5) == {"status": "cancelled", "reason": "payment_timeout"}
    assert services.cancelled == ["order-001"]


async def test_the_order_of_nobody_fails_at_once(make, services):
    engine = make(env=services)
    orders = engine.register(OrderWorkflow)
    services.users.clear()
    async with engine:
        run = await orders.create(params=PAYLOAD)
        with pytest.raises(RunFailedError) as failed:
            await run.wait_for_completion(timeout=5)
        assert type(failed.value.__cause__) is NonRetryableError
        assert (await run.status()).error == "NonRetryableError: User not found"


async def test_the_order_survives_its_worker(make, world, services):
    engine = make(env=services)
    orders = engine.register(OrderWorkflow)
    await engine.open()
    await orders.create(id="order-001", params=PAYLOAD)
    await world.settle()
    await world.crash(engine)
    again = make(env=services)
    orders = again.register(OrderWorkflow)
    async with again:
        run = await orders.get("order-001")
        await run.send_event("stripe.payment.pi_order-001", PAID)
        await world.advance(86_500)
        assert (await run.wait_for_completion(timeout=5))["status"] == "completed"
    assert services.charges == 1


async def test_an_event_is_waited_for_two_minutes_by_default(make, world):
    class Waits(WorkflowEntrypoint):
        async def run(self, event, step):
            try:
                return await step.wait_for_event("wait", type="go")
            except EventTimeoutError:
                return "timeout"

    engine = make()
    runs = engine.register(Waits)
    async with engine:
        run = await runs.create()
        await world.advance(119)
        assert (await run.status()).status is RunStatus.WAITING
        await world.advance(1)
        assert await run.wait_for_completion(timeout=5) == "timeout"


@pytest.mark.parametrize(
    ("duration", "seconds"), [("2 seconds", 2), ("1 minute", 60), ("1 hour", 3600), ("1 day", 86_400), (5, 5), (0.5, 1)]
)
async def test_durations(app, world, duration, seconds):
    class Sleeps(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.sleep(duration)
            await step.sleep("named", duration)
            return "woken"

    runs = app.register(Sleeps)
    async with app:
        run = await runs.create()
        await world.settle()
        if seconds > 1:
            await world.advance(2 * seconds - 1)
            assert (await run.status()).status in {RunStatus.WAITING, RunStatus.RUNNING}
        await world.advance(2)
        assert await run.wait_for_completion(timeout=5) == "woken"
        assert [record.key for record in await run.journal()] == ["input", "sleep", "named", "output"]


@pytest.mark.parametrize("as_number", [True, False])
async def test_sleep_until(app, world, as_number):
    at = dt.datetime.fromtimestamp(NOW / 1000 + 3600, dt.UTC)

    class Sleeps(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.sleep_until(at.timestamp() if as_number else at)
            await step.sleep_until("the past is over", 0)
            return "woken"

    runs = app.register(Sleeps)
    async with app:
        run = await runs.create()
        await world.advance(3599)
        assert (await run.status()).status is RunStatus.WAITING
        await world.advance(1)
        assert await run.wait_for_completion(timeout=5) == "woken"


async def test_nested_parallel_and_conditional_steps(make, world):
    calls = []

    class Shapes(WorkflowEntrypoint[None, bool]):
        async def run(self, event, step):
            async def do(name):
                calls.append(name)
                return name

            async def parent():
                first = await step.do("child 1", lambda: do("child 1"))
                return [first, await step.do("child 2", lambda: do("child 2"))]

            nested = await step.do("parent", parent)
            together = await asyncio.gather(*(step.do(name, lambda name=name: do(name)) for name in ("a", "b", "c")))
            if event.payload:
                await step.do("approval", lambda: do("approval"))
            return [*nested, *together]

    engine = make()
    runs = engine.register(Shapes)
    async with engine:
        run = await runs.create(params=False)
        assert await run.wait_for_completion(timeout=5) == ["child 1", "child 2", "a", "b", "c"]
        keys = [record.key for record in await run.journal()]
        assert keys[1:4] == ["parent/child 1", "parent/child 2", "parent"]
        assert "approval" not in keys
        other = await runs.create(params=True)
        await other.wait_for_completion(timeout=5)
        assert "approval" in [record.key for record in await other.journal()]


@pytest.mark.parametrize("backoff", ["constant", "linear", "exponential", None])
async def test_limit_counts_the_attempts_after_the_first(make, world, backoff):
    moments = []

    class Fails(WorkflowEntrypoint):
        async def run(self, event, step):
            def fail():
                moments.append(world.now())
                raise OSError

            retries = {"limit": 3, "delay": "20 minutes"} | ({"backoff": backoff} if backoff else {})
            await step.do("fails", {"retries": retries}, fail)

    engine = make()
    runs = engine.register(Fails)
    async with engine:
        run = await runs.create()
        await world.advance(20 * 60 * 8)
        with pytest.raises(RunFailedError) as failed:
            await run.wait_for_completion(timeout=5)
    assert type(failed.value.__cause__) is StepRetriesExceededError
    waited = [(later - earlier) // 60_000 for earlier, later in itertools.pairwise(moments)]
    assert waited == {"constant": [20] * 3, "linear": [20, 40, 60]}.get(backoff, [20, 40, 80])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"retry": {}}, "unknown config field 'retry'; known: retries, timeout"),
        ({"retries": {"times": 3}}, "unknown retries field 'times'"),
        ({"retries": {"limit": -1}}, "retries.limit -1"),
        ({"retries": {"limit": True}}, "retries.limit True"),
        ({"retries": {"delay": "soon"}}, "retry.delay"),
        ({"retries": {"backoff": "wild"}}, "retry.backoff"),
        ({"timeout": "never"}, "timeout"),
    ],
)
async def test_a_bad_config_is_named(app, config, message):
    class Bad(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.do("x", config, lambda: 1)

    runs = app.register(Bad)
    async with app:
        run = await runs.create()
        with pytest.raises(RunFailedError, match=message) as failed:
            await run.wait_for_completion(timeout=5)
    assert isinstance(failed.value.__cause__, UsageError)


async def test_the_event_tells_id_time_and_payload(make, world):
    seen = []

    class Looks(WorkflowEntrypoint[object, OrderPayload]):
        async def run(self, event, step):
            seen.append(event)
            await step.sleep(100)
            return event.instance_id

    engine = make()
    runs = engine.register(Looks)
    async with engine:
        run = await runs.create(id="r", params=PAYLOAD)
        await world.advance(101)
        assert await run.wait_for_completion(timeout=5) == "r"
    assert seen[0] == seen[-1] == WorkflowEvent(PAYLOAD, dt.datetime.fromtimestamp(NOW / 1000, dt.UTC), "r")
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen[0].payload = None


async def test_env_is_shared_and_instances_are_not(make):
    env, seen = object(), []

    class Looks(WorkflowEntrypoint):
        async def run(self, event, step):
            seen.append((self.env is env, id(self), hasattr(self, "note")))
            self.note = 1

    engine = make(env=env)
    runs = engine.register(Looks)
    async with engine:
        for handle in [await runs.create(), await runs.create()]:
            await handle.wait_for_completion(timeout=5)
    assert [(is_env, has_note) for is_env, _, has_note in seen] == [(True, False)] * 2
