from __future__ import annotations

from typing import Any

import pytest

from perdure import Perdure, Retry, flow
from perdure.server import undo_list
from perdure.server.dashboard.pages import run as run_page
from perdure.server.undo_list import find_undos
from tests.server.conftest import memory
from tests.server.dashboard.conftest import settled
from tests.server.dashboard.test_pages import text


def an_app(between: int) -> Perdure:
    """A trip that books one thing, does much, books another, and fails; the second cannot be undone."""
    app = Perdure(memory(), hold=0.0)

    @app.step(retry=Retry(attempts=1))
    async def cancel(ok: bool) -> None:
        if not ok:
            raise RuntimeError("it cannot be undone")

    @app.step(undo=cancel, retry=Retry(attempts=1))
    async def book(ok: bool) -> int:
        return 1

    @app.workflow
    async def trip() -> None:
        await book(ok=True)
        for _ in range(between):
            flow.random()
        await book(ok=False)
        raise ValueError("no seat")

    return app


async def fail(app: Perdure) -> None:
    await app.start(app.registry.workflows["trip"], id="trip")
    await settled(app, "trip", "compensation_failed")


async def test_undos_of_a_long_journal_are_all_listed(serve: Any):
    app = an_app(450)
    served = await serve(app)
    await fail(app)
    page = await served.http.get("/runs/trip", headers={"Accept": "text/html"})
    section = page.text.partition('id="undos"')[2].partition("</section>")[0]
    assert section.count('data-label="Of"') == 2
    assert "book#2" in section
    assert "it cannot be undone" in text(page)
    assert "further on" not in section


@pytest.mark.parametrize(("most", "told"), [(3, {"book": "completed"}), (10_000, None)])
async def test_where_only_the_beginning_was_read_that_is_said(serve: Any, monkeypatch: Any, most: int, told: Any):
    monkeypatch.setattr(run_page, "UNDOS_IN", most)
    app = an_app(450)
    served = await serve(app)
    await fail(app)
    found = await find_undos(app.store, "trip", most)
    assert found.is_cut is (told is not None)
    assert found.read == min(most, (await app.client.get("trip")).journal_length)
    if told is not None:
        assert {info.key: info.state for info in found.found} == told
        page = text(await served.http.get("/runs/trip", headers={"Accept": "text/html"}))
        assert "by the first 3 records" in page
        assert "what it says further on of undos is not counted in here" in page
        assert "Read all of it" in page
        whole = await served.http.get("/runs/trip", params={"undos": "all"}, headers={"Accept": "text/html"})
        assert "it cannot be undone" in text(whole)
        assert "further on" not in text(whole)
        assert "/watch" not in whole.text, "it is not read again and again"


async def test_a_beginning_without_undos_is_no_journal_without_them(serve: Any, monkeypatch: Any):
    monkeypatch.setattr(run_page, "UNDOS_IN", 1)
    app = an_app(450)
    served = await serve(app)
    await fail(app)
    page = text(await served.http.get("/runs/trip", headers={"Accept": "text/html"}))
    assert "None so far" in page
    assert "what it says further on of undos is not counted in here" in page


async def test_the_api_lists_all_undos_of_a_long_journal(serve: Any):
    app = an_app(450)
    served = await serve(app)
    await fail(app)
    found = (await served.http.get("/api/v1/runs/trip/undos")).json()["items"]
    assert [(undo["key"], undo["state"]) for undo in found] == [("book", "undone"), ("book#2", "failed")]
    assert (await served.http.get("/api/v1/runs/nobody/undos")).status_code == 404


async def test_an_end_at_the_edge_of_a_page_is_found(serve: Any, monkeypatch: Any):
    app = an_app(2)
    await serve(app)
    await fail(app)
    length = (await app.client.get("trip")).journal_length
    for size in (1, length - 1, length, length + 1):
        monkeypatch.setattr(undo_list, "PAGE", size)
        for most in (length, None):
            found = await find_undos(app.store, "trip", most)
            assert (found.read, found.is_cut) == (length, False), size
            assert [info.state for info in found.found] == ["undone", "failed"], size
