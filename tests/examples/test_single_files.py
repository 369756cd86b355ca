"""The examples of one file each, run as a reader would run them, and under a clock that a test moves."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import RunCompensatedError, RunFailedError, testing

ROOT = Path(__file__).parent.parent.parent
SAYS = {
    "human_approval": [
        "to team lead: bob asks for 900.00",
        "small: paid under small:pay",
        "large: paid under large:pay",
        "refused: refused by tina",
    ],
    "etl_fan_out": ["{'shops': 19, 'failed': 1, 'products': 3}", "cups: 8947.50", "pots: 8947.50", "tea: 8947.50"],
    "saga_booking": [
        "ada goes to Bern, booked as trip-1",
        "trip-1 is complete",
        "  bob: the hotel is cancelled\n  bob: the flight is cancelled",
        "bob stays at home: there are no cars in Venice",
        "trip-2 is compensated",
    ],
    "sample_flows": [
        "hello_world is complete\n  step1: complete, attempts: 1\n",
        "sample_flow is complete\n  step1: complete, attempts: 1\n  step2: complete, attempts: 1\n",
        "sample_failing_flow is errored\n  step1: complete, attempts: 1\n  fails-twice: complete, attempts: 3\n",
        "  fails: errored, attempts: 3\n  step2: never began\n",
    ],
}


@pytest.mark.parametrize("name", SAYS)
def test_it_runs_and_leaves_nothing_behind(name, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for said in SAYS[name]:
        assert said in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_file_is_run_here():
    assert sorted(path.stem for path in (ROOT / "examples").glob("*.py")) == sorted(SAYS)


async def test_who_does_not_answer_in_three_days_is_passed_over():
    example = importlib.import_module("examples.human_approval")
    async with testing.engine(example.app) as engine:
        asked = await example.app.start(example.approve, example.Expense("eve", 6_000))
        await engine.advance("3 days 1 second")
        await engine.send_event(asked, "answer", example.Answer("the head of finance", False))
        assert await asked.result() == "refused by the head of finance"
        nobody = await example.app.start(example.approve, example.Expense("eve", 6_000))
        assert await engine.result(nobody) == "nobody answered"


async def test_a_day_on_which_too_many_shops_are_unreadable_is_not_loaded(tmp_path):
    example = importlib.import_module("examples.etl_fan_out")
    example.write_files(str(tmp_path))
    for shop in example.SHOPS[:2]:
        (tmp_path / f"{shop}.csv").write_text("product,cents\ntea,many\n")
    async with testing.engine(example.app) as engine:
        run = await example.app.start(example.daily_sales, "2026-11-20", [str(path) for path in tmp_path.glob("*.csv")])
        with pytest.raises(RunFailedError, match="3 items failed, over tolerate=2"):
            await engine.result(run)


async def test_what_was_booked_is_undone_last_first(capsys):
    example = importlib.import_module("examples.saga_booking")
    async with testing.engine(example.app) as engine:
        run = await example.app.start(example.book, example.Trip("bob", "Venice"))
        with pytest.raises(RunCompensatedError):
            await engine.result(run)
        assert [undo.state for undo in await run.undos()] == ["undone", "undone"]
    undone = [line.strip() for line in capsys.readouterr().out.splitlines() if "cancelled" in line]
    assert undone == ["bob: the hotel is cancelled", "bob: the flight is cancelled"]


async def test_a_flow_runs_in_sequence_and_one_that_fails_says_where():
    example = importlib.import_module("examples.sample_flows")
    async with testing.engine(example.app) as engine:
        await example.app.publish(example.HELLO_WORLD)
        hello = await example.app.start("hello_world", input={})
        assert await engine.result(hello) == {"step1": "step1 did {}"}
        run = await example.app.start("sample_flow", input={})
        assert await engine.result(run) == {
            "step1": "step1 did {'message': 'first'}",
            "step2": "step2 did {'message': 'second'}",
        }
        run = await example.app.start("sample_failing_flow", input={})
        with pytest.raises(RunFailedError, match="step 'fails' failed 3 times, at last with OSError: no luck today"):
            await engine.result(run)
        asked = [record.key for record in await run.journal() if record.kind == "child" and record.state == "open"]
    assert asked == ["step1", "fails-twice", "fails"], "what stands behind the step that failed never began"
