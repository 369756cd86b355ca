"""Messages that are published in steps of workflows."""

from __future__ import annotations

import pytest

from perdure import Perdure, Publisher, PublishRefusedError, flow
from perdure.model.retry import Retry
from tests.server.qstash.conftest import until

ONCE_MORE = Retry(attempts=3, delay=0)


async def test_another_attempt_of_a_step_publishes_nothing_new(pub: Publisher, there):
    app = Perdure("memory://")
    found = []

    @app.step(retry=ONCE_MORE)
    async def tell(order: str) -> None:
        found.append(await pub.publish(there.url, json=order, dedup_id=flow.idempotency_key()))
        if len(found) == 1:
            raise ConnectionError("died after doing it")

    @app.workflow
    async def ship(order: str) -> None:
        await tell(order)
        await tell(order)

    async with app:
        run = await app.start(ship, "é", id="order:1042/é")
        await run.result()
    await until(lambda: len(there.got) == 2)
    assert [each.is_new for each in found] == [True, False, True]
    assert found[0].id == found[1].id != found[2].id


async def test_what_is_refused_is_not_tried_again_and_stays_what_it_is(pub: Publisher):
    app = Perdure("memory://")
    attempts = []

    @app.step(retry=ONCE_MORE)
    async def tell() -> None:
        attempts.append(1)
        await pub.publish("https://a.example", retries=1_000)

    @app.workflow
    async def ship() -> str:
        with pytest.raises(PublishRefusedError) as caught:
            await tell()
        await flow.sleep(0.01)
        return f"{caught.value.status} {caught.value.field}"

    async with app:
        run = await app.start(ship)
        assert await run.result() == "400 retries"
    assert len(attempts) == 1
