"""Installing peers, each from its own package at a pinned version, so that one that fails does not stop the others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.engine import EngineError, complaint

PROGRAMS = Path(__file__).parent / "programs"
"""Where the programs that run inside the peers are kept."""

INSTALL_SECONDS = 600.0
"""How long one installer may take."""


def install_python(place: Path, versions: Mapping[str, str]) -> None:
    """Make a virtual environment at `place` with exactly these packages, unless it is there already."""
    if _is_installed(place, versions):
        return
    shutil.rmtree(place, ignore_errors=True)
    _installer([sys.executable, "-m", "venv", place], place.parent)
    pinned = [f"{name}=={version}" for name, version in versions.items()]
    _installer([place / "bin" / "python", "-m", "pip", "install", "--quiet", *pinned], place.parent)
    _mark_installed(place, versions)


def install_node(place: Path, versions: Mapping[str, str], *programs: str) -> None:
    """Fill `place`/node_modules with exactly these packages, unless they are there already; and copy programs there.

    No lock file: it would name the registry that happened to be configured. A JavaScript module looks for packages
    from where its own file lies, hence the copies.
    """
    if not _is_installed(place, versions):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        package = {"private": True, "type": "module", "dependencies": dict(versions)}
        (place / "package.json").write_text(json.dumps(package), encoding="utf-8")
        _installer(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"], place)
        _mark_installed(place, versions)
    for name in programs:
        shutil.copyfile(PROGRAMS / name, place / name)


def _is_installed(place: Path, versions: Mapping[str, str]) -> bool:
    try:
        return bool(json.loads((place / "installed.json").read_text(encoding="utf-8")) == dict(versions))
    except (OSError, ValueError):
        return False


def _mark_installed(place: Path, versions: Mapping[str, str]) -> None:
    (place / "installed.json").write_text(json.dumps(dict(versions)), encoding="utf-8")


def _installer(command: Sequence[str | Path], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    name = " ".join(str(part).rpartition("/")[2] for part in command[:4])
    try:
        done = subprocess.run(
            [str(part) for part in command], cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except FileNotFoundError:
        raise EngineError(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"{name}: not done after {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        raise EngineError(f"{name}: {complaint(done.stderr) or complaint(done.stdout)}")
