"""Moving runs: pause, resume, terminate, restart, fork, send-event."""

from __future__ import annotations

import pytest

from perdure.cli import actions, filters
from perdure.engine.client.starting import new_run
from tests.cli.conftest import ask

EVERY = ["nap-2", "nap-1", "broken-1", "order-2/parcel", "order-2", "order-1"]


def statuses(shell) -> dict[str, str]:
    return {run["id"]: run["status"] for run in shell("runs", "list", "--json").json["runs"]}


def test_a_run_is_moved_through_its_life(shell, seeded):
    for verb, status in (
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "queued"),
        ("terminate", "terminated"),
        ("restart", "queued"),
    ):
        said = shell("runs", verb, "order-1")
        assert (said.code, said.out, said.err) == (0, f"● {status}  order-1\n", "")
        assert statuses(shell)["order-1"] == status


def test_several_runs_at_once_and_json(shell, seeded):
    said = shell("runs", "pause", "order-1", "nap-1", "order-1", "--json")
    assert said.json == {
        "action": "pause",
        "done": [{"id": "order-1", "status": "paused"}, {"id": "nap-1", "status": "paused"}],
        "failed": [],
    }


def test_one_wrong_run_does_not_hold_up_the_others(shell, seeded):
    said = shell("runs", "pause", "nobody", "order-1")
    assert said.code == 3
    assert said.out == "● paused  order-1\n"
    assert said.err == "error: no run 'nobody': it was never started, or retention has removed it\n"
    said = shell("runs", "pause", "nobody", "order-2", "--json")
    assert said.code == 1
    assert [(failed["id"], failed["type"]) for failed in said.json["failed"]] == [
        ("nobody", "RunNotFoundError"),
        ("order-2", "RunFinishedError"),
    ]


def test_a_finished_run_is_only_restarted(shell, seeded):
    said = shell("runs", "terminate", "order-2")
    assert (said.code, said.err) == (1, "error: run 'order-2' is complete; only a restart moves it\n")
    assert shell("runs", "restart", "order-2").out == "● queued  order-2\n"


@pytest.mark.parametrize(
    ("verb", "words", "moved"),
    [
        ("terminate", [], ["nap-2", "nap-1", "order-1"]),
        ("terminate", ["--workflow", "nap"], ["nap-2", "nap-1"]),
        ("pause", ["--tag", "customer=ada"], ["order-1"]),
        ("resume", [], []),
        ("restart", ["--status", "errored"], ["broken-1"]),
        ("restart", ["-s", "complete,errored", "--prefix", "b"], ["broken-1"]),
    ],
    ids=str,
)
def test_all_that_a_filter_chooses(shell, seeded, verb, words, moved):
    before = statuses(shell)
    said = shell("runs", verb, "--all", "--yes", "--json", *words)
    assert said.code == 0
    assert [done["id"] for done in said.json["done"]] == moved
    after = statuses(shell)
    assert {run_id for run_id in before if before[run_id] != after[run_id]} == set(moved)


def test_many_runs_are_counted_not_listed(shell, url, monkeypatch):
    monkeypatch.setattr(filters, "PAGE", 100)

    async def start(app):
        await app.client.create_many(
            [new_run(app.registry, app.settings, app.world, "nap", (), {"id": f"n{i}"})[1] for i in range(450)]
        )

    ask(url, start)
    said = shell("runs", "terminate", "--all", "--yes")
    assert (said.code, said.out, said.err) == (0, "terminate: 450 runs\n", "")
    assert shell("stats", "--json").json["status"]["terminated"] == 450


def test_a_run_that_ended_meanwhile_is_no_error(shell, seeded, monkeypatch):
    async def every(app, where):
        for run_id in ("order-2", "nap-1"):
            yield await app.run(run_id).get()

    monkeypatch.setattr(actions, "every", every)
    said = shell("runs", "terminate", "--all", "--yes", "--json")
    assert said.code == 0
    assert [done["id"] for done in said.json["done"]] == ["nap-1"]
    assert said.json["failed"] == []


