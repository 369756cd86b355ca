"""`perdure definitions`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.authoring.graphs.definition_schema import schema_text
from perdure.model.decision import StoredDefinition
from tests.cli.conftest import ask

LETTERS = """
name: letters
version: 2
definition:
  - {task: letter, name: first}
  - {task: letter, name: second}
"""


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    path = tmp_path / "letters.yaml"
    path.write_text(LETTERS)
    return path


def test_publish_list_and_show(shell, seeded, letters):
    said = shell("definitions", "publish", str(letters))
    assert (said.code, said.err.strip()) == (0, "published letters, version 2")
    assert shell("definitions", "publish", str(letters), "--json").json == {
        "published": [{"name": "letters", "version": "2"}]
    }
    header, line = shell("definitions", "list").out.splitlines()
    assert header.split() == ["name", "version", "steps", "published"]
    assert line.split()[:3] == ["letters", "2", "2"]
    (listed,) = shell("definitions", "list", "--json").json["definitions"]
    assert (listed["name"], listed["version"]) == ("letters", "2")
    shown = shell("definitions", "show", "letters")
    assert json.loads(shown.out)["definition"]["steps"][1]["after"] == ["first"]
    assert shell("definitions", "show", "letters", "--mermaid").out.startswith("flowchart TD\n")
    assert "flowchart" in shell("definitions", "show", "letters", "--mermaid", "--json").json["mermaid"]


def test_a_published_definition_can_be_started(shell, seeded, letters):
    shell("definitions", "publish", str(letters))
    assert shell("start", "letters", "--id", "l-1").code == 0
    assert shell("runs", "show", "l-1", "--json").json["run"]["workflow"] == "letters"


def test_versions(shell, seeded, letters):
    shell("definitions", "publish", str(letters))
    letters.write_text(LETTERS.replace("version: 2", "version: 3"))
    shell("definitions", "publish", str(letters))
    assert json.loads(shell("definitions", "show", "letters").out)["version"] == "3"
    assert json.loads(shell("definitions", "show", "letters", "--version", "2").out)["version"] == "2"
    said = shell("definitions", "show", "letters", "--version", "4")
    assert (said.code, "letters' has no version '4'; there is 2, 3" in said.err) == (3, True)
    assert shell("definitions", "show", "nothing").code == 3
    letters.write_text(LETTERS.replace("second", "other"))
    said = shell("definitions", "publish", str(letters))
    assert (said.code, "has a version '2' with another content" in said.err) == (2, True)


def test_what_is_wrong_is_told(shell, seeded, letters):
    letters.write_text(LETTERS.replace("{task: letter, name: second}", "{task: leter, when: 'steps.x', onUnmet: no}"))
    for verb in ("publish", "validate"):
        said = shell("definitions", verb, str(letters))
        assert said.code == 2
        first, *flaws = said.err.splitlines()
        assert first == f"error: {letters}: definition 'letters' is wrong:"
        assert "  steps[1]: there is no task or workflow 'leter'; did you mean 'letter'?" in flaws
        assert "  steps[1].when: it refers to step 'x', which there is not" in flaws
    said = shell("definitions", "publish", str(letters.parent / "nothing.yaml"))
    assert (said.code, "cannot be read" in said.err) == (2, True)


def test_validate(shell, seeded, letters):
    letters.write_text(LETTERS.replace("task: letter", "task: unheard-of"))
    assert shell("definitions", "validate", str(letters)).code == 2
    said = shell("definitions", "validate", str(letters), PERDURE_STORE=None)
    assert said.code == 0
    assert said.err.strip().endswith("definition letters, version 2, is right")
    assert shell("definitions", "validate", str(letters), "--json", PERDURE_STORE=None).json == {
        "valid": [{"name": "letters", "version": "2", "steps": 2}]
    }


def test_an_application_whose_store_is_not_there_yet_will_do_to_validate(shell, tmp_path, monkeypatch, letters):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fresh.py").write_text(
        'from perdure import Perdure\napp = Perdure("sqlite:///fresh.db")\n@app.task\nasync def letter() -> None: ...\n'
    )
    words = ["definitions", "validate", str(letters), "--app", "fresh.py:app"]
    assert shell(*words, PERDURE_STORE=None).code == 0
    assert shell(*words, "--store", "sqlite:///other.db", PERDURE_STORE=None).code == 4
    letters.write_text(LETTERS.replace("name: first", "name: first, data: {to: ada}"))
    said = shell(*words, PERDURE_STORE=None)
    assert (said.code, "steps[0].data" in said.err) == (2, True)
    assert not list(tmp_path.glob("*.db"))


def test_anyway(shell, seeded, letters):
    letters.write_text(LETTERS.replace("task: letter,", "task: unheard-of,"))
    assert shell("definitions", "publish", str(letters)).code == 2
    assert shell("definitions", "publish", str(letters), "--anyway").code == 0


def test_one_that_is_damaged_is_listed_and_not_shown(shell, seeded):
    ask(seeded, lambda app: app.store.define([StoredDefinition("odd", "1", "{", 1)]))
    assert shell("definitions", "list").out.splitlines()[1].split()[:3] == ["odd", "1", "damaged"]
    (listed,) = shell("definitions", "list", "--json").json["definitions"]
    assert listed["damage"] == "version '1' of definition 'odd' is damaged in the store"
    for more in ([], ["--mermaid"], ["--json"]):
        said = shell("definitions", "show", "odd", *more)
        assert (said.code, "is damaged in the store" in said.out + said.err) == (2, True)


def test_an_empty_list(shell, seeded):
    assert shell("definitions", "list").err.strip() == "no definitions"


def test_the_schema(shell):
    assert shell("definitions", "schema").out == schema_text()
    assert shell("definitions", "schema", "--json").json["title"] == "A Perdure workflow as data"
