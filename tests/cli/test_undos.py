"""Failed undos: who sees to them, and how a run is terminated and undone."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure, Retry, RunStatus, flow
from tests.cli.conftest import until


def make_app(url: str, *, is_broken: bool = True) -> Perdure:
    app = Perdure(url)

    @app.step(retry=Retry(attempts=1))
    async def refund(what: str) -> None:
        if is_broken:
            raise ConnectionError("the [red]bank[/red] is away")

    @app.step(undo=refund)
    async def charge(what: str) -> str:
        return what

    @app.workflow
    async def trip(waits: bool = False) -> None:
        await charge("card")
        if waits:
            await flow.wait_for_event("go", type="go", timeout=None)
        raise ValueError("sold out")

    return app


def work(url: str, run_id: str, *statuses: RunStatus, is_broken: bool = True) -> None:
    """Have a worker look after a store until a run is in one of these states."""

    async def main() -> None:
        async with make_app(url, is_broken=is_broken) as app:
            await until(app, run_id, *statuses)

    asyncio.run(main())


@pytest.fixture
def failed(url: str) -> str:
    """A run whose undo failed."""

    async def main() -> None:
        async with make_app(url) as app:
            await app.start("trip", id="trip-1")
            await app.start("trip", input={"waits": True}, id="trip-2")
            await until(app, "trip-1", RunStatus.COMPENSATION_FAILED)
            await until(app, "trip-2", RunStatus.WAITING)

    asyncio.run(main())
    return url


def test_failed_undos_are_listed(shell, failed):
    said = shell("undos", "list", columns=120)
    assert (said.code, said.err) == (0, "")
    heading, row = said.out.splitlines()
    assert heading.split() == ["run", "workflow", "undo", "of", "tries", "failed"]
    assert row.split()[:4] == ["trip-1", "trip", "charge", "1"]
    assert row.rstrip().endswith("the [red]bank[/red] is away")
    assert shell("undos", "list", "--json").json == {
        "undos": [
            {
                "run": "trip-1",
                "workflow": "trip",
                "failed": [{"step": "charge", "tries": 1, "error": "the [red]bank[/red] is away"}],
                "more": 0,
            }
        ]
    }
    said = shell("undos", "list", "--workflow", "other")
    assert (said.code, said.out, said.err) == (0, "", "no failed undos like that\n")


def test_a_failed_undo_is_tried_again(shell, failed):
    assert shell("undos", "retry", "trip-1").out == "run trip-1: its failed undos are tried again\n"
    work(failed, "trip-1", RunStatus.COMPENSATED, is_broken=False)
    assert shell("undos", "list").err == "no failed undos\n"
    said = shell("undos", "retry", "trip-1")
    assert (said.code, said.err) == (
        2,
        "error: run 'trip-1' is compensated: no failed undo of it waits for a decision\n",
    )


def test_a_failed_undo_counts_as_done(shell, failed):
    said = shell("undos", "done", "trip-1", "ticket")
    assert (said.code, said.err) == (2, "error: run 'trip-1' has no failed undo 'ticket'; failed: charge\n")
    said = shell("undos", "done", "trip-1", "charge", "--reason", "by hand")
    assert said.out == "run trip-1: the undo of charge counts as done\n"
    work(failed, "trip-1", RunStatus.COMPENSATED)
    journal = shell("runs", "journal", "trip-1", "--json").json["records"]
    assert [r["payload"]["reason"] for r in journal if r["kind"] == "event"] == ["by hand"]
    shown = shell("runs", "show", "trip-1")
    assert "sold out" in shown.out
    assert "can be undone" in shell("runs", "journal", "trip-1").out
    assert "sold out" in shell("runs", "list").out


def test_a_run_is_terminated_and_undone(shell, failed):
    said = shell("runs", "terminate", "trip-2", "--undo")
    assert (said.code, said.out) == (0, "● waiting  trip-2\n")
    work(failed, "trip-2", RunStatus.COMPENSATED, is_broken=False)
    assert "an operator has it undone" in shell("runs", "journal", "trip-2").out
    assert shell("runs", "pause", "trip-2", "--undo").code == 2


def test_what_could_not_be_undone_is_shown_everywhere(shell, failed):
    shown = shell("runs", "show", "trip-1").out
    assert "charge: its undo failed: the [red]bank[/red] is away" in shown
    assert "failed with\nValueError: sold out" in shown
    assert shell("runs", "show", "trip-1", "--json").json["failed_with"]["message"] == "sold out"
    assert "its undo failed" in shell("runs", "list", columns=150).out
    assert "an operator decides" in shell("runs", "explain", "trip-1").out
    said = shell("doctor")
    assert said.code == 1
    assert "1 run could not be undone: trip-1" in said.out
    assert shell("stats", "--json").json["status"]["compensation_failed"] == 1