class TestAsking:
    def test_yes(self, shell, seeded):
        said = shell("runs", "terminate", "--all", "--workflow", "nap", typed="y\n")
        assert said.code == 0
        assert "terminate 2 runs? [y/N]: " in said.err + said.out
        assert statuses(shell)["nap-1"] == "terminated"

    @pytest.mark.parametrize("typed", ["n\n", ""])
    def test_no_and_nobody_there(self, shell, seeded, typed):
        said = shell("runs", "terminate", "--all", typed=typed)
        assert said.code == 1
        assert said.err.endswith("nothing was done\n")
        assert statuses(shell)["nap-1"] == "waiting"

    def test_json_cannot_ask(self, shell, seeded):
        said = shell("runs", "terminate", "--all", "--json", typed="y\n")
        assert said.code == 2
        assert "add --yes" in said.json["error"]["message"]
        assert statuses(shell)["nap-1"] == "waiting"

    def test_nothing_to_do_asks_nothing(self, shell, seeded):
        said = shell("runs", "resume", "--all")
        assert (said.code, said.out) == (0, "resume: 0 runs\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pause"], "which runs?"),
        (["pause", "order-1", "--all"], "not both"),
        (["pause", "order-1", "--workflow", "nap"], "only with --all"),
        (["restart", "--all"], "needs --status"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant(shell, seeded, words, message):
    before = statuses(shell)
    said = shell("runs", *words)
    assert said.code == 2
    assert message in said.err
    assert statuses(shell) == before


def test_a_fork_goes_on_from_a_step(shell, seeded):
    said = shell("runs", "fork", "order-2", "--from-step", "charge", "--id", "order-2b")
    assert (said.code, said.out) == (0, "order-2b\n")
    records = shell("runs", "journal", "order-2b", "--json").json["records"]
    assert [record["key"] for record in records] == ["input", "reserve"]
    fresh = shell("runs", "fork", "order-2", "--from-step", "charge", "--json").json
    assert fresh["from"] == "order-2"
    assert fresh["id"] not in {"order-2", "order-2b"}


def test_a_fork_from_nowhere(shell, seeded):
    said = shell("runs", "fork", "order-2", "--from-step", "pack")
    assert said.code == 2
    assert "recorded: reserve, charge, approval, parcel" in said.err
    assert shell("runs", "fork", "nobody", "--from-step", "x").code == 3


def unread(shell, run_id):
    return [(e["type"], e["payload"]) for e in shell("runs", "show", run_id, "--json").json["unread_events"]]


def test_an_event_arrives_once(shell, seeded):
    words = ["runs", "send-event", "nap-1", "paid", "--payload", '{"by": "ada"}', "--id", "e1"]
    assert shell(*words).out == "event paid sent to run nap-1\n"
    assert shell(*words).out == "event e1 was sent to run nap-1 before\n"
    assert shell(*words, "--json").json == {"run": "nap-1", "type": "paid", "is_new": False}
    assert unread(shell, "nap-1") == [("paid", {"by": "ada"})]


def test_a_payload_from_a_file_and_from_standard_input(shell, seeded, tmp_path):
    (tmp_path / "payload.json").write_text("[1]")
    shell("runs", "send-event", "nap-1", "file", "--payload", f"@{tmp_path}/payload.json")
    shell("runs", "send-event", "nap-1", "typed", "--payload", "-", typed="[2]")
    shell("runs", "send-event", "nap-1", "nothing")
    assert unread(shell, "nap-1") == [("file", [1]), ("typed", [2]), ("nothing", None)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nap-1", "x", "--payload", "yes"], 2, "--payload is no JSON"),
        (["nap-1", "x", "--payload", '{"a": 1, "a": 2}'], 2, "--payload is no JSON ('a' is given twice in one object)"),
        (["nap-1", "x", "--payload", "@missing.json"], 2, "missing.json cannot be read"),
        (["nobody", "x"], 3, "no run 'nobody'"),
        (["order-2", "x"], 1, "has ended and takes no event"),
        (["nap-1", ""], 2, "event type ''"),
    ],
    ids=str,
)
def test_events_that_are_not_taken(shell, seeded, words, code, message):
    said = shell("runs", "send-event", *words)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
