"""The command line on stores that are no files."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.cli.conftest import EVERY
from tests.cli.working import SHOP
from tests.servers import PostgresServer, ValkeyServer, label, postgres, valkey
from tests.serving.postgres import PASSWORD

SERVERS = [*EVERY[1:], "cluster", "sentinel"]


def level(said, name):
    return [check["level"] for check in said.json["checks"] if check["name"] == name]


@pytest.mark.parametrize("url", SERVERS, indirect=True)
class TestCommands:
    def test_one_after_the_other(self, shell):
        assert shell("start", "letter", "--app", SHOP, "--id", "l").code == 0
        assert shell("start", "nap", "--input", '{"seconds": 5}', "--id", "n", "--tag", "a=1").code == 0
        assert [run["id"] for run in shell("runs", "list", "--json").json["runs"]] == ["n", "l"]
        assert [run["id"] for run in shell("runs", "list", "--tag", "a=1", "--json").json["runs"]] == ["n"]
        assert shell("runs", "show", "n", "--json").json["run"]["status"] == "queued"
        assert shell("runs", "send-event", "n", "approved").code == 0
        assert shell("runs", "pause", "n").code == 0
        assert shell("runs", "resume", "n").code == 0
        assert shell("runs", "terminate", "n", "--yes").code == 0
        assert shell("runs", "restart", "n").code == 0
        assert "no worker has ever announced" in shell("runs", "explain", "n").out
        assert len(shell("runs", "journal", "l", "--json").json["records"]) == 1
        assert shell("stats", "--json").json["status"]["queued"] == 2
        said = shell("runs", "show", "missing")
        assert (said.code, said.err.count("\n")) == (3, 1)

    def test_the_doctor(self, shell):
        said = shell("doctor", "--json")
        assert said.code == 0, said
        assert level(said, "writing") == ["ok"]
        assert level(said, "clock") == ["ok"]
        assert not level(said, "disk")
        assert shell("runs", "list", "--json").json["runs"] == []

    def test_a_new_store_needs_no_worker_first(self, shell):
        assert shell("stats").code == 0


def test_a_loss_that_was_agreed_to_is_warned_of(shell):
    with ValkeyServer(maxmemory="500mb", maxmemory_policy="allkeys-lru") as server:
        said = shell("doctor", "--json", "--store", server.url(evicting="allow"))
    assert said.code == 0
    assert level(said, "setup") == ["warning"]
    assert "set maxmemory-policy noeviction" in said.out


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"], ["stats"], ["runs", "list"]], ids=" ".join)
def test_no_password_is_shown(shell, tmp_path, words):
    name = label(tmp_path)
    for url in (postgres().url(schema=name), valkey(requirepass=PASSWORD).url(prefix=name)):
        assert quote(PASSWORD, safe="") in url
        said = shell(*words, "--store", url)
        assert said.code == 0, said
        assert PASSWORD not in said.out + said.err
        assert quote(PASSWORD, safe="") not in said.out + said.err


def test_a_server_that_keeps_its_promises_is_not_warned_of(shell):
    with PostgresServer() as server:
        said = shell("doctor", "--json", "--store", server.url())
    assert (said.code, said.json["warnings"]) == (0, 0)
    (durability,) = [check["said"] for check in said.json["checks"] if check["name"] == "durability"]
    assert durability.startswith("D2 local")


def test_valkey_without_a_log(shell):
    with ValkeyServer(appendonly="no") as server:
        said = shell("doctor", "--json", "--store", server.url())
    assert said.code == 0
    assert level(said, "setup") == ["warning"]
    assert "set appendonly yes" in said.out
