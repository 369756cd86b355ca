"""The commands that the README tells people to type exist, and `make` knows how to go about them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
MAKEFILE = ROOT / "Makefile"
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE))


def shell_lines(text: str) -> list[str]:
    """The lines of the sh, bash and console blocks of a page, without prompts and comments."""
    blocks = re.findall(r"^ *```(?:sh|bash|shell|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = (line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pages() -> list[Path]:
    return [
        page for page in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()
    ]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # A test run started by `make` must not pass its own flags on.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_shows_its_two_commands(command):
    assert README.exists(), "README.md is missing"
    lines = [
        part.strip()
        for line in shell_lines(README.read_text(encoding="utf-8"))
        for part in line.partition("#")[0].split("&&")
    ]
    assert command in lines, f"README.md has no sh block with the line `{command}`"


@needs_make
@pytest.mark.parametrize("target", sorted({"demo", "test", "check", "bench", "bench-peers", "lock", "clean", "help"}))
def test_a_target_is_there(target):
    assert target in TARGETS
    planned = make("-n", target)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.strip()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_make_command_on_a_page_has_a_target(page):
    said = {
        word
        for line in shell_lines(page.read_text(encoding="utf-8"))
        for command in re.findall(r"\bmake ([^#;&|]*)", line)
        for word in re.sub(r"\w+=(\"[^\"]*\"|\S*)", "", command).split()
        if re.fullmatch(r"[a-z][a-z-]*", word)
    }
    assert said - TARGETS == set()


@needs_make
def test_help_lists_every_target_for_people():
    listed = make("help").stdout
    for target in TARGETS - {"help"}:
        assert f"make {target}" in listed
