from __future__ import annotations

import asyncio

import pytest

from perdure import NonRetryableError, Perdure, Rate, RunStatus
from tests.cli.conftest import ask


def make_app(url: str) -> Perdure:
    app = Perdure(url, queues=("pdf", "mail"))
    app.limit("pdf", concurrency=20, per_key=2, rate=Rate.of(100, per="1m"), fair=True)

    @app.task(queue="pdf")
    async def render(n: int) -> int:
        raise NonRetryableError(f"no page {n}")

    @app.task(queue="mail")
    async def send() -> None: ...

    return app


@pytest.fixture
def failed(url: str) -> list[str]:
    """The ids of three failed runs of queue `pdf`, first created first, beside one of `mail` that is due in an hour."""

    async def seed() -> list[str]:
        async with make_app(url) as app:
            render = app.registry.workflows["render"]
            runs = [await app.start(render, n, id=f"page-{n}") for n in range(3)]
            for run in runs:
                while (await run.get()).status is not RunStatus.ERRORED:
                    await asyncio.sleep(0.005)
            await app.start("send", delay="1h")
        return [run.id for run in runs]

    return asyncio.run(seed())


def test_queues_are_listed_with_what_they_bound(shell, failed):
    said = shell("queues", "list", columns=120)
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "queue due later leased oldest due limits" in lines
    assert "mail 0 1 0 – none" in lines
    assert "pdf 0 0 0 – 20 at once, 2 per key, 100 per 1 min, fair" in lines


def test_queues_are_listed_as_json(shell, failed):
    mail, pdf = shell("queues", "list", "--json").json["queues"]
    assert (mail["queue"], mail["later"], mail["limits"]["concurrency"]) == ("mail", 1, None)
    assert pdf["limits"] == {
        "concurrency": 20, "per_key": 2, "rate": {"count": 100, "period_ms": 60_000}, "is_fair": True,
    }  # fmt: skip


def test_a_store_without_queues_has_none_to_list(shell, url):
    shell("start", "letter", "--id", "x")
    shell("runs", "terminate", "x")
    said = shell("queues", "list")
    assert (said.code, said.out.strip()) == (0, "")
    assert "no queues" in said.err


def test_limits_are_told_whole_on_a_narrow_terminal(shell, failed):
    said = shell("queues", "list", columns=60).out
    assert "…" not in said
    assert "fair" in said


@pytest.mark.parametrize("words", [("pause", "pfd"), ("limit", "pfd", "--fair")])
def test_a_queue_that_is_not_known_is_said_to_be_new(shell, failed, words):
    said = shell("queues", *words)
    assert said.code == 0
    assert "no run is in queue pfd, and nothing was set for it before: is that its name?" in said.err
    assert shell("queues", *words).err == ""
    assert shell("queues", words[0], "pdf", *words[2:]).err == ""


def test_a_queue_is_paused_and_resumed(shell, failed):
    assert "queue pdf is paused" in shell("queues", "pause", "pdf").out
    assert shell("queues", "list", "--json").json["queues"][1]["is_paused"]
    assert "paused" in shell("queues", "list", columns=120).out
    assert shell("queues", "resume", "pdf", "--json").json["is_paused"] is False


def test_a_queue_is_limited(shell, failed):
    said = shell("queues", "limit", "mail", "--concurrency", "4", "--per-key", "1", "--rate", "5/2s", "--fair")
    assert "limits: 4 at once, 1 per key, 5 per 2 s, fair" in said.out
    assert "limits: 3 at once" in shell("queues", "limit", "mail", "--concurrency", "3").out
    assert "limits: none" in shell("queues", "limit", "mail", "--none").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which limits?"),
        (["--none", "--fair"], "which limits?"),
        (["--rate", "often"], "--rate: 'often' must be a number per duration, as in 100/1m"),
        (["--rate", "x/1m"], "--rate: 'x/1m' must be"),
        (["--rate", "0/1m"], "rate: 0 must be"),
        (["--concurrency", "0"], "concurrency: 0 must be a whole number"),
    ],
)
def test_limits_that_make_no_sense_are_refused(shell, failed, words, said):
    answer = shell("queues", "limit", "mail", *words)
    assert answer.code == 2
    assert said in answer.err


def test_what_failed_is_listed(shell, failed):
    said = shell("queues", "dead", "pdf", "--limit", "2", columns=120)
    assert "no page 2" in said.out
    assert "there are more: --cursor" in said.err
    page = shell("queues", "dead", "pdf", "--limit", "2", "--json").json
    assert [run["id"] for run in page["runs"]] == ["page-2", "page-1"]
    rest = shell("queues", "dead", "pdf", "--cursor", page["cursor"], "--json").json
    assert [run["id"] for run in rest["runs"]] == ["page-0"]
    assert "nothing failed in queue mail" in shell("queues", "dead", "mail").err


def status(url: str, run_id: str) -> str:
    async def found(app: Perdure) -> str:
        run = (await app.store.get([run_id]))[0]
        assert run is not None
        return str(run.status)

    return ask(url, found)


def test_what_failed_is_tried_again(shell, url, failed):
    assert "retry: 3 runs, were it not for --dry-run" in shell("queues", "retry", "pdf", "--all", "--dry-run").out
    assert "retry: 1 run" in shell("queues", "retry", "pdf", "page-1").out
    assert status(url, "page-1") == "queued"
    asked = shell("queues", "retry", "pdf", "--all", typed="n\n")
    assert asked.code == 1
    assert "retry 2 runs?" in asked.err
    assert "nothing was done" in asked.err
    assert shell("queues", "retry", "pdf", "--all", typed="").code == 1
    assert "retry: 2 runs" in shell("queues", "retry", "pdf", "--all", typed="y\n").out
    assert status(url, "page-0") == "queued"


def test_what_failed_is_discarded(shell, url, failed):
    said = shell("queues", "discard", "pdf", "--all", "--yes", "--limit", "2", "--json").json
    assert said == {"queue": "pdf", "verb": "discard", "runs": 2, "is_dry": False}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which runs? give ids, or --all alone"),
        (["page-1", "--all"], "which runs?"),
        (["nope"], "'nope' is no failed run of queue 'pdf': it is not there"),
        (["--all", "--json"], "--json cannot ask whether to discard 3 runs; add --yes"),
    ],
)
def test_what_cannot_be_moved_is_told(shell, failed, words, said):
    answer = shell("queues", "discard", "pdf", *words)
    assert answer.code == 2
    assert said in answer.err or said in answer.out


def test_a_rate_that_is_none_is_all_that_is_told(shell, failed):
    said = shell("queues", "limit", "pfd", "--rate", "1/0s")
    assert (said.code, said.err) == (2, "error: rate per: '0s' must be at least a millisecond\n")
