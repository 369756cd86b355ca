"""Schedules over the API."""

from __future__ import annotations

import datetime as dt

import pytest

from perdure import Perdure
from tests.server.conftest import Serve, memory

SCHEDULES = "/api/v1/schedules"


@pytest.fixture
def worker():
    app = Perdure(memory())

    @app.workflow
    async def report(to: str = "ada") -> str:
        return to

    return app


async def test_a_schedule_from_its_making_to_its_end(serve: Serve, worker):
    served = await serve(worker)
    body = {"name": "nightly", "workflow": "report", "input": {"to": "bob"}, "cron": "0 3 * * *", "tz": "Europe/Paris"}
    made = await served.http.post(SCHEDULES, json={**body, "paused": True})
    assert (made.status_code, made.headers["location"]) == (201, f"{SCHEDULES}/nightly")
    assert (made.json()["is_paused"], made.json()["timing"]) == (True, "0 3 * * * (Europe/Paris)")
    again = await served.http.post(SCHEDULES, json=body)
    assert again.status_code == 201, "the same one again is nothing"
    other = await served.http.post(SCHEDULES, json={**body, "cron": "0 4 * * *"})
    assert (other.status_code, other.json()["title"]) == (409, "Schedule exists")
    other = await served.http.post(SCHEDULES, json={**body, "cron": "0 4 * * *", "replace": True})
    assert other.json()["timing"] == "0 4 * * * (Europe/Paris)"

    path = f"{SCHEDULES}/nightly"
    resumed = (await served.http.post(f"{path}/resume", json={"reason": "holidays are over"})).json()
    assert (resumed["is_paused"], resumed["next_at"][-1]) == (False, "Z")
    found = (await served.http.get(path, params={"next": 3})).json()
    times = [dt.datetime.fromisoformat(each) for each in found["following"]]
    assert len(times) == 3
    assert found["next_at"] == found["following"][0]
    assert (await served.http.post(f"{path}/pause")).json()["is_paused"]
    changed = (await served.http.patch(path, json={"every": "2 hours", "overlap": "skip"})).json()
    assert (changed["timing"], changed["overlap"], changed["input"]) == ("every 7200 s", "skip", {"to": "bob"})

    run = (await served.http.post(f"{path}/trigger")).json()
    result = (await served.http.get(f"/api/v1/runs/{run['id'].replace(':', '%3A')}/result", params={"wait": 10})).json()
    assert result["output"] == "bob"
    span = {"from": "2026-01-01T00:00:00Z", "until": "2026-01-01T08:00:00+02:00"}
    runs = (await served.http.post(f"{path}/backfill", json=span)).json()["runs"]
    assert [run.rpartition("@")[2] for run in runs] == [f"2026-01-01T0{hour}:00:00Z" for hour in (0, 2, 4)]
    page = (await served.http.get(SCHEDULES)).json()
    assert ([each["name"] for each in page["items"]], page["next"]) == (["nightly"], None)
    assert (await served.http.delete(path, params={"reason": "not needed"})).status_code == 204
    assert (await served.http.get(path)).json()["title"] == "Schedule not found"
    audit = (await served.http.get("/api/v1/audit")).json()["items"]
    assert (audit[0]["action"], audit[0]["reason"]) == ("schedules.delete", "not needed")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"cron": "every day"}, "body.cron"),
        ({"cron": "0 0 * * *", "every": 60}, "body"),
        ({}, "body"),
        ({"every": 60, "tz": "Mars/Base"}, "body.tz"),
        ({"every": "soon"}, "body.every"),
        ({"every": 60, "overlap": "never"}, "body.overlap"),
        ({"at": "2026-01-01T00:00:00"}, "body.at"),
        ({"at": "2020-01-01T00:00:00Z"}, "body"),
        ({"every": 60, "start": 7}, "body.start"),
        ({"every": 60, "evry": 7}, "body.evry"),
        ({"every": 60, "workflow": "reprot"}, "body.workflow"),
        ({"every": 60, "name": "a/b"}, "body.name"),
        ({"every": 60, "jitter": None}, "body.jitter"),
    ],
)
async def test_schedules_that_are_none(serve: Serve, worker, body, place):
    served = await serve(worker)
    answer = await served.http.post(SCHEDULES, json={"name": "wrong", "workflow": "report", **body})
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["errors"][0]["path"].startswith(place)
    assert (await served.http.get(SCHEDULES)).json()["items"] == []


async def test_what_cannot_be_asked_of_a_schedule(serve: Serve, worker):
    served = await serve(worker)
    await served.http.post(SCHEDULES, json={"name": "tick", "workflow": "report", "every": 60})
    path = f"{SCHEDULES}/tick"
    assert (await served.http.patch(path, json={})).json()["errors"][0]["path"] == "body"
    assert (await served.http.patch(path, json={"tz": "Mars/Base"})).json()["errors"][0]["path"].startswith("body")
    span = {"from": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    assert (await served.http.post(f"{path}/backfill", json=span)).status_code == 422
    long = {"from": "2020-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    answer = await served.http.post(f"{path}/backfill", json=long)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:perdure:error:batch-too-large")
    for verb in ("pause", "resume", "trigger"):
        answer = await served.http.post(f"{SCHEDULES}/tock/{verb}")
        assert (answer.status_code, answer.json()["title"]) == (404, "Schedule not found")
    assert (await served.http.delete(f"{SCHEDULES}/tock")).status_code == 404
    assert (await served.http.patch(f"{SCHEDULES}/tock", json={"every": 1})).status_code == 404


async def test_they_are_listed_in_pages_made_last_first(serve: Serve, worker):
    served = await serve(worker)
    for name in ("a", "c", "b"):
        await served.http.post(SCHEDULES, json={"name": name, "workflow": "report", "every": "1 day"})
    first = (await served.http.get(SCHEDULES, params={"limit": 2})).json()
    second = (await served.http.get(SCHEDULES, params={"limit": 2, "cursor": first["next"]})).json()
    assert [each["name"] for page in (first, second) for each in page["items"]] == ["b", "c", "a"]
    assert second["next"] is None
    wrong = await served.http.get(SCHEDULES, params={"cursor": "soon"})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "query.cursor")


async def test_a_page_of_them_looks_at_no_more(serve: Serve, worker, monkeypatch):
    served = await serve(worker)
    for number in range(20):
        await served.app.schedules.create(f"s{number}", "report", every="1 day")
    looks = []
    inbox = type(served.app.store).inbox

    async def counted(self, run_id, *given):
        looks.append(run_id)
        return await inbox(self, run_id, *given)

    monkeypatch.setattr(type(served.app.store), "inbox", counted)
    assert len((await served.http.get(SCHEDULES, params={"limit": 3})).json()["items"]) == 3
    assert len(looks) == 3
