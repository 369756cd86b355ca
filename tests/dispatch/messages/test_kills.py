"""Servers that are killed again and again while they deliver: what receivers see, and what is known of it then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import pytest_asyncio

from perdure import Perdure, RunStatus
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.messages.message import run_id_of
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.messages.reading import Wanted
from perdure.dispatch.messages.showing import Delivery
from perdure.model.decision import RunFilter
from tests.dispatch.messages.destination import Got, answered, destination

pytestmark = [pytest.mark.crash, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent.parent
MESSAGES = int(os.environ.get("PERDURE_TEST_MESSAGES", "120"))
"""How many there are; of a queue, a fifth of them."""

LINE = max(30, MESSAGES // 5)
WITHIN = 50 + MESSAGES
RETRIES = 2


class Server:
    """A server that is killed in the middle of an attempt, and another in its place, until nothing is left.

    Attributes:
        often, later: after how many requests it dies at most, and how many seconds after that.
        deaths: how often that happened.
    """

    def __init__(self, store: str, log: Path, dice: random.Random) -> None:
        self.store, self.log, self.dice = store, log, dice
        self.often, self.later = 1, 0.0
        self.deaths = 0
        self._left = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        words = ("-m", "tests.dispatch.messages.server_process", self.store)
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert process.stdout is not None
        self._left = self.dice.randint(1, self.often)
        self._process = process
        assert await process.stdout.readline() == b"ready\n" or self._left <= 0, self.log.read_text()[-2_000:]
        return process

    def heard(self) -> None:
        """A request came: now and then, the server dies before it hears the answer, or shortly after."""
        self._left -= 1
        if self._left == 0:
            asyncio.get_running_loop().call_later(self.dice.choice([0, self.dice.random() * self.later]), self._kill)

    async def until(self, is_over) -> None:
        """Have one server after the other until it is over."""
        while not await is_over():
            process = await self.start()
            while process.returncode is None and not await is_over():
                await asyncio.sleep(0.02)
            if process.returncode is None:
                self._kill()
            else:
                self.deaths += 1
            assert await process.wait() == -signal.SIGKILL, self.log.read_text()[-2_000:]

    def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)


@pytest_asyncio.fixture
async def app(tmp_path):
    async with Perdure(f"sqlite:///{tmp_path}/messages.db", mode="client") as found:
        yield found


@pytest.fixture
def dice() -> random.Random:
    return random.Random(int(os.environ.get("PERDURE_TEST_SEED", "1")))


@pytest.fixture
def server(app, tmp_path, dice):
    return Server(app.url, tmp_path / "log", dice)


async def unended(app) -> int:
    states = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
    return len((await app.store.find(RunFilter(states), 1)).runs)


@pytest.mark.timeout(WITHIN + 20)
async def test_every_message_is_delivered_or_a_dead_letter(app, server, dice):
    heard: dict[bytes, list[Got]] = defaultdict(list)
    said_yes: set[bytes] = set()
    told: dict[str, list[Got]] = defaultdict(list)

    server.often, server.later = 60, 0.3

    def answer(got: Got) -> bytes:
        server.heard()
        if got.target == "/told":
            told[got.headers["upstash-message-id"]].append(got)
            return answered(200)
        heard[got.body].append(got)
        if dice.random() < 0.2:
            return answered(503)
        said_yes.add(got.body)
        return answered(200)

    async with destination() as there, asyncio.timeout(WITHIN):
        there.answer = answer
        dispatcher = Dispatcher(app, "default", is_on=False)
        common = [("Upstash-Retries", str(RETRIES)), ("Upstash-Retry-Delay", "200 * (retried + 1)")]
        publications = []
        for number in range(MESSAGES):
            options = [*common]
            if number % 3 == 0:
                options.append(("Upstash-Delay", f"{number % (MESSAGES // 20)}s"))
            if number % 10 == 0:
                options.append(("Upstash-Callback", f"{there.url}/told"))
            publications.append(Publication(there.url, read(options), b"%d" % number))
        answers = await dispatcher.messages.publish_each(publications)
        await server.until(lambda: _is_nothing_left(app))
        assert server.deaths >= max(2, MESSAGES // 100)
        dead = {each["messageId"] for each in await _all_dead(dispatcher)}
        outcomes = 0
        for number, each in enumerate(answers):
            body, message_id = b"%d" % number, each["messageId"]
            (run,) = await app.store.get([run_id_of(message_id)])
            attempts = Delivery(run, await app.store.journal(run.id)).attempts
            assert run.status in (RunStatus.COMPLETE, RunStatus.ERRORED)
            assert (message_id in dead) is (run.status is RunStatus.ERRORED)
            if run.status is RunStatus.COMPLETE:
                assert body in said_yes
            assert [answer.is_delivered for _, answer in attempts[:-1]] == [False] * (len(attempts) - 1)
            assert attempts[-1][1].is_delivered is (run.status is RunStatus.COMPLETE)
            assert attempts[-1][1].is_delivered or len(attempts) == RETRIES + 1
            assert {got.headers["upstash-message-id"] for got in heard[body]} == {message_id}
            retried = [int(got.headers["upstash-retried"]) for got in heard[body]]
            assert sorted(set(retried)) == list(range(len(attempts)))
            assert retried == sorted(retried)
            if number % 10 == 0:
                callbacks = (await app.store.find(RunFilter(parent_id=run.id), 10)).runs
                assert len(callbacks) == len(attempts)
                assert all(each.status is RunStatus.COMPLETE and each.id in told for each in callbacks)
            outcomes += 1
        assert outcomes == MESSAGES
        twice = sum(len(each) for each in heard.values()) - sum(
            len({got.headers["upstash-retried"] for got in each}) for each in heard.values()
        )
        print(f"{MESSAGES} messages, {server.deaths} deaths, {twice} attempts made twice, {len(dead)} dead letters")


@pytest.mark.timeout(WITHIN + 20)
async def test_a_queue_is_delivered_in_order(app, server, dice):
    last: dict[int, tuple[int, bool]] = {}
    first: list[int] = []
    wrong: list[str] = []

    server.often, server.later = 8, 0.02

    def answer(got: Got) -> bytes:
        server.heard()
        number, retried = int(got.body), int(got.headers["upstash-retried"])
        if number not in last:
            first.append(number)
        for before in range(number):
            tried, is_delivered = last.get(before, (-1, False))
            if not is_delivered and tried < RETRIES:
                wrong.append(f"{number} came ahead of the end of {before}")
        is_delivered = dice.random() >= 0.1
        last[number] = (retried, is_delivered)
        return answered(200 if is_delivered else 500)

    async with destination() as there, asyncio.timeout(WITHIN):
        there.answer = answer
        dispatcher = Dispatcher(app, "default", is_on=False)
        options = read([("Upstash-Retries", str(RETRIES)), ("Upstash-Retry-Delay", "150")])
        publications = [Publication(there.url, options, b"%d" % number, "q") for number in range(LINE)]
        await dispatcher.messages.publish_each(publications)
        await server.until(lambda: _is_nothing_left(app))
        assert not wrong
        assert server.deaths >= LINE // 10
        assert first == list(range(LINE))
        assert there.most == 1
        print(f"{LINE} messages, {server.deaths} deaths, {len(there.got)} attempts")


async def _is_nothing_left(app) -> bool:
    return not await unended(app)


async def _all_dead(dispatcher) -> list[dict]:
    found, cursor = [], None
    while True:
        page, cursor = await dispatcher.messages.reading.dead(Wanted(), 100, cursor)
        found += page
        if cursor is None:
            return found
