"""`perdure worker` as a process: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import psutil
import pytest

from perdure import DeterminismWarning, Perdure
from perdure.cli import logs
from perdure.engine.keys import encryption_here
from perdure.store import namespaced
from tests.cli.working import SECONDS, SHOP, run, wait_for

ROOT = Path(__file__).parent.parent.parent


def test_a_step_finishes_before_the_worker_stops_and_another_goes_on(shell, worker, effects, tmp_path):
    shell("start", "held", "--id", "h")
    first = worker()
    wait_for(lambda: "hold begins" in effects())
    first.signal(signal.SIGTERM)
    stopping = first.says("stopping")
    assert stopping["signal"] == "SIGTERM"
    assert stopping["event"] == "stopping and waiting up to 30 s for 1 run"
    assert first.process.poll() is None
    (tmp_path / "go").touch()
    assert first.ends() == 0
    assert effects() == ["hold begins", "hold ends"]
    assert run(shell, "h")["status"] == "queued"
    records = shell("runs", "journal", "h", "--json").json["records"]
    assert [(record["key"], record["payload"]) for record in records[1:]] == [("hold", "held")]

    second = worker()
    wait_for(lambda: run(shell, "h")["status"] == "complete")
    assert run(shell, "h")["output"] == "held, done"
    assert effects() == ["hold begins", "hold ends", "after"]
    second.signal(signal.SIGINT)
    assert second.ends() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once_and_gives_the_run_back(shell, worker, effects, number, code):
    shell("start", "held", "--id", "h")
    process = worker("--drain", "10m")
    wait_for(lambda: "hold begins" in effects())
    process.signal(signal.SIGTERM)
    process.says("stopping and waiting up to 10 min")
    process.signal(number)
    assert process.ends() == code
    assert effects() == ["hold begins"]
    given_back = run(shell, "h")
    assert (given_back["status"], given_back["crashes"]) == ("queued", 0)


def test_a_thread_that_does_not_end_cannot_hold_the_process(shell, worker, effects):
    shell("start", "stuck", "--id", "s")
    process = worker("--drain", "50ms")
    wait_for(lambda: "stubborn begins" in effects())
    process.signal(signal.SIGTERM)
    assert process.ends() == 1
    assert "1 run given back in the middle of a step" in [line["event"] for line in process.lines()]
    assert run(shell, "s")["status"] == "queued"


def test_it_says_what_it_works(worker, url):
    process = worker("--queue", "mail = 3, default", "--concurrency", "7")
    said = process.says("working")
    assert said["store"] == url.partition("?")[0]
    assert said["durability"] == "D1 relaxed"
    assert said["workflows"] == "broken,held,letter,nap,order,parcel,stuck"
    assert said["queues"] == "mail=3,default"
    assert said["concurrency"] == 7
    assert said["pid"] == process.process.pid
    assert list(said)[:3] == ["timestamp", "level", "event"]
    process.signal(signal.SIGTERM)
    assert process.ends() == 0
    assert [line["event"] for line in process.lines()] == ["working", "stopping", "stopped"]


def test_it_works_the_runs_of_a_namespace(worker, url):
    process = worker("--namespace", "acme")
    assert process.says("working")["store"] == namespaced(url, "acme").partition("?")[0]
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


def test_a_namespace_may_have_its_store_elsewhere(worker, tmp_path):
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    process = worker("--namespace", f"acme={elsewhere}", "--processes", "2")
    assert {line["store"] for line in [process.says("working", 2), *process.all_said("working")]} == {elsewhere}
    assert elsewhere not in " ".join(psutil.Process(process.pids()[0]).cmdline())
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["acme", "beta"], "--namespace: a worker works the runs of one; start one each for acme, beta"),
        (["Acme Inc"], "namespace: 'Acme Inc' must be up to 40 small letters and digits"),
        (["=sqlite:///x.db"], "namespace: '' must be"),
        (["default=sqlite:///x.db"], "namespace: 'default' is the store's own"),
    ],
)
def test_namespaces_that_are_none(shell, words, said):
    answer = shell("worker", SHOP, *(f"--namespace={word}" for word in words))
    assert (answer.code, said in answer.err) == (2, True), answer.err


def test_what_is_encrypted_for_a_namespace_is_worked_there_alone(worker, tmp_path, monkeypatch):
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", f"a:{base64.b64encode(bytes(32)).decode()}")
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"

    async def start(run_id: str) -> None:
        async with Perdure(elsewhere, mode="client", encryption=encryption_here("acme")) as app:
            await app.start("letter", id=run_id, queue="mail")

    asyncio.run(start("l"))
    process = worker("--namespace", f"acme={elsewhere}", "--queues", "mail")
    process.says("working")

    async def result() -> str:
        async with Perdure(elsewhere, mode="client", encryption=encryption_here("acme")) as app:
            return await app.run("l").result(timeout=30)

    assert asyncio.run(result()) == "sent"


def test_it_works_its_queues_and_no_others(shell, worker):
    shell("start", "letter", "--app", SHOP, "--id", "l")
    shell("start", "parcel", "--app", SHOP, "--input", '{"number": 1}', "--id", "p")
    worker("--queues", "mail")
    wait_for(lambda: run(shell, "l")["status"] == "complete")
    assert run(shell, "p")["status"] == "queued"


def test_it_works_every_queue_of_the_application(shell, worker):
    shell("start", "letter", "--app", SHOP, "--id", "l")
    assert worker("--queues", "*").says("working")["queues"] == "default,mail"
    wait_for(lambda: run(shell, "l")["status"] == "complete")


def test_json_is_one_document_on_standard_output(worker):
    process = worker("--json")
    process.says("working")
    process.signal(signal.SIGTERM)
    out, _ = process.process.communicate(timeout=SECONDS)
    assert json.loads(out)["workflows"][0] == "broken"


def test_a_worker_whose_claiming_breaks_ends(worker, tmp_path, url):
    (tmp_path / "breaks.py").write_text(
        "from tests.cli.shop import make_app\n"
        "app = make_app('memory://')\n"
        "async def claim(*args):\n    raise KeyError('a defect')\n"
        "type(app.store).claim = claim\n"
    )
    said = subprocess.run(
        [sys.executable, "-m", "perdure.cli", "worker", str(tmp_path / "breaks.py"), "--store", "memory://"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    assert said.returncode == 1
    assert "is broken and claims nothing more" in said.stderr
    assert "KeyError" in said.stderr


@pytest.mark.usefixtures("_quiet_logs")
class TestMistakes:
    """Found before anything is opened."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["nowhere:app"], "there is no module 'nowhere' here"),
            ([SHOP, "--drain", "soon"], "drain: 'soon' is no duration"),
            ([SHOP, "--concurrency", "0"], "concurrency: 0 must be a whole number"),
            ([SHOP, "--queues", "a,,b"], "queue"),
            ([SHOP, "--queues", "a=many"], "--queues: 'a=many' must be a name, or a name and a number, as in pdf=4"),
            ([SHOP, "--queues", "a=0"], "queues: 'a': 0 must be a whole number, at least 1"),
            ([SHOP, "--log-level", "loud"], "'loud' is none of debug, info, warning, error"),
        ],
    )
    def test_exit_code_2(self, shell, words, message):
        said = shell("worker", *words)
        assert (said.code, said.out) == (2, "")
        assert message in said.err

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("app = Perdure('memory://')", "has no workflows"),
            (
                "app = Perdure('memory://', mode='client')\n@app.workflow\nasync def nap() -> None: ...",
                "mode='client', which works nothing",
            ),
        ],
    )
    def test_apps_that_have_nothing_to_work(self, shell, tmp_path, source, message):
        file = tmp_path / f"idle_{abs(hash(source))}.py"
        file.write_text(f"from perdure import Perdure\n{source}\n")
        said = shell("worker", f"{file}:app", PERDURE_STORE=None)
        assert said.code == 2
        assert message in said.err

    def test_exit_code_4(self, shell, tmp_path):
        said = shell("worker", SHOP, "--store", f"sqlite:///{tmp_path}/no/shop.db")
        assert said.code == 4
        assert f"there is no folder {tmp_path}/no" in said.err


