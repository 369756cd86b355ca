"""The code about the code: sizes, words, and where time and chance may come in.

What a linter can say, `pyproject.toml` says. Here stands what it cannot.
"""

from __future__ import annotations

import ast
import functools
import importlib
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "perdure"

FILE_LINES = 400
FUNCTION_LINES = 60
COLUMNS = 120

# Exceptions: what, and how far. A ceiling may only fall; each line says why it is there.
LONGER_FILES: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {}
# Files that keep a seed's own words, because its users' code has to run unchanged.
SEED_WORDS = (
    "authoring/graphs/context.py",
    "authoring/entrypoint.py",
    "engine/client/entrypoint_runs.py",
    "engine/client/handle.py",
)
# The one place where the clock and randomness come in.
ENV = "engine/env.py"

MODULE_NAMES_BANNED = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
SYNONYMS_BANNED = {
    "job": "run, or task",
    "jobs": "runs, or tasks",
    "activity": "step",
    "activities": "steps",
    "instance": "run (of a class: object)",
    "instances": "runs (of a class: objects)",
}
UNFINISHED = "T[O]DO|FIX[M]E|X[X]X"  # spelt so that this file does not hold what it refuses
IMPURE_CALLS = {
    "time": {"time", "time_ns"},
    "datetime": {"now", "utcnow", "today"},
    "uuid": {"uuid1", "uuid4"},
    "os": {"urandom"},
    "random": set(random.__all__) - {"Random"},  # a Random with a seed is as good as any function
}
IMPURE_MODULES = {"secrets"}

