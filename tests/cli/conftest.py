from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from perdure import Perdure, RunStatus
from perdure.cli.main import app as command_line
from tests.cli import shop
from tests.cli.working import WorkerProcess
from tests.servers import label, postgres, valkey, valkey_cluster, valkey_sentinel


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Types commands against one store."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *words: str, typed: str | None = None, columns: int | None = None, **env: str | None) -> Said:
        environment: dict[str, str | None] = {"PERDURE_STORE": self.url, "NO_COLOR": "1", "COLUMNS": None, **env}
        if columns is not None:
            environment["COLUMNS"] = str(columns)
        result = CliRunner().invoke(command_line, list(words), input=typed, env=environment, prog_name="perdure")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def _is_imported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test's commands import the application as the first command of a process does."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)


EVERY = ["sqlite", "postgres", "valkey"]


@pytest.fixture
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A store of the test's own: a file, or what the test is parametrised with."""
    match getattr(request, "param", "sqlite"):
        case "postgres":
            return postgres().url(schema=label(tmp_path))
        case "valkey":
            return valkey().url(prefix=label(tmp_path))
        case "cluster":
            return valkey_cluster().url(prefix=label(tmp_path))
        case "sentinel":
            return valkey_sentinel().url(prefix=label(tmp_path))
        case _:
            return f"sqlite:///{tmp_path}/shop.db?synchronous=off"


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


async def until(app: Perdure, run_id: str, *statuses: RunStatus) -> None:
    """Wait until a run is in one of these states; the test's timeout is the deadline."""
    for _ in itertools.count():
        if (await app.run(run_id).get()).status in statuses:
            return
        await asyncio.sleep(0.005)


@pytest.fixture
def seeded(url: str) -> str:
    """A store with an order that waits, a complete one, a run that failed and two that sleep; nobody works it."""

    async def seed() -> None:
        async with shop.make_app(url) as app:
            for number in (1, 2):
                run = await app.start(
                    "order", input={"order": {"number": number}}, id=f"order-{number}", tags={"customer": "ada"}
                )
                await until(app, run.id, RunStatus.WAITING)
            await app.run("order-2").send_event("approved", {"by": "grace"})
            await until(app, "order-2", RunStatus.COMPLETE)
            await app.start("broken", id="broken-1")
            await app.start("nap", input={"seconds": 86_400}, id="nap-1")
            await app.start("nap", input={"seconds": 5}, id="nap-2", delay="1h", priority=7)
            await until(app, "broken-1", RunStatus.ERRORED)
            await until(app, "nap-1", RunStatus.WAITING)

    asyncio.run(seed())
    return url


@pytest.fixture
def at_work(url: str) -> Any:
    """A worker on a thread of this process."""
    with shop.make_app(url).blocking as blocking:
        yield blocking


Ask = Callable[[Perdure], Any]


def ask(url: str, question: Ask) -> Any:
    """Ask an engine that works nothing."""

    async def answer() -> Any:
        async with Perdure(url, mode="client") as app:
            return await question(app)

    return asyncio.run(answer())


@pytest.fixture
def worker(url: str, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    started: list[WorkerProcess] = []

    def start(*words: str, **settings: str) -> WorkerProcess:
        started.append(WorkerProcess(url, tmp_path, words, **settings))
        return started[-1]

    yield start
    for each in started:
        each.clear()


@pytest.fixture
def effects(tmp_path: Path) -> Callable[[], list[str]]:
    file = tmp_path / "effects.txt"
    return lambda: file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def _quiet_logs() -> Iterator[None]:
    """Put back what a worker sets for its whole process."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()
