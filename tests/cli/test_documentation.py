"""docs/cli.md: what it tells people to type can be typed, and nothing that can be typed is missing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from perdure.cli.main import app as command_line

PAGE = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_there_are_examples():
    assert len(LINES) > 20


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_an_example_can_be_typed(shell, words):
    assert words[0] == "perdure"
    said = shell(*words[1:], "--help")  # which is only shown once everything before it was understood
    assert said.code == 0, said.err


def test_an_unknown_option_would_be_noticed(shell):
    assert shell("runs", "list", "--colour", "red", "--help").code == 2


def options(node, typed="perdure"):
    for parameter in node.params:
        for option in parameter.opts:
            if option.startswith("--"):
                yield f"{typed} {option}"
    for name, child in getattr(node, "commands", {}).items():
        if name != "demo":
            yield from options(child, f"{typed} {name}")


@pytest.mark.parametrize("option", sorted(options(typer.main.get_command(command_line))))
def test_every_option_is_documented(option):
    name = option.rpartition(" ")[2]
    if name in {"--help", "--show-completion"}:
        return
    assert re.search(rf"{name}\b", PAGE)
