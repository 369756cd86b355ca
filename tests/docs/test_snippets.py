"""Every Python block of the documentation runs, or is at least Python.

A block runs in a folder and a process of its own. On the line before a block, a comment may say

    <!-- no-run -->       only compile it
    <!-- continues -->    it goes on from the block before it on the page
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PAGES = [page for page in (README, ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]
SECONDS = 50


@dataclass(frozen=True)
class Snippet:
    page: Path
    line: int
    source: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def snippets(page: Path, text: str) -> Iterator[Snippet]:
    """The ```python blocks of a page; each keeps its line numbers, so that errors point into the page."""
    lines = text.splitlines()
    number, before = 0, ""
    while number < len(lines):
        opening = re.fullmatch(r"( *)```(\w*).*", lines[number])
        if not opening:
            number += 1
            continue
        end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"), None)
        assert end is not None, f"{page.name}:{number + 1}: a block without an end"
        if opening.group(2) in ("python", "py"):
            note = lines[number - 1].strip() if number else ""
            indent = len(opening.group(1))
            body = [line[indent:] for line in lines[number + 1 : end]]
            padding = number + 1 - (len(before.splitlines()) if note == "<!-- continues -->" else 0)
            source = (before if note == "<!-- continues -->" else "") + "\n" * max(padding, 0) + "\n".join(body) + "\n"
            yield Snippet(page, number + 2, source, runs=note != "<!-- no-run -->")
            before = source if note != "<!-- no-run -->" else before
        number = end + 1


SNIPPETS = [snippet for page in PAGES for snippet in snippets(page, page.read_text(encoding="utf-8"))]


def test_there_is_a_readme():
    assert README.exists(), "README.md is missing"


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_a_snippet(snippet: Snippet, tmp_path: Path):
    if not snippet.runs:
        # `await` and `async with` at the top level are how the documentation shows them.
        compile(snippet.source, str(snippet), "exec", flags=0x2000, dont_inherit=True)
        return
    script = tmp_path / snippet.page.with_suffix(".py").name
    script.write_text(snippet.source, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, f"{snippet} fails:\n{ran.stdout}\n{ran.stderr}"


def read(text: str) -> list[Snippet]:
    return list(snippets(ROOT / "page.md", text))


def test_blocks_of_other_languages_are_left_alone():
    assert read("```sh\nmake\n```\n\n```\nplain\n```\n") == []


def test_a_block_keeps_its_place_on_the_page():
    (block,) = read("one\n\n```python\nboom()\n```\n")
    assert block.line == 4
    assert block.source.splitlines()[3] == "boom()"
    assert block.runs


def test_a_block_may_be_marked_as_not_to_run():
    assert [block.runs for block in read("<!-- no-run -->\n```python\na\n```\n\n```python\nb\n```\n")] == [False, True]


def test_a_block_may_continue_another():
    first, second = read("```python\nx = 1\n```\ntext\n<!-- continues -->\n```python\nassert x\n```\n")
    assert "x = 1" not in first.source.splitlines()[2:]
    assert second.source.splitlines()[1] == "x = 1"
    assert second.source.splitlines()[6] == "assert x"


def test_a_block_in_a_list_loses_its_indentation():
    (block,) = read("1. first\n\n   ```python\n   x = 1\n   ```\n")
    assert block.source.strip() == "x = 1"
