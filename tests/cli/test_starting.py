from __future__ import annotations

import pytest

from tests.cli.working import SHOP


def test_a_run_is_started_by_name(shell, url):
    said = shell("start", "letter", "--id", "letter-1")
    assert (said.code, said.out) == (0, "letter-1\n")
    assert said.err == "no worker serves letter now; start one with perdure worker MODULE:APP\n"
    run = shell("runs", "show", "letter-1", "--json").json["run"]
    assert (run["workflow"], run["status"], run["queue"]) == ("letter", "queued", "default")


def test_everything_about_a_run_can_be_said(shell, url):
    words = ["--priority", "5", "--delay", "1h", "-t", "a=1", "-t", "b=x=y", "--queue", "fast", "--input", '{"n": 1}']
    run_id = shell("start", "anything", *words, "--json").json["id"]
    shown = shell("runs", "show", run_id, "--json").json
    run = shown["run"]
    assert (run["priority"], run["tags"], run["queue"]) == (5, {"a": "1", "b": "x=y"}, "fast")
    assert run["due_at"] - run["created_at"] == 3_600_000
    assert shown["input"] == {"n": 1}


def test_a_second_start_finds_the_first(shell, url):
    words = ["start", "letter", "--id", "letter-1"]
    assert shell(*words).out == shell(*words).out == "letter-1\n"
    said = shell(*words, "--input", '{"other": 1}')
    assert said.code == 1
    assert "exists with another workflow or another input" in said.err


def test_the_app_checks_the_input_and_knows_the_queue(shell, url):
    said = shell("start", "nap", "--app", SHOP, "--input", '{"secs": 5}')
    assert said.code == 2
    assert "missing a required argument: 'seconds'" in said.err
    assert shell("start", "nap", "--app", SHOP, "--input", '{"seconds": "x"}').code == 2
    run_id = shell("start", "letter", "--app", SHOP).out.strip()
    assert shell("runs", "show", run_id, "--json").json["run"]["queue"] == "mail"


@pytest.mark.parametrize("given", ["[1]", "5", "{", "@missing.json"])
def test_an_input_that_is_none(shell, url, given):
    said = shell("start", "nap", "--input", given)
    assert said.code == 2
    assert said.err.startswith("error: --input")


class TestWhatWorkersHaveAnnounced:
    def test_the_queue_is_taken_from_there(self, shell, seeded):
        run_id = shell("start", "letter", "--json").json["id"]
        assert shell("runs", "show", run_id, "--json").json["run"]["queue"] == "mail"

    def test_a_name_that_nobody_announced_is_a_mistake(self, shell, seeded):
        said = shell("start", "ordre")
        assert (said.code, said.out) == (2, "")
        assert "did you mean 'order'? (--anyway starts it)" in said.err
        assert "known: broken, held, letter" in shell("start", "xyzzy").err

    def test_unless_it_is_meant(self, shell, seeded):
        assert shell("start", "ordre", "--anyway").code == 0

    def test_a_worker_that_is_there_is_not_asked_for(self, shell, url, at_work):
        at_work.stats()
        assert shell("start", "letter").err == ""


class TestWaiting:
    def test_the_result(self, shell, at_work):
        at_work.stats()
        said = shell("start", "parcel", "--input", '{"number": 7}', "--wait", "--timeout", "30s")
        assert (said.code, said.out) == (0, '"parcel-7"\n')

    def test_the_result_as_json(self, shell, at_work):
        at_work.stats()
        said = shell("start", "parcel", "--input", '{"number": 7}', "--wait", "--json", "--id", "p")
        assert said.json == {"id": "p", "status": "complete", "output": "parcel-7", "error": None}

    def test_a_failure(self, shell, at_work):
        at_work.stats()
        said = shell("start", "broken", "--id", "b", "--wait")
        assert (said.code, said.out) == (1, "● errored  b  NonRetryableError: no such card\n")
        said = shell("start", "broken", "--id", "b", "--wait", "--json")
        assert said.code == 1
        assert said.json["error"] == "NonRetryableError: no such card"

    def test_a_run_that_was_ended(self, shell, url):
        shell("start", "nap", "--id", "n")
        shell("runs", "terminate", "n")
        said = shell("start", "nap", "--id", "n", "--wait")
        assert (said.code, said.out) == (1, "● terminated  n  \n")

    def test_too_long(self, shell, url):
        said = shell("start", "nap", "--id", "n", "--wait", "--timeout", "50ms")
        assert said.code == 1
        assert "error: run 'n' has not ended within 0.05 s; it goes on\n" in said.err
