"""`perdure worker --processes N`: several processes under one that keeps them, and ends with them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import structlog

from perdure.cli import supervisor
from perdure.cli.supervisor import Supervisor
from tests.cli.conftest import EVERY
from tests.cli.working import SECONDS, SHOP, is_there, run, wait_for

IMPORTABLE = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}


def at_work(process, number):
    process.says("working", number)
    pids = process.pids()
    assert len(set(pids)) == number
    return pids


def start_held(shell, effects, number):
    """Start as many runs whose step waits, and wait until all of these steps are under way."""
    for each in range(number):
        shell("start", "held", "--id", f"h{each}")
    wait_for(lambda: effects().count("hold begins") == number)


@pytest.mark.parametrize("url", EVERY, indirect=True)
def test_each_process_works(shell, worker, effects, tmp_path):
    process = worker("--processes", "3", "--concurrency", "1")
    pids = at_work(process, 3)
    start_held(shell, effects, 3)  # a process that may have one run has one, so that all three are needed
    assert all(is_there(pid) for pid in pids)
    process.signal(signal.SIGTERM)
    process.says("stopping and waiting up to 30 s for 1 run", 3)
    (tmp_path / "go").touch()
    assert process.ends() == 0
    assert effects().count("hold ends") == 3
    assert not any(is_there(pid) for pid in pids)
    assert [run(shell, f"h{each}")["status"] for each in range(3)] == ["queued"] * 3


def test_each_line_says_of_which_process_it_is(worker):
    process = worker("--processes", "2")
    at_work(process, 2)
    process.signal(signal.SIGINT)
    assert process.ends() == 0
    assert [line["process"] for line in process.all_said("stopped")] in ([1, 2], [2, 1])
    assert [line.get("process") for line in process.lines() if line["event"] == "all workers stopped"] == [None]


@pytest.mark.parametrize("url", EVERY, indirect=True)
def test_one_that_is_killed_is_replaced_and_its_run_taken_over(shell, worker, effects, tmp_path):
    process = worker("--processes", "2", SHOP_LEASE="1s")
    at_work(process, 2)
    start_held(shell, effects, 1)
    holder = run(shell, "h0")["worker"]
    victim = next(line for line in process.all_said("working") if line["worker"] == holder)
    os.kill(victim["pid"], signal.SIGKILL)
    ended = process.says("process was ended by SIGKILL; another one starts in 500 ms")
    assert ended["process"] == victim["process"]
    wait_for(lambda: effects().count("hold begins") == 2)
    (tmp_path / "go").touch()
    wait_for(lambda: run(shell, "h0")["status"] == "complete")
    process.says("working", 3)
    assert victim["pid"] not in process.pids()
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


def test_one_that_was_asked_to_end_is_replaced_too(worker):
    process = worker("--processes", "2")
    first, _ = at_work(process, 2)
    os.kill(first, signal.SIGTERM)
    process.says("process ended with exit code 0; another one starts")
    process.says("working", 3)
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


def test_a_signal_to_all_of_them_counts_once(shell, worker, effects, tmp_path):
    process = worker("--processes", "2", "--concurrency", "1")
    at_work(process, 2)
    start_held(shell, effects, 2)
    os.killpg(process.process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C, and systemd at stop
    process.says("stopping and waiting", 2)
    (tmp_path / "go").touch()
    assert process.ends() == 0
    assert not process.all_said("stopping at once")
    assert effects().count("hold ends") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_all_at_once_and_gives_their_runs_back(shell, worker, effects, number, code):
    process = worker("--processes", "2", "--concurrency", "1", "--drain", "10m")
    at_work(process, 2)
    start_held(shell, effects, 2)
    process.signal(signal.SIGTERM)
    process.says("stopping and waiting", 2)
    process.signal(number)
    assert process.ends() == code
    assert [(run(shell, name)["status"], run(shell, name)["crashes"]) for name in ("h0", "h1")] == [("queued", 0)] * 2


def test_a_third_signal_kills(shell, worker, effects):
    process = worker("--processes", "2", "--concurrency", "1", "--drain", "10m")
    pids = at_work(process, 2)
    start_held(shell, effects, 2)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # nothing but the kernel ends it now
    for times in range(1, 4):
        process.signal(signal.SIGTERM)
        wait_for(lambda times=times: times == 3 or len(process.all_said("stopping 2 workers")) == times)
    assert process.ends() == 143
    assert not any(is_there(pid) for pid in pids)


@pytest.mark.parametrize("url", EVERY, indirect=True)
def test_without_the_one_that_keeps_them_they_finish_and_end(shell, worker, effects, tmp_path):
    process = worker("--processes", "2", "--concurrency", "1")
    pids = at_work(process, 2)
    start_held(shell, effects, 2)
    process.signal(signal.SIGKILL)
    process.ends()
    wait_for(lambda: len(process.all_said("stopping and waiting")) == 2)
    assert all(is_there(pid) for pid in pids)
    (tmp_path / "go").touch()
    wait_for(lambda: not any(is_there(pid) for pid in pids))
    assert effects().count("hold ends") == 2
    assert len(process.all_said("the supervisor is gone")) == 2
    assert [run(shell, name)["status"] for name in ("h0", "h1")] == ["queued"] * 2


def test_one_that_hangs_ends_without_the_one_that_keeps_it(shell, worker, effects, tmp_path):
    (tmp_path / "hangs.py").write_text(
        "import time\n"
        "from perdure.cli import supervised\n"
        "from tests.cli.shop import app, note\n"
        "supervised.LAST_RESORT = 0.1\n"
        "@app.step\nasync def hang() -> None:\n    note('hangs')\n    time.sleep(600)\n"
        "@app.workflow\nasync def hanging() -> None:\n    await hang()\n"
    )
    process = worker("--processes", "2", "--drain", "100ms", app=str(tmp_path / "hangs.py"), **IMPORTABLE)
    pids = at_work(process, 2)
    shell("start", "hanging")
    wait_for(effects)
    process.signal(signal.SIGKILL)
    wait_for(lambda: not any(is_there(pid) for pid in pids))


def test_a_signal_while_they_start_stops_them(worker):
    process = worker("--processes", "2")
    started = wait_for(psutil.Process(process.process.pid).children)
    process.signal(signal.SIGTERM)
    assert process.ends() in {0, 143}  # 143: before anybody listened
    assert not any(is_there(child.pid) for child in started)
    assert len(process.all_said("working")) <= 1


def test_json_is_one_document_for_all(worker):
    process = worker("--processes", "2", "--json")
    pids = at_work(process, 2)
    process.says("2 workers")
    process.signal(signal.SIGTERM)
    out, _ = process.process.communicate(timeout=SECONDS)
    said = json.loads(out)
    assert said["pid"] == process.process.pid
    assert sorted(one["pid"] for one in said["processes"]) == sorted(pids)
    assert all(one["worker"] for one in said["processes"])
    assert said["workflows"][0] == "broken"


def test_the_store_is_in_no_command_that_others_can_read(worker, url):
    process = worker("--processes", "2")
    for pid in at_work(process, 2):
        assert url not in " ".join(psutil.Process(pid).cmdline())


class TestWhatCannotStart:
    """Is said once, and not tried again."""

    def type(self, *words, **env):
        return subprocess.run(
            [sys.executable, "-m", "perdure.cli", "worker", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **env},
        )

    def test_a_store_that_cannot_be_used(self, tmp_path):
        said = self.type(SHOP, "--processes", "3", "--store", f"sqlite:///{tmp_path}/no/shop.db")
        assert (said.returncode, said.stdout) == (4, "")
        (line,) = said.stderr.splitlines()
        assert line.startswith("error: ")
        assert f"there is no folder {tmp_path}/no" in line

    def test_as_json(self, tmp_path):
        said = self.type(SHOP, "--processes", "3", "--store", f"sqlite:///{tmp_path}/no/shop.db", "--json")
        assert said.returncode == 4
        assert json.loads(said.stdout)["error"]["type"] == "StoreUnavailableError"

    def test_where_it_comes_from(self, tmp_path):
        said = self.type(SHOP, "--processes", "3", "--store", f"sqlite:///{tmp_path}/no/shop.db", "--debug")
        assert said.stderr.count(", in _work\n") == 1  # the traceback, of one process

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["nowhere:app"], "there is no module 'nowhere' here"),
            ([SHOP, "--drain", "soon"], "drain: 'soon' is no duration"),
            ([SHOP, "--queues", "a,,b"], "queue"),
            ([SHOP, "--store", "memory://"], "memory:// is each process's own"),
        ],
        ids=str,
    )
    def test_mistakes(self, words, message):
        said = self.type(*words, "--processes", "2")
        assert (said.returncode, said.stdout) == (2, "")
        (line,) = said.stderr.splitlines()
        assert message in line

    @pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", ""])
    def test_a_number_of_processes_that_is_none(self, shell, number):
        said = shell("worker", SHOP, "--processes", number)
        assert (said.code, said.out) == (2, "")
        assert "--processes" in said.err
        assert said.err.count("\n") == 1


class TestWhatKeepsEnding:
    @pytest.fixture(autouse=True)
    def _is_quick(self, monkeypatch):
        for name, value in IMPORTABLE.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.05)

    @pytest.fixture
    def keep(self, monkeypatch, tmp_path, url):
        def keep(source, size=1):
            (tmp_path / "falls.py").write_text(source)
            monkeypatch.setenv("PERDURE_STORE", url)
            monkeypatch.setenv("SHOP_FOLDER", str(tmp_path))
            monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
            words = ["worker", "--log-level=error", "--", f"{tmp_path}/falls.py:app"]
            return Supervisor(words, size, structlog.get_logger(), lambda documents: None)

        return keep

    async def test_it_is_given_up_after_some_attempts(self, keep, tmp_path):
        source = "import os\nopen(os.environ['SHOP_FOLDER'] + '/tries', 'a').write('x')\nos._exit(3)\n"
        keeper = keep(source)
        assert await keeper.work() == 1
        assert keeper.failure is not None
        assert keeper.failure.message == (
            "5 processes in a row ended before they were at work; the last ended with exit code 3"
        )
        assert (tmp_path / "tries").read_text() == "x" * 5

    async def test_the_others_stop_in_order_then(self, keep, tmp_path):
        source = (
            "import os\nfrom tests.cli.shop import app, folder\n"
            "first = folder() / 'first'\n"
            "if first.exists():\n    os._exit(3)\n"
            "first.touch()\n"
        )
        keeper = keep(source, 2)
        assert await keeper.work() == 1
        assert "in a row" in keeper.failure.message

    async def test_a_store_that_is_gone_is_waited_for(self, keep, tmp_path):
        source = (
            "import sys\nfrom tests.cli.shop import app, folder, note\n"
            "note('starts')\n"
            "if (folder() / 'down').exists():\n    sys.exit(4)\n"
        )
        keeper = keep(source)
        working = asyncio.ensure_future(keeper.work())
        starts = tmp_path / "effects.txt"

        async def until(condition):
            async with asyncio.timeout(SECONDS):
                while not condition():
                    await asyncio.sleep(0.01)

        def process():
            return keeper._processes.get(1)

        await until(lambda: process() is not None and process().working)
        (tmp_path / "down").touch()
        process().kill()
        await until(lambda: starts.read_text().count("starts") > supervisor.ATTEMPTS + 2)
        (tmp_path / "down").unlink()
        await until(lambda: process().working)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await working == 0
        assert keeper.failure is None


def test_one_that_keeps_ending_is_replaced_ever_more_slowly(worker, tmp_path):
    (tmp_path / "breaks.py").write_text(
        "from tests.cli.shop import app\n"
        "async def claim(*args):\n    raise KeyError('a defect')\n"
        "from perdure.store.sqlite import SqliteStore\n"
        "SqliteStore.claim = claim\n"
    )
    process = worker("--processes", "2", app=str(tmp_path / "breaks.py"), **IMPORTABLE)
    process.says("process ended with exit code 1; another one starts in 500 ms", 2)
    process.says("process ended with exit code 1; another one starts in 1 s", 2)
    process.signal(signal.SIGTERM)
    assert process.ends() in {0, 1}