@pytest.mark.usefixtures("_quiet_logs")
class TestLogs:
    def test_for_people(self, capsys):
        logs.configure(as_json=False, level="info").info("working", store="memory://", pid=7)
        logging.getLogger("shop").warning("%d orders", 3, extra={"customer": "ada"})
        logging.getLogger("shop").debug("nothing")
        first, second = capsys.readouterr().err.splitlines()
        assert re.fullmatch(r"\d\d:\d\d:\d\d \[info\] working store=memory:// pid=7", first)
        assert second.endswith("[warning] 3 orders customer=ada")

    def test_for_programs(self, capsys):
        logs.configure(as_json=True, level="debug").info("working", store="memory://")
        try:
            raise ValueError("no")
        except ValueError:
            logging.getLogger("shop").exception("it %s", "failed")
        first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
        assert (first["event"], first["store"], first["logger"]) == ("working", "memory://", "perdure.worker")
        assert (second["event"], second["level"]) == ("it failed", "error")
        assert second["exception"][0]["exc_value"] == "no"

    def test_warnings_are_logged_too(self, capsys):
        logs.configure(as_json=True, level="info")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("watch out", DeterminismWarning, stacklevel=1)
            logging.captureWarnings(False)
        assert "watch out" in json.loads(capsys.readouterr().err)["event"]
