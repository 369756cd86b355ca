"""What all commands share: help, versions, mistakes, exit codes, and that the library does not pay for them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from perdure.cli.command import Group, command, exit_code
from perdure.cli.main import app as command_line
from perdure.cli.session import Session
from perdure.model.errors import (
    InboxFullError,
    RunExistsError,
    RunFinishedError,
    RunNotFoundError,
    SchemaTooNewError,
    StoreLockedError,
    UnknownWorkflowError,
    UsageError,
)


def every_command() -> list[list[str]]:
    def walk(node, typed):
        children = getattr(node, "commands", None)
        if not children:
            yield typed
            return
        for name, child in children.items():
            yield from walk(child, [*typed, name])

    return list(walk(typer.main.get_command(command_line), []))


OWN = [words for words in every_command() if words != ["demo"]]


def test_there_are_these_commands():
    assert sorted(" ".join(words) for words in OWN) == [
        "audit list",
        "audit verify",
        "definitions list",
        "definitions publish",
        "definitions schema",
        "definitions show",
        "definitions validate",
        "dev",
        "doctor",
        "endpoints add",
        "endpoints keys",
        "endpoints list",
        "endpoints remove",
        "events emit",
        "keys create",
        "keys list",
        "keys revoke",
        "keys rotate",
        "migrate",
        "queues dead",
        "queues discard",
        "queues limit",
        "queues list",
        "queues pause",
        "queues resume",
        "queues retry",
        "reencrypt",
        "runs explain",
        "runs fork",
        "runs journal",
        "runs list",
        "runs pause",
        "runs restart",
        "runs resume",
        "runs send-event",
        "runs show",
        "runs terminate",
        "schedules backfill",
        "schedules delete",
        "schedules list",
        "schedules pause",
        "schedules resume",
        "schedules show",
        "schedules trigger",
        "server",
        "start",
        "stats",
        "undos done",
        "undos list",
        "undos retry",
        "worker",
        "workers",
    ]


@pytest.mark.parametrize("words", OWN, ids=" ".join)
def test_help_has_examples_that_begin_with_the_command(shell, words):
    said = shell(*words, "--help", columns=200)
    assert said.code == 0
    examples = said.out.partition("Examples\n")[2] or said.out.partition("Examples")[2]
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    assert all(line.startswith("perdure " + " ".join(words)) for line in lines), lines


@pytest.mark.parametrize("words", OWN, ids=" ".join)
def test_every_command_speaks_json_and_shows_tracebacks(shell, words):
    said = shell(*words, "--help", columns=200)
    assert "--json" in said.out
    assert "--debug" in said.out


def test_nothing_typed_shows_what_there_is(shell):
    assert shell().code == 0
    assert "doctor" in shell().out
    assert "send-event" in shell("runs").out


def test_the_help_lists_commands_in_the_order_of_their_use(shell):
    names = re.findall(r"^│ (\w+) ", shell("--help", columns=100).out, re.MULTILINE)
    assert names[:5] == ["dev", "worker", "server", "start", "runs"]
    assert names[-5:] == ["stats", "doctor", "migrate", "reencrypt", "demo"]


def test_the_version(shell):
    said = shell("--version")
    assert (said.code, said.out) == (0, f"perdure {version('perdure')}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bogus"], "No such command 'bogus'; see perdure --help"),
        (["runs", "lst"], "see perdure runs --help"),
        (["runs", "list", "--foo"], "--foo; see perdure runs list --help"),
        (["runs", "list", "--limit", "0"], "see perdure runs list --help"),
        (["runs", "show"], "Missing argument 'RUN'; see perdure runs show --help"),
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_command_line_is_one_line(shell, words, message):
    said = shell(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_mistake_is_json_where_json_was_asked_for(shell):
    said = shell("runs", "list", "--foo", "--json")
    assert said.code == 2
    assert said.json["error"]["type"] == "UsageError"
    assert "--foo" in said.json["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunNotFoundError(), 3),
        (StoreLockedError(), 4),
        (SchemaTooNewError(), 4),
        (UsageError(), 2),
        (UnknownWorkflowError(), 2),
        (InboxFullError(), 1),
        (RunFinishedError(), 1),
        (RunExistsError(), 1),
        (KeyError(), 1),
    ],
    ids=repr,
)
def test_exit_codes(error, code):
    assert exit_code(error) == code


@pytest.fixture
def failing():
    group = typer.Typer(cls=Group)

    async def fails(session: Session, *, how: str = "boom") -> None:
        if how == "interrupt":
            raise KeyboardInterrupt
        raise KeyError(how)

    async def works(session: Session) -> int:
        return 7

    command(group, "fails")(fails)
    command(group, "works")(works)
    return lambda *words: CliRunner().invoke(group, list(words))


def test_an_unexpected_error_is_one_line_that_says_where(failing):
    said = failing("fails")
    assert said.exit_code == 1
    assert re.fullmatch(
        r"error: unexpected KeyError: 'boom' \(test_command_line.py:\d+\); --debug shows the traceback\n", said.stderr
    )


def test_debug_shows_the_traceback(failing):
    assert "Traceback (most recent call last)" in failing("fails", "--debug").stderr


def test_an_interrupted_command_says_nothing(failing):
    said = failing("fails", "--how", "interrupt")
    assert (said.exit_code, said.output) == (130, "")


def test_what_a_command_returns_is_its_exit_code(failing):
    assert failing("works").exit_code == 7


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=50)


def test_the_library_does_not_import_the_command_line():
    heavy = {"rich", "typer", "structlog", "perdure.cli"}
    said = run_python("-c", f"import sys, perdure; print({heavy!r} & set(sys.modules))")
    assert said.stdout == "set()\n", said.stderr


def test_it_runs_as_a_module():
    said = run_python("-m", "perdure.cli", "runs", "list", "--store", "nonsense", "--json")
    assert said.returncode == 2
    assert json.loads(said.stdout)["error"]["type"] == "UsageError"
    assert said.stderr.startswith("error: store: 'nonsense' is no store; give one of memory://, sqlite:///file.db, ")
    assert said.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(seeded):
    whole = subprocess.run(
        f"{sys.executable} -m perdure.cli runs list --json --store '{seeded}' | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (whole.stdout, whole.stderr) == ("{", "")
