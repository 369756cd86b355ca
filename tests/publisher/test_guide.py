"""What docs/publisher.md shows does what it says, against a real server that delivers nothing."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path

import pytest

import perdure.publisher
from perdure.publisher import Publisher
from perdure.publisher.options import Options
from perdure.publisher.verbs import listing, verb

PAGE = Path(__file__).parents[2] / "docs" / "publisher.md"
TEXT = PAGE.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("source", SNIPPETS, ids=range(len(SNIPPETS)))
async def test_a_snippet(serving, monkeypatch, source, capsys):
    served = await serving(dispatch=False)
    monkeypatch.setenv("QSTASH_URL", str(served.http.base_url))
    code = compile(source, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    def run() -> None:
        found = eval(code, {})  # a snippet of ours
        if inspect.iscoroutine(found):
            asyncio.run(found)

    await asyncio.to_thread(run)


def test_every_option_is_on_the_page():
    table = TEXT.partition("## What a message may have")[2].partition("```")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= Options.__optional_keys__


def verbs(kind: type) -> set[str]:
    return {name for each in kind.__mro__ for name, what in vars(each).items() if isinstance(what, verb | listing)}


def test_every_verb_is_on_the_page():
    table = TEXT.partition("## Everything else")[2].partition("##")[0]
    rows = {
        row[1]: set(re.findall(r"`(\w+)`", row[2]))
        for row in re.finditer(r"^\| `pub\.(\w+)` \|(.*)$", table, re.MULTILINE)
    }
    pub = Publisher("https://a.example")
    assert {name: verbs(type(getattr(pub, name))) for name in rows} == rows
    areas = {name for name, what in vars(perdure.publisher.publisher.Verbs).items() if isinstance(what, property)}
    assert areas == set(rows)
    assert verbs(Publisher) - {"publish", "enqueue", "batch", "logs"} == set()
