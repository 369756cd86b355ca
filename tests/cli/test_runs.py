"""Looking at runs: list, show, journal, explain."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure, RunStatus, flow
from perdure.testing import export_journal, replay_journal
from tests.cli import shop
from tests.cli.conftest import ask, until
from tests.cli.working import SHOP


def ids(said) -> list[str]:
    assert said.code == 0, said.err
    return [run["id"] for run in said.json["runs"]]


def test_runs_are_listed_latest_first(shell, seeded):
    lines = shell("runs", "list", columns=100).out.splitlines()
    assert lines[0].split() == ["run", "workflow", "status", "created", "took"]
    assert [line.split()[0] for line in lines[1:]] == [
        "nap-2", "nap-1", "broken-1", "order-2/parcel", "order-2", "order-1",
    ]  # fmt: skip


def test_a_list_says_what_is_the_matter(shell, seeded):
    lines = {line.split()[0]: line for line in shell("runs", "list").out.splitlines()}
    assert "● errored" in lines["broken-1"]
    assert lines["broken-1"].rstrip().endswith("NonRetryableError: no such card")
    assert "approval: an event 'approved', gives up in 1 d 23 h" in lines["order-1"]
    assert "nap: a timer, in 23 h" in lines["nap-1"]
    assert "starts in 59 min" in lines["nap-2"]


def test_ids_are_whole_however_narrow_the_terminal_is(shell, url):
    run_id = shell("start", "held").out.strip()
    assert run_id in shell("runs", "list", columns=45).out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--status", "errored"], ["broken-1"]),
        (["-s", "errored,complete"], ["broken-1", "order-2/parcel", "order-2"]),
        (["-s", "errored", "-s", "queued"], ["nap-2", "broken-1"]),
        (["--workflow", "nap"], ["nap-2", "nap-1"]),
        (["--queue", "mail"], []),
        (["--tag", "customer=ada"], ["order-2", "order-1"]),
        (["--tag", "customer=bob"], []),
        (["--prefix", "order-2"], ["order-2/parcel", "order-2"]),
        (["--parent", "order-2"], ["order-2/parcel"]),
        (["--since", "1h", "--workflow", "broken"], ["broken-1"]),
        (["--since", "0s"], []),
        (["--limit", "2"], ["nap-2", "nap-1"]),
    ],
    ids=" ".join,
)
def test_filters(shell, seeded, words, found):
    assert ids(shell("runs", "list", "--json", *words)) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--status", "done"], "'done' is none of queued, running"),
        (["--tag", "ada"], "write it as name=value"),
        (["--since", "yesterday"], "'yesterday' is no duration"),
        (["--cursor", "x"], "cursor: 'x' is none"),
    ],
    ids=" ".join,
)
def test_filters_that_say_nothing(shell, seeded, words, message):
    said = shell("runs", "list", *words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_pages_follow_each_other(shell, seeded):
    seen, words = [], []
    for _ in range(3):
        page = shell("runs", "list", "--json", "--limit", "2", *words)
        seen += ids(page)
        words = ["--cursor", str(page.json["cursor"])]
    assert seen == ["nap-2", "nap-1", "broken-1", "order-2/parcel", "order-2", "order-1"]
    assert page.json["cursor"] is None
    told = shell("runs", "list", "--limit", "2").err
    assert told.startswith("\n") or "there are more: --cursor " in told


def test_no_runs(shell, seeded):
    said = shell("runs", "list", "--queue", "mail")
    assert (said.code, said.out, said.err) == (0, "", "no runs like that\n")


def test_a_run_that_waits(shell, seeded):
    shell("runs", "send-event", "order-1", "surprise", "--payload", "[1]")
    said = shell("runs", "show", "order-1", columns=100)
    assert said.code == 0
    assert said.out.startswith("● waiting  order  order-1\n")
    for part in (
        "customer=ada",
        "in 1 d 23 h",
        '{"order": {"number": 1}}',
        '{"stage": "charging"}',
        "approval: an event 'approved'",
        "surprise  [1]",
    ):
        assert part in said.out


def test_a_run_that_is_complete(shell, seeded):
    said = shell("runs", "show", "order-2", columns=100)
    assert '{"payment": "payment-2", "parcel": "parcel-2", "by": "grace"}' in said.out
    assert "order-2/parcel  parcel  ● complete" in said.out
    assert "kept until" in said.out
    assert "waits for" not in said.out


def test_a_run_that_failed(shell, seeded):
    said = shell("runs", "show", "broken-1")
    assert "NonRetryableError: no such card" in said.out
    assert "in refuse" in said.out


def test_a_run_as_json(shell, seeded):
    shown = shell("runs", "show", "order-2", "--json").json
    assert shown["run"]["status"] == "complete"
    assert shown["run"]["output"] == {"payment": "payment-2", "parcel": "parcel-2", "by": "grace"}
    assert shown["run"]["error"] is None
    assert shown["input"] == {"order": {"number": 2}}
    assert shown["children"] == [{"id": "order-2/parcel", "workflow": "parcel", "status": "complete"}]
    failed = shell("runs", "show", "broken-1", "--json").json["run"]
    assert failed["output"] is None
    assert failed["error"]["message"] == "no such card"
    assert shell("runs", "show", "nap-1", "--json").json["run"]["wait"]["waits"][0]["kind"] == "timer"


def test_a_journal_is_a_timeline(shell, seeded):
    said = shell("runs", "journal", "order-2")
    rows = [line.split() for line in said.out.splitlines()[3:]]
    assert [row[0] for row in rows] == [str(n) for n in range(len(rows))]
    assert "▸  input" in said.out
    assert "reserve" in said.out
    assert "charge (1)" in said.out
    assert "charge (2)" in said.out
    assert "again after 1 ms" in said.out
    assert '"payment-2"' in said.out
    assert "child run order-2/parcel" in said.out
    assert "✓  output" in said.out


def test_what_was_stored_is_neither_markup_nor_a_command_to_the_terminal(shell, seeded):
    said = shell("runs", "journal", "order-2")
    assert "ConnectionError: the [red]bank[/red] does not [2J answer" in said.out
    assert "\x1b" not in said.out


def test_steps_inside_steps_stand_below_them(shell, url):
    async def work() -> None:
        app = Perdure(url)

        @app.step
        async def inner() -> int:
            return 1

        @app.step
        async def outer() -> int:
            return await inner() + await inner()

        @app.workflow
        async def nests() -> int:
            return await outer()

        async with app:
            await (await app.start(nests, id="nest")).result()

    asyncio.run(work())
    out = shell("runs", "journal", "nest").out
    assert "✓    inner " in out
    assert "✓    inner#2" in out
    assert "✓  outer" in out


def test_a_journal_as_json(shell, seeded):
    document = shell("runs", "journal", "order-2", "--json").json
    assert (document["run"], document["status"]) == ("order-2", "complete")
    assert document["records"][1]["key"] == "reserve"
    assert document["records"][1]["payload"] == {"reserved": 2}


def test_an_export_can_be_replayed(shell, seeded, tmp_path):
    file = tmp_path / "order.json"
    said = shell("runs", "journal", "order-2", "--export", str(file))
    assert said.out == f"8 records of run order-2 written to {file}\n"
    assert file.read_bytes() == ask(seeded, lambda app: export_journal(app.run("order-2")))
    report = replay_journal(file, shop.make_app("memory://"))
    assert report.is_clean, report


def test_an_export_says_what_it_wrote_and_what_it_could_not(shell, seeded, tmp_path):
    file = tmp_path / "order.json"
    said = shell("runs", "journal", "order-1", "--export", str(file), "--json")
    assert said.json == {"run": "order-1", "records": 4, "file": str(file)}
    said = shell("runs", "journal", "order-1", "--export", str(tmp_path / "no" / "order.json"))
    assert said.code == 2
    assert "cannot be written: No such file or directory" in said.err


def test_an_explanation(shell, seeded):
    said = shell("runs", "explain", "order-1")
    assert said.out.splitlines()[0] == "● waiting  order  order-1"
    assert said.out.splitlines()[1].startswith("  – 'approval' waits for an event of type 'approved' until ")
    document = shell("runs", "explain", "order-1", "--json").json
    assert document["status"] == "waiting"
    assert len(document["reasons"]) == 1


@pytest.mark.parametrize("verb", ["show", "journal", "explain"])
def test_a_run_that_is_not_there(shell, seeded, verb):
    said = shell("runs", verb, "nobody")
    assert (said.code, said.out) == (3, "")
    assert said.err == "error: no run 'nobody': it was never started, or retention has removed it\n"


def test_a_store_that_is_not_there_is_not_made(shell, tmp_path):
    said = shell("runs", "list", "--store", f"sqlite:///{tmp_path}/typo.db")
    assert said.code == 4
    assert said.err == f"error: there is no store at {tmp_path}/typo.db: no worker has made it yet\n"
    assert not (tmp_path / "typo.db").exists()


def test_a_file_that_is_no_store(shell, tmp_path):
    (tmp_path / "notes.db").write_text("dear diary, " * 100)
    said = shell("runs", "list", "--store", f"sqlite:///{tmp_path}/notes.db", "--json")
    assert said.code == 4
    assert said.json["error"]["type"] == "StoreCorruptError"


class TestWhichStore:
    def test_the_option_goes_before_the_variable(self, shell, seeded, tmp_path):
        assert shell("runs", "list", "--store", seeded, PERDURE_STORE=f"sqlite:///{tmp_path}/no.db").code == 0

    def test_the_variable_goes_before_the_app(self, shell, seeded):
        assert "order-1" in ids(shell("runs", "list", "--json", "--app", SHOP))

    def test_the_app_has_one_too(self, shell):
        said = shell("runs", "list", "--json", "--app", SHOP, PERDURE_STORE=None)
        assert ids(said) == []

    def test_the_default_is_the_file_that_perdure_makes(self, shell, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        said = shell("runs", "list", PERDURE_STORE=None)
        assert said.code == 2
        assert said.err == "error: which store? give --store URL or --app module:app, or set PERDURE_STORE\n"
        ask("sqlite:///perdure.db", lambda app: app.stats())
        assert shell("runs", "list", PERDURE_STORE=None).code == 0


def test_a_parked_run_says_why(shell, url):
    async def park() -> None:
        for step in ("first", "second"):
            app = Perdure(url)

            @app.workflow
            async def shift(step: str = step) -> None:
                await flow.do(step, lambda: 1)
                await flow.wait_for_event("go", type="go", timeout=None)

            async with app:
                if step == "first":
                    await app.start(shift, id="shift-1")
                    await until(app, "shift-1", RunStatus.WAITING)
                else:
                    await app.run("shift-1").send_event("go")
                    await until(app, "shift-1", RunStatus.PAUSED)

    asyncio.run(park())
    assert "parked: " in shell("runs", "list").out
    assert "parked: " in shell("runs", "show", "shift-1").out
    assert "it is parked: " in shell("runs", "explain", "shift-1").out
    said = shell("doctor")
    assert said.code == 1
    assert "1 run: shift-1" in said.out


def test_an_app_of_the_tests_is_an_app():
    assert set(shop.app.registry.workflows) >= {"order", "parcel", "broken", "nap", "letter", "held"}
