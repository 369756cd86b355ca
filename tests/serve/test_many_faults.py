"""Ten steps in real processes, and whatever can fail between them and to them, hundreds of times.

`PERDURE_TEST_FAULTS=500` has that many happen; the suite is content with fewer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter

import pytest

from perdure import Perdure
from perdure.model.errors import StoreError
from tests.serve.processes import QUICK_SERVER, Processes, Wire, wired

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

FAULTS = int(os.environ.get("PERDURE_TEST_FAULTS", "24"))
"""How many faults happen."""

SEED = int(os.environ.get("PERDURE_TEST_SEED", "1"))

AT_ONCE = 12
"""How many runs are under way."""

KEYS = ["input", "book", *(f"book#{number}" for number in range(2, 9)), "nest", "nest/book", "output"]

SHOP = """
import asyncio, os, random
from perdure import Perdure, flow, serve

app = Perdure(os.environ["SERVER"], mode="serve", lease=2)


def note(number):
    line = f"{flow.run_id()} {number} {flow.idempotency_key()}\\n".encode()
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND)
    os.write(ledger, line)  # in one piece, and there even if this process is killed at once
    os.close(ledger)


@app.step
async def book(number: int) -> int:
    note(number)
    await asyncio.sleep(random.choice([0, 0, 0.02, 0.05, 0.6]))  # the last one is answered with 202
    return number


@app.step
async def nest(number: int) -> int:
    note(number)
    return 1 + await book(number - 1)


@app.workflow
async def ten() -> list[int]:
    done = [await book(number) for number in range(4)]
    done += await asyncio.gather(*(book(number) for number in range(4, 7)))
    return [*done, await book(7), await nest(9)]


served = serve.asgi(app)
"""

PUSHES = [
    "cut_off",
    "answered_500",
    "answered_503_after_the_work",
    "no_answer_after_the_work",
    "request_cut_half_way",
    "answer_cut_half_way",
    "delivered_twice",
    "delivered_again_later",
]
CALLBACKS = ["cut_off", "answered_503_after_the_work", "answer_cut_half_way", "delivered_twice"]


def portions(names: list[str], faults: int) -> dict[str, int]:
    return {name: faults // len(names) + (number < faults % len(names)) for number, name in enumerate(names)}


class Chaos:
    def __init__(self, processes: Processes, dice: random.Random) -> None:
        self.processes = processes
        self.dice = dice
        kills, callbacks = max(2, FAULTS // 10), FAULTS // 8
        self.kills = portions(["server", "endpoint"], kills)
        ports = processes.ports
        self.pushes = Wire(ports["endpoint"], dice, portions(PUSHES, FAULTS - kills - callbacks), 0.3)
        self.callbacks = Wire(ports["server"], dice, portions(CALLBACKS, callbacks), 0.2)
        self.counted: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        return not any(self.kills.values()) and self.pushes.is_done and self.callbacks.is_done

    async def kill_now_and_then(self) -> None:
        while any(self.kills.values()):
            await asyncio.sleep(self.dice.uniform(0.2, 1.5))
            name = self.dice.choice([name for name, left in self.kills.items() if left])
            self.kills[name] -= 1
            self.counted[f"{name} killed"] += 1
            self.processes.kill(name)
            await asyncio.sleep(self.dice.choice([0, 0.5]))  # it is down for a while
            self.processes.start(name)
            await asyncio.to_thread(self.processes.wait_for, name)

    async def work(self, client: Perdure, ids: list[str], caller: int) -> None:
        """Start runs, one after the other, until all faults have happened."""
        while not self.is_done:
            name = f"{caller}-{len(ids)}"
            ids.append(name)
            while True:
                try:
                    run = await client.start("ten", input={}, id=name)
                    assert await run.result(timeout=120) == [*range(8), 9]
                    break
                except StoreError:  # the server is dead; the run is not
                    await asyncio.sleep(0.1)

    def told(self) -> str:
        whole = Counter(self.counted)
        whole.update({f"push {name.replace('_', ' ')}": count for name, count in self.pushes.counted.items()})
        whole.update({f"callback {name.replace('_', ' ')}": count for name, count in self.callbacks.counted.items()})
        return "\n".join([f"{sum(whole.values())} faults:", *(f"  {count:4} {name}" for name, count in whole.items())])


@pytest.fixture
def processes(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "quick.py").write_text(QUICK_SERVER)
    (tmp_path / "ledger").touch()
    found = Processes(tmp_path)
    found.words["server"][:2] = ["quick.py"]
    found.serve("shop", "served")
    yield found
    found.close()


async def test_nothing_is_lost_and_each_result_is_recorded_once(processes):
    chaos, ids, began = Chaos(processes, random.Random(SEED)), [], time.monotonic()
    async with wired(chaos.pushes) as to_endpoint, wired(chaos.callbacks) as to_server:
        server = f"http://127.0.0.1:{to_server}"
        processes.env |= {"SERVER": server, "LEDGER": str(processes.folder / "ledger")}
        for name in ("server", "endpoint"):
            processes.start(name)
            await asyncio.to_thread(processes.wait_for, name)
        added = ("endpoints", "add", f"http://127.0.0.1:{to_endpoint}/")
        await asyncio.to_thread(processes.perdure, *added)
        async with Perdure(processes.url("server"), mode="client") as client, asyncio.TaskGroup() as group:
            group.create_task(chaos.kill_now_and_then())
            for caller in range(AT_ONCE):
                group.create_task(chaos.work(client, ids, caller))
        async with Perdure(processes.store, mode="client") as client:
            for name in ids:
                assert sorted(record.key for record in await client.run(name).journal()) == sorted(KEYS)
    lines = [line.split() for line in (processes.folder / "ledger").read_text().splitlines()]
    done = Counter((run, number) for run, number, _ in lines)
    keys = {(run, number, key) for run, number, key in lines}
    assert set(done) == {(run, str(number)) for run in ids for number in range(10)}
    assert len(keys) == len({key for *_, key in lines}) == len(done)  # each step has one key, however often it is done
    print(chaos.told())
    print(f"{len(ids)} runs, {len(done)} steps, done {len(lines)} times, in {time.monotonic() - began:.0f} s")
