"""Finds the application that a command line names: `module:attribute`, or `folder/file.py:attribute`."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

import perdure
from perdure.engine.app import Perdure
from perdure.model.errors import UsageError

OURS = Path(perdure.__file__).parent
"""Where Perdure's own code is: an error is told with the line of the application that led there."""


def load_app(target: str) -> Perdure:
    """Import a module, from the current folder too, and return its engine.

    Args:
        target: `module:attribute` or `file.py:attribute`; without an attribute, the module's only engine.

    Raises:
        UsageError: it cannot be imported, or holds no such engine; the cause is the module's own error.
    """
    place, _, attribute = target.partition(":")
    if not place:
        raise UsageError(f"{target!r} names no module; write module:attribute, as in app:app")
    module = _load_file(place) if place.endswith(".py") else _load_module(place)
    return _engine(module, place, attribute)


def load_app_anew(target: str, folder: Path) -> Perdure:
    """Do as `load_app`, with the files of a folder as they are now.

    Args:
        target: see there.
        folder: what was imported from it before is imported again; what is installed there is not.

    Raises:
        UsageError: see there.
    """
    installed = (OURS, Path(sys.prefix))
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        is_theirs = path.is_relative_to(folder) and not any(path.is_relative_to(each) for each in installed)
        if is_theirs and name != "__main__" and "site-packages" not in path.parts:
            del sys.modules[name]
    importlib.invalidate_caches()
    return load_app(target)


def _load_file(place: str) -> ModuleType:
    """Import a file under its own dotted name, so that other processes can import it by that name too."""
    path = Path(place).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {place}")
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(names)
    module = _load_module(name, str(folder))
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise UsageError(f"{place} would be module {name!r}, and {module.__file__} is that already; rename the file")
    return module


def _load_module(name: str, folder: str = "") -> ModuleType:
    first = folder or str(Path.cwd())
    if first not in sys.path:
        sys.path.insert(0, first)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {name!r} here; write module:attribute or file.py:attribute"
            ) from error
        raise UsageError(_what_failed(name, error)) from error
    except Exception as error:
        raise UsageError(_what_failed(name, error)) from error


def _what_failed(name: str, error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    theirs = [frame for frame in frames if not Path(frame.filename).is_relative_to(OURS)]
    at = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"importing {name} failed{at}: {type(error).__name__}: {error}"


def _engine(module: ModuleType, place: str, attribute: str) -> Perdure:
    if not attribute:
        engines = [name for name, value in vars(module).items() if isinstance(value, Perdure)]
        if len(engines) != 1:
            found = f"{len(engines)} engines: {', '.join(engines)}" if engines else "no engine"
            raise UsageError(f"{place} holds {found}; write {place}:NAME")
        attribute = engines[0]
    found_value: object = module
    for part in attribute.split("."):
        if not hasattr(found_value, part):
            raise UsageError(f"{place} has no {attribute!r}")
        found_value = getattr(found_value, part)
    if not isinstance(found_value, Perdure):
        raise UsageError(f"{place}:{attribute} is no Perdure engine, but {type(found_value).__name__}")
    return found_value
