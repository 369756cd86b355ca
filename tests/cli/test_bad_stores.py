"""A store that cannot be used: one line on standard error, the exit code that says so, no traceback, no password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from perdure import store
from tests.cli.conftest import ask
from tests.cli.refusing import COMMANDS, ELSEWHERE, QUOTED, SECRET, Bad, check
from tests.cli.test_command_line import OWN


def no_package(name: str) -> Callable[[Path, pytest.MonkeyPatch], str]:
    def make(folder, monkeypatch):
        monkeypatch.setattr(store, "find_spec", lambda package: None)
        return f"{name}://ada:{QUOTED}@localhost/0"

    return make


def always(url: str) -> Callable[[Path, pytest.MonkeyPatch], str]:
    return lambda folder, monkeypatch: url.format(folder=folder)


URLS = {
    "another scheme": Bad(2, "UsageError", "is no store", always(f"mysql://ada:{QUOTED}@localhost/orders")),
    "no slashes": Bad(2, "UsageError", "is no store", always(f"postgresql:ada:{SECRET}@localhost/orders")),
    "a scheme with a mistake": Bad(2, "UsageError", "is no store", always(f"postgresq://ada:{SECRET}@localhost")),
    "a path": Bad(2, "UsageError", "'orders.db' is no store", always("orders.db")),
    "two slashes": Bad(2, "UsageError", "lacks a slash", always("sqlite://orders.db")),
    "no file": Bad(2, "UsageError", "names no file", always("sqlite:///")),
    "an option of SQLite": Bad(
        2, "UsageError", "sqlite has no option sync", always("sqlite:///{folder}/a.db?sync=off")
    ),
    "an option's value": Bad(2, "UsageError", "must be one of", always("sqlite:///{folder}/a.db?synchronous=no")),
    "an option of memory": Bad(2, "UsageError", "takes no options", always("memory://?a=1")),
    "an option without a value": Bad(2, "UsageError", "name=value", always("sqlite:///{folder}/a.db?synchronous")),
    "half an address": Bad(2, "UsageError", "cannot be read", always(f"postgresql://ada:{QUOTED}@[::1/orders")),
    "an option of PostgreSQL": Bad(2, "UsageError", "sizes", always(f"postgresql://a:{QUOTED}@localhost/a?sizes=2")),
    "an option of Redis": Bad(2, "UsageError", "sizes", always(f"redis://:{QUOTED}@localhost?sizes=2")),
    "no asyncpg": Bad(2, "UsageError", "pip install 'perdure[postgres]'", no_package("postgresql")),
    "no redis": Bad(2, "UsageError", "pip install 'perdure[redis]'", no_package("valkey")),
}


def sqlite_newer(folder, monkeypatch):
    url = f"sqlite:///{folder}/newer.db"
    ask(url, lambda app: app.stats())  # which makes it
    connection = apsw.Connection(str(folder / "newer.db"))
    connection.pragma("user_version", 999)
    connection.close()
    return url


def sqlite_of_another_program(folder, monkeypatch):
    connection = apsw.Connection(str(folder / "other.db"))
    connection.execute("CREATE TABLE customers (id)")
    connection.close()
    return f"sqlite:///{folder}/other.db"


def sqlite_damaged(folder, monkeypatch):
    (folder / "damaged.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 8192)
    return f"sqlite:///{folder}/damaged.db"


def sqlite_text(folder, monkeypatch):
    (folder / "text.db").write_text("no database, but prose\n" * 100)
    return f"sqlite:///{folder}/text.db"


def sqlite_folder(folder, monkeypatch):
    return f"sqlite:///{folder}"


FILES = {
    "a newer file": Bad(4, "SchemaTooNewError", "upgrade this program", sqlite_newer),
    "a file of another program": Bad(4, "StoreCorruptError", "other.db", sqlite_of_another_program),
    "a damaged file": Bad(4, "StoreCorruptError", "damaged.db", sqlite_damaged),
    "a file of text": Bad(4, "StoreCorruptError", "is no SQLite file", sqlite_text),
    "a folder": Bad(4, "StoreUnavailableError", "is a folder", sqlite_folder),
}


def test_every_command_is_tried():
    assert {" ".join(words) for words in OWN} - ELSEWHERE == set(COMMANDS)


@pytest.mark.usefixtures("_quiet_logs")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", ["another scheme", "no asyncpg", "a newer file"])
def test_every_command_says_it(shell, tmp_path, monkeypatch, command, case):
    bad = {**URLS, **FILES}[case]
    url = bad.make(tmp_path, monkeypatch)
    check(shell(*command.split(), *COMMANDS[command], PERDURE_STORE=url), bad)


@pytest.mark.usefixtures("_quiet_logs")
@pytest.mark.parametrize("command", ["stats", "worker"])
@pytest.mark.parametrize("case", URLS | FILES)
class TestOneLine:
    def test_for_people(self, shell, tmp_path, monkeypatch, command, case):
        bad = {**URLS, **FILES}[case]
        url = bad.make(tmp_path, monkeypatch)
        check(shell(command, *COMMANDS[command], "--store", url), bad)

    def test_as_json(self, shell, tmp_path, monkeypatch, command, case):
        bad = {**URLS, **FILES}[case]
        url = bad.make(tmp_path, monkeypatch)
        said = shell(command, *COMMANDS[command], "--store", url, "--json")
        assert said.code == bad.code
        assert said.json["error"]["type"] == bad.kind
        assert QUOTED not in said.out
        assert SECRET not in said.out


@pytest.mark.usefixtures("_quiet_logs")
def test_debug_shows_where(shell, tmp_path, monkeypatch):
    url = sqlite_text(tmp_path, monkeypatch)
    assert "Traceback (most recent call last)" in shell("stats", "--store", url, "--debug").err
