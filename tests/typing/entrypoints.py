"""The class entrypoint, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from typing import Any, assert_type

import msgspec

from perdure import Perdure, RunHandle, WorkflowEntrypoint, WorkflowEvent, WorkflowStep


@dataclasses.dataclass
class Services:
    prices: dict[str, int]


class Payload(msgspec.Struct):
    order_id: str


class Webhook(msgspec.Struct):
    amount: int


class OrderWorkflow(WorkflowEntrypoint[Services, Payload]):
    async def run(self, event: WorkflowEvent[Payload], step: WorkflowStep) -> dict[str, int]:
        assert_type(event.payload, Payload)
        assert_type(event.timestamp, dt.datetime)
        assert_type(event.instance_id, str)
        assert_type(self.env, Services)

        async def fetch() -> list[int]:
            return [self.env.prices[event.payload.order_id]]

        def total() -> int:
            return 5

        assert_type(await step.do("fetch", fetch), list[int])
        assert_type(await step.do("total", total), int)
        assert_type(
            await step.do(
                "fetch",
                {"retries": {"limit": 3, "delay": "2 seconds", "backoff": "exponential"}, "timeout": "30 seconds"},
                fetch,
            ),
            list[int],
        )
        assert_type(await step.do("total", {"timeout": 5}, total), int)
        await step.do("fetch", {"retry": {}}, fetch)  # type: ignore[call-overload]  # no such field
        await step.do("fetch", {"retries": {"limit": "3"}}, fetch)  # type: ignore[call-overload]  # no number
        await step.do("fetch", {"retries": {"backoff": "wild"}}, fetch)  # type: ignore[call-overload]  # no backoff

        await step.sleep("24 hours")
        await step.sleep("nap", 5)
        await step.sleep_until(dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
        assert_type(await step.wait_for_event("paid", type="paid", timeout="10 minutes", into=Webhook), Webhook)
        assert_type(await step.wait_for_event("paid", type="paid"), Any)
        first, second = await asyncio.gather(step.do("a", fetch), step.do("b", total))
        assert_type(first, list[int])
        assert_type(second, int)
        return {}


engine = Perdure("memory://", mode="all", env=Services({}))
orders = engine.register(OrderWorkflow)


class Abstract(WorkflowEntrypoint[None, None]):
    pass


class NoEntrypoint:
    pass


engine.register(NoEntrypoint)  # type: ignore[arg-type]  # no entrypoint
Abstract()  # type: ignore[abstract]  # it has no `run`


async def main() -> None:
    run = await orders.create(id="order-001", params=Payload("order-001"))
    assert_type(run, RunHandle[Any])
    await orders.create()
    await orders.create(params="order-001")  # type: ignore[arg-type]  # the class's own parameters
    assert_type(await orders.create_batch([{"id": "a", "params": Payload("a")}]), list[RunHandle[Any]])
    assert_type(await orders.get("order-001"), RunHandle[Any])
    await engine.shutdown()
