"""Messages of a queue with a parallelism of 1: one after the other, whatever happens to who delivers them."""

from __future__ import annotations

import asyncio
import random

from perdure import RunStatus
from perdure.dispatch.messages.delivery import delivery_workflow
from perdure.dispatch.messages.message import QUEUE, Answer, run_id_of
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Outbox, Publication
from perdure.model.decision import RunFilter

LINE = "dispatch.queue.q"
RETRIES = 2
MESSAGES = 40


class Receiver:
    """Fails a tenth of the attempts, and complains of each that comes out of turn."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.last: dict[int, tuple[int, bool]] = {}
        self.wrong: list[str] = []

    def take(self, number: int, retried: int) -> Answer:
        for before in range(number):
            tried, is_delivered = self.last.get(before, (-1, False))
            if not is_delivered and tried < RETRIES:
                self.wrong.append(f"{number} came ahead of {before}")
        self.wrong += [f"{number} came after {later}" for later in self.last if later > number]
        is_delivered = self.dice.random() >= 0.1
        self.last[number] = (retried, is_delivered)
        return Answer(200 if is_delivered else 500)


async def test_messages_stay_in_order_when_servers_die_or_stop(world, url):
    dice = random.Random(7)
    receiver = Receiver(dice)

    async def send(message, message_id, retried, *, is_due=False, held=0):
        await asyncio.sleep(0)
        return receiver.take(int(message.url.rpartition("/")[2]), retried)

    async def server():
        app = world.app(url, queues=[QUEUE, LINE])
        app.stopping = asyncio.Event()
        app.delivery = delivery_workflow(send, world, app.stopping, lambda queue: app.worker.lingering.rests(queue))
        app.registry.add_workflow(app.delivery)
        await app.open()
        return app

    async with world.app(url, mode="client") as client:
        outbox = Outbox(client, None)
        options = read([("Upstash-Retries", str(RETRIES)), ("Upstash-Retry-Delay", "3000")])
        publications = [Publication(f"http://x/{number}", options, queue="q") for number in range(MESSAGES)]
        ids = [each["messageId"] for each in await outbox.publish_each(publications)]
        runs = [client.run(run_id_of(each)) for each in ids]
        servers = [await server(), await server()]
        for _ in range(400):
            await world.advance(dice.choice([0.01, 0.3, 2]))
            page = await client.store.find(RunFilter((RunStatus.COMPLETE, RunStatus.ERRORED)), 100)
            if len(page.runs) == len(runs):
                break
            gone = servers.pop(0)
            if dice.random() < 0.5:
                gone.stopping.set()
                await gone.close()
            else:
                await world.crash(gone)
            servers.append(await server())
        assert not receiver.wrong
        assert len(receiver.last) == len(runs)
        for run, (tried, is_delivered) in zip(runs, receiver.last.values(), strict=True):
            assert (await run.get()).status is (RunStatus.COMPLETE if is_delivered else RunStatus.ERRORED)
            assert is_delivered or tried == RETRIES
        for each in servers:
            await each.close()
