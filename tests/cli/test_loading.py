from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import perdure
from perdure import Perdure, UsageError
from perdure.cli.loading import load_app, load_app_anew

APP = "from perdure import Perdure\napp = Perdure('memory://')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, source: str = APP) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


def test_a_module_of_the_current_folder(folder):
    write(folder / "loading_a.py")
    assert isinstance(load_app("loading_a:app"), Perdure)


def test_a_module_in_a_package(folder):
    write(folder / "loading_p" / "__init__.py", "")
    write(folder / "loading_p" / "engine.py")
    app = load_app("loading_p.engine:app")
    assert load_app("loading_p/engine.py:app") is app


def test_a_file_finds_the_modules_beside_it(folder):
    write(folder / "deep" / "loading_beside.py")
    write(folder / "deep" / "loading_b.py", "from loading_beside import app\n")
    assert isinstance(load_app("deep/loading_b.py:app"), Perdure)
    assert isinstance(load_app(str(folder / "deep" / "loading_b.py") + ":app"), Perdure)


def test_the_only_engine_needs_no_name(folder):
    write(folder / "loading_c.py", APP.replace("app", "shop"))
    assert isinstance(load_app("loading_c"), Perdure)
    assert isinstance(load_app("loading_c.py"), Perdure)


def test_a_dotted_attribute(folder):
    write(folder / "loading_d.py", f"{APP}class shop:\n    engine = app\n")
    assert isinstance(load_app("loading_d:shop.engine"), Perdure)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (APP, ":app", "names no module; write module:attribute"),
        (APP, "loading_nowhere:app", "there is no module 'loading_nowhere' here"),
        (APP, "nowhere.py:app", "there is no file nowhere.py"),
        (APP, "loading_e:shop", "loading_e has no 'shop'"),
        (APP + "number = 7\n", "loading_e:number", "loading_e:number is no Perdure engine, but int"),
        (APP + "other = Perdure('memory://')\n", "loading_e", "holds 2 engines: app, other; write loading_e:NAME"),
        ("", "loading_e", "loading_e holds no engine"),
        ("1 / 0\n", "loading_e:app", r"importing loading_e failed \(.*loading_e.py:1\): ZeroDivisionError: "),
        (
            "import perdure\nflow = perdure.workflow('flow').step('a', print, after='b')\nflow.build()\n",
            "loading_e:app",
            r"failed \(.*loading_e.py:3\): DefinitionError: workflow 'flow' cannot be built:\n  step 'a', after",
        ),
        (
            "import loading_gone\n",
            "loading_e:app",
            r"importing loading_e failed \(.*\): ModuleNotFoundError: .*loading_gone",
        ),
        ("def f(:\n", "loading_e:app", "importing loading_e failed: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded(folder, source, target, message):
    write(folder / "loading_e.py", source)
    with pytest.raises(UsageError, match=message):
        load_app(target)


def test_a_file_whose_name_is_taken(folder):
    write(folder / "json.py")
    with pytest.raises(UsageError, match="json.py would be module 'json', and .* is that already; rename the file"):
        load_app("json.py:app")


def test_what_a_folder_holds_is_imported_anew_and_nothing_else(folder):
    write(folder / "loading_n" / "__init__.py", "")
    write(folder / "loading_n" / "other.py", "NUMBER = 1\n")
    write(folder / "loading_n" / "engine.py", f"from loading_n.other import NUMBER\n{APP}app.env = NUMBER\n")
    write(folder / "site-packages" / "loading_installed.py", "")
    sys.path.insert(0, str(folder / "site-packages"))
    before = load_app("loading_n.engine:app")
    installed = importlib.import_module("loading_installed")
    write(folder / "loading_n" / "other.py", "NUMBER = 2\n")
    after = load_app_anew("loading_n.engine:app", folder)
    assert (before.env, after.env) == (1, 2)
    assert sys.modules["loading_installed"] is installed
    assert sys.modules["perdure"] is perdure
