"""What may be large comes in portions, none of which is lost."""

from __future__ import annotations

import re

import pytest

from perdure import NonRetryableError, Perdure, RunFailedError, flow
from perdure.model.decision import RunFilter
from perdure.model.record import Record
from perdure.model.redaction import Redaction
from perdure.model.run import NewRun
from perdure.server import portions
from perdure.server.portions import first_runs, last_records, records_behind, with_errors
from perdure.store import open_store
from tests.server.conftest import memory

SIZE = 600


@pytest.fixture
async def store(monkeypatch):
    monkeypatch.setattr(portions, "CHARACTERS", 2 * SIZE)
    monkeypatch.setattr(portions, "AT_ONCE", 2)
    store = open_store("memory://")
    await store.open()
    await store.create([run("a", 7), run("b", 1)])
    yield store
    await store.close()


def run(run_id: str, length: int) -> NewRun:
    kinds = ["input", *["step"] * (length - 1)]
    records = [Record(at, f"k{at}", kind, "ok", 0, "x" * SIZE) for at, kind in enumerate(kinds)]
    return NewRun(run_id, "w", 0, 0, tuple(records))


async def positions(store, after: int, limit: int) -> tuple[list[int], bool]:
    records, has_more = await records_behind(store, "a", after, limit)
    return [record.position for record in records], has_more


async def test_a_portion_of_a_journal_says_whether_there_is_more(store):
    assert await positions(store, -1, 100) == ([0, 1], True)
    assert await positions(store, 1, 1) == ([2], True)
    assert await positions(store, 4, 100) == ([5, 6], False)
    assert await positions(store, 4, 2) == ([5, 6], False)
    assert await positions(store, 6, 2) == ([], False)


async def test_one_record_is_always_there(store, monkeypatch):
    monkeypatch.setattr(portions, "CHARACTERS", 1)
    assert await positions(store, -1, 100) == ([0], True)
    assert await positions(store, 5, 100) == ([6], False)


@pytest.mark.parametrize(
    ("length", "limit", "found"),
    [(7, 100, [3, 4, 5, 6]), (7, 1, [6]), (7, 3, [4, 5, 6]), (3, 100, [0, 1, 2]), (0, 100, []), (9, 1, [])],
)
async def test_the_last_records_are_found_from_behind(store, length, limit, found):
    assert [record.position for record in await last_records(store, "a", length, limit)] == found


async def test_the_last_records_are_all_there_where_they_are_small(store, monkeypatch):
    monkeypatch.setattr(portions, "CHARACTERS", 100 * SIZE)
    assert [record.position for record in await last_records(store, "a", 7, 100)] == list(range(7))
    assert [record.position for record in await last_records(store, "a", 7, 5)] == [2, 3, 4, 5, 6]


async def test_runs_are_as_many_as_go_into_an_answer(store):
    assert [run and run.id for run in await first_runs(store, ["a", "none", "b"])] == ["a", None, "b"]
    assert await first_runs(store, []) == []


async def test_a_list_carries_the_beginning_of_errors_and_the_run_itself_all_of_them(serve, monkeypatch):
    monkeypatch.setattr(portions, "MESSAGE", 10)
    monkeypatch.setattr(portions, "AT_ONCE", 2)
    app = Perdure(memory())

    @app.workflow
    async def failing(number: int) -> None:
        flow.set("large", "x" * 600)
        try:
            raise ValueError("a cause that is long")
        except ValueError as cause:
            raise NonRetryableError(f"no {number} with all that there was to say") from cause

    served = await serve(app)
    for number in range(3):
        run = await app.start(failing, number, id=f"r{number}")
        with pytest.raises(RunFailedError):
            await run.result(timeout=10)
    listed = (await served.http.get("/api/v1/runs")).json()["items"]
    assert [(run["error"]["message"], run["error"]["cause"]["message"]) for run in listed] == [
        (f"no {number} with…", "a cause t…") for number in (2, 1, 0)
    ]
    whole = (await served.http.get("/api/v1/runs/r1")).json()
    assert whole["error"]["message"] == "no 1 with all that there was to say"
    assert whole["state"] == {"large": "x" * 600}
    (kept,) = await with_errors(app.store, [(await app.store.find(RunFilter(), 1)).runs[0]], Redaction())
    assert (kept.state, "Traceback" in kept.output) == (None, False)


async def test_a_run_page_of_large_records_shows_the_last_and_leads_to_the_rest(serve, monkeypatch):
    monkeypatch.setattr(portions, "CHARACTERS", 3 * SIZE)
    monkeypatch.setattr(portions, "AT_ONCE", 2)
    app = Perdure(memory())

    @app.step
    async def large(number: int) -> str:
        return "x" * SIZE

    @app.workflow
    async def many() -> None:
        for number in range(9):
            await large(number)

    served = await serve(app)
    await (await app.start(many, id="a")).result(timeout=10)

    async def shown(address: str) -> tuple[list[int], dict[str, str]]:
        text = (await served.http.get(address, headers={"Accept": "text/html"})).text
        links = dict(reversed(found) for found in re.findall(r'href="([^"]*after=[^"]*)">(Earlier|Later)<', text))
        return [int(found) for found in re.findall(r'id="record-(\d+)"', text)], links

    last, links = await shown("/runs/a")
    assert last == [7, 8, 9, 10]
    assert set(links) == {"Earlier"}
    seen, links = await shown(links["Earlier"])
    assert seen == [0, 1, 2]
    while "Later" in links:
        more, links = await shown(links["Later"])
        seen += more
    assert seen == list(range(11)), "nothing lies between two pages"
