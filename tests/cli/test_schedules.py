"""`perdure schedules` and `perdure events`."""

from __future__ import annotations

import asyncio

import pytest

from tests.cli import shop
from tests.cli.conftest import ask


@pytest.fixture
def nightly(url: str) -> str:
    """A store with a schedule, and nobody who works it."""

    async def make() -> None:
        app = shop.make_app(url)

        @app.on("order.created", where="number > `1`")
        @app.workflow
        async def invoice(order: dict) -> None: ...

        async with app:
            await app.schedules.create("nightly", "nap", input={"seconds": 5}, cron="0 3 * * *", tz="Europe/Paris")
            while (await app.run("schedule:nightly").get()).state is None:
                await asyncio.sleep(0.005)

    asyncio.run(make())
    return url


def test_an_empty_list(shell, seeded):
    said = shell("schedules", "list")
    assert (said.code, said.out, said.err.strip()) == (0, "", "no schedules")
    assert shell("schedules", "list", "--json").json == {"schedules": []}


def test_a_list(shell, nightly):
    header, line = shell("schedules", "list").out.splitlines()
    assert header.split() == ["schedule", "workflow", "status", "when", "next", "started"]
    assert line.split()[:9] == ["nightly", "nap", "●", "waiting", "0", "3", "*", "*", "*"]
    assert "(Europe/Paris)" in line
    (document,) = shell("schedules", "list", "--json").json["schedules"]
    assert (document["name"], document["input"], document["is_paused"]) == ("nightly", {"seconds": 5}, False)
    assert document["next_at"] % 3_600_000 == 0


def test_one(shell, nightly):
    said = shell("schedules", "show", "nightly")
    rows = dict(line.rstrip().split(maxsplit=1) for line in said.out.splitlines() if not line.startswith((" ", "last")))
    assert rows["starts"] == "nap"
    assert rows["fires"] == "0 started"
    assert said.out.count("03:00 CE") == 5
    document = shell("schedules", "show", "nightly", "--json").json
    assert document["following"][0] == document["next_at"]


def test_it_is_paused_and_goes_on(shell, nightly):
    assert shell("schedules", "pause", "nightly").out.strip() == "schedule nightly is paused"
    assert "● paused" in shell("schedules", "list").out
    assert shell("schedules", "show", "nightly", "--json").json["next_at"] is None
    assert shell("schedules", "resume", "nightly").out.startswith("schedule nightly goes on, next at 20")
    assert shell("schedules", "resume", "nightly", "--json").json["is_paused"] is False


def test_it_is_triggered(shell, nightly):
    run_id = shell("schedules", "trigger", "nightly").out.strip()
    assert run_id.startswith("schedule:nightly!")
    assert ask(nightly, lambda app: app.run(run_id).get()).workflow == "nap"


def test_it_is_backfilled(shell, nightly):
    words = ("schedules", "backfill", "nightly", "--from", "2026-03-01T00:00Z", "--until", "2026-03-03T00:00+01:00")
    said = shell(*words)
    expected = ["schedule:nightly@2026-03-01T02:00:00Z", "schedule:nightly@2026-03-02T02:00:00Z"]
    assert (said.out.split(), said.err.strip()) == (expected, "2 fires")
    assert shell(*words, "--json").json == {"schedule": "nightly", "runs": expected}


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("lately", "--from: 'lately' is no time; write it as in 2026-03-01T00:00Z"),
        ("2026-03-01", "--from: '2026-03-01' has no time zone"),
    ],
)
def test_times_that_are_none(shell, nightly, time, message):
    said = shell("schedules", "backfill", "nightly", "--from", time, "--until", "2026-03-03T00:00Z")
    assert said.code == 2
    assert message in said.err


def test_a_time_that_is_over_before_it_begins(shell, nightly):
    times = ("--from", "2026-03-03T00:00Z", "--until", "2026-03-01T00:00Z")
    said = shell("schedules", "backfill", "nightly", *times)
    assert (said.code, "--until: '2026-03-01T00:00Z' must be after --from" in said.err) == (2, True)


def test_it_is_deleted(shell, nightly):
    assert shell("schedules", "delete", "nightly").out.strip() == "schedule nightly is deleted"
    assert shell("schedules", "list", "--json").json == {"schedules": []}


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "trigger", "delete"])
def test_one_that_is_not_there(shell, seeded, verb):
    said = shell("schedules", verb, "x")
    assert said.code == 3
    assert "no schedule 'x': it was never made, or was deleted" in said.err


def test_an_event(shell, nightly):
    said = shell("events", "emit", "order.created", '{"number": 2}', "--id", "evt-1")
    assert (said.code, said.out.strip()) == (0, "event:order.created:evt-1:invoice")
    assert shell("events", "emit", "order.created", '{"number": 2}', "--id", "evt-1", "--json").json == {
        "event": "order.created", "runs": ["event:order.created:evt-1:invoice"],
    }  # fmt: skip


def test_an_event_that_starts_nothing(shell, nightly):
    said = shell("events", "emit", "order.created", '{"number": 1}')
    assert (said.code, said.out) == (0, "")
    assert "nothing is subscribed to order.created, or its conditions do not hold" in said.err
    assert shell("events", "emit", "tick", "--json").json == {"event": "tick", "runs": []}


def test_a_payload_that_is_no_json(shell, nightly):
    said = shell("events", "emit", "order.created", "yes")
    assert said.code == 2
    assert "the payload is no JSON" in said.err