FILES = sorted(SRC.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def tracked() -> list[Path]:
    """Files that git knows, or the whole tree where there is no git (a source archive)."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "docs", "examples", "bench", "requirements", ".ci")
        return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        inner = (
            f"{prefix}{node.name}."
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else prefix
        )
        yield from functions(node, inner)


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring aside."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def words(identifier: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that the code chooses: definitions, parameters, targets. Not the names of others that it uses."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that stands alone: docstrings, and the sentences below constants."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def without_code(text: str) -> str:
    """A docstring without what is in backticks: those are names, judged where they are defined."""
    return re.sub(r"`[^`]*`", "", text)


def report(found: list[str], advice: str) -> None:
    assert not found, advice + "\n  " + "\n  ".join(found)


def test_there_is_something_to_look_at():
    assert FILES


def test_no_file_is_too_long():
    found = [
        f"{relative(path)}: {lines} lines"
        for path in FILES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGER_FILES.get(relative(path), FILE_LINES)
    ]
    report(found, f"a file has at most {FILE_LINES} lines: find the second idea in it")


def test_no_function_is_too_long():
    found = [
        f"{relative(path)}:{node.lineno} {name}: {lines} lines"
        for path in FILES
        for name, node in functions(parsed(path))
        if (lines := length(node)) > LONGER_FUNCTIONS.get(f"{relative(path)}:{name}", FUNCTION_LINES)
    ]
    report(found, f"a function has at most {FUNCTION_LINES} lines, docstring aside")


def test_exceptions_are_still_needed():
    gone = [name for name, ceiling in LONGER_FILES.items() if len((SRC / name).read_text().splitlines()) < ceiling]
    lines = {f"{relative(path)}:{name}": length(node) for path in FILES for name, node in functions(parsed(path))}
    gone += [name for name, ceiling in LONGER_FUNCTIONS.items() if lines.get(name, 0) < ceiling]
    report(gone, "shorter than its ceiling now: lower the ceiling, or take the exception out")


def test_no_line_is_too_long():
    found = [
        f"{relative(path)}:{number}: {len(line)} characters"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > COLUMNS
    ]
    report(found, f"a line has at most {COLUMNS} characters")


def test_nothing_prints():
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint")
    ]
    report(found, "the library logs; only the command line speaks, through its console")


def test_nothing_is_left_for_later():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"\b({UNFINISHED})\b", line)
    ]
    report(found, "do it now, or write it down where plans are kept")


def test_modules_are_named_for_what_is_inside():
    found = [
        relative(path)
        for path in FILES
        if MODULE_NAMES_BANNED & {part.strip("_").removesuffix(".py") for part in path.relative_to(SRC).parts}
    ]
    report(found, "name a module for what is inside")


@pytest.mark.parametrize("path", [path for path in FILES if relative(path) not in SEED_WORDS], ids=relative)
def test_one_word_per_idea(path):
    found = [
        f"{relative(path)}:{line}: {name!r}; say {SYNONYMS_BANNED[word]}"
        for line, name in defined_names(parsed(path))
        for word in sorted(words(name) & SYNONYMS_BANNED.keys())
    ]
    found += [
        f"{relative(path)}:{line}: a docstring says {word!r}; say {SYNONYMS_BANNED[word]}"
        for line, text in docstrings(parsed(path))
        for word in sorted(words(without_code(text)) & SYNONYMS_BANNED.keys())
    ]
    report(found, "one word per idea (see the vocabulary in ARCHITECTURE.md)")


def impure_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Reads of the clock and of chance, under whatever name the module was imported."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    modules[alias.asname or alias.name.partition(".")[0]] = alias.name
                    if alias.name in IMPURE_MODULES:
                        yield node.lineno, f"import {alias.name}"
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    modules[alias.asname or alias.name] = module
                    if module in IMPURE_MODULES or alias.name in IMPURE_CALLS.get(module, ()):
                        yield node.lineno, f"from {module} import {alias.name}"
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="Random"), args=[], keywords=[]):
                if modules.get(name) == "random":
                    yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Attribute):
            root: ast.expr = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and node.attr in IMPURE_CALLS.get(modules.get(root.id, ""), ()):
                yield node.lineno, ast.unparse(node)


def test_time_and_chance_come_in_at_one_place():
    found = [
        f"{relative(path)}:{line}: {use}"
        for path in FILES
        if relative(path) != ENV
        for line, use in impure_uses(parsed(path))
    ]
    report(found, f"ask the Env ({ENV}); a test can then move the clock and repeat the dice")


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("import time\ntime.time()", 1),
        ("import time as t\nt.time_ns()", 1),
        ("from time import time", 1),
        ("import time\ntime.monotonic()", 0),
        ("import datetime as dt\ndt.datetime.now(dt.UTC)", 1),
        ("from datetime import datetime\ndatetime.now()", 1),
        ("import datetime as dt\ndt.datetime.fromtimestamp(0, dt.UTC)", 0),
        ("from perdure import flow\nflow.now(), flow.random()", 0),
        ("import random\nrandom.random()", 1),
        ("import random as r\nr.choice('ab')", 1),
        ("from random import randint", 1),
        ("import random\nrandom.Random(7).random()", 0),
        ("import random\nrandom.Random()", 1),
        ("import secrets", 1),
        ("from uuid import uuid4", 1),
        ("import uuid\nuuid.uuid5(uuid.NAMESPACE_URL, 'x')", 0),
    ],
)
def test_the_search_for_time_and_chance_finds_them(source, uses):
    assert len(list(impure_uses(ast.parse(source)))) == uses


def public_names() -> list[str]:
    """`perdure.__all__`, read without running anything."""
    path = SRC / "__init__.py"
    if not path.exists():
        return []
    for node in parsed(path).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                return list(ast.literal_eval(value))
    return []


def test_the_public_names_are_sorted():
    names = public_names()
    assert names == sorted(set(names)), "perdure.__all__ is sorted, without doubles"


def test_the_public_names_are_complete():
    path = SRC / "__init__.py"
    if not path.exists():
        pytest.skip("there is no perdure/__init__.py yet")
    imported = {
        alias.asname or alias.name
        for node in parsed(path).body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    assert imported - set(public_names()) == set(), "what perdure/__init__.py imports is public: list it in __all__"


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_is_there(name):
    assert hasattr(importlib.import_module("perdure"), name)


# Spelt so that this file does not hold what it refuses: indexes of packages, people's folders, this very checkout.
MACHINE = re.compile(
    r"\bpy[p]i\.org|\bpythonhoste[d]\.org|\bnpmj[s]\.org|\bfile://[/]\w|(?<![\w./~-])/roo[t]/"
    r"|(?<![\w.~-])/(?:home|Users)/(?!you\b|user\b|me\b)\w+/|" + rf"(?<![\w.~-]){re.escape(str(ROOT))}\b"
)


def test_no_tracked_file_names_a_machine_or_a_registry():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if hit := MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {hit.group()}")
    report(found, "what is committed knows neither the machine it was written on nor an index of packages")


def prose() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages if page.exists())


@pytest.mark.parametrize("name", public_names())
def test_the_documentation_mentions_every_public_name(name):
    text = prose()
    assert re.search(rf"(?<![\w.]){re.escape(name)}\b|\bperdure\.{re.escape(name)}\b", text), f"no page mentions {name}"


def command_names() -> list[str]:
    """Every command of the command line, as it is typed."""
    if not (SRC / "cli" / "main.py").exists():
        return []
    import typer.main

    def walk(command: object, typed: str) -> Iterator[str]:
        children = getattr(command, "commands", None)
        if not children:
            yield typed
            return
        for name, child in sorted(children.items()):
            if not child.hidden:
                yield from walk(child, f"{typed} {name}")

    return list(walk(typer.main.get_command(importlib.import_module("perdure.cli.main").app), "perdure"))


def test_the_documentation_mentions_every_command():
    text = prose()
    report([name for name in command_names() if name not in text], "no page mentions these commands")
