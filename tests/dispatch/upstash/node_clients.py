"""Where `@upstash/workflow` is installed, as it is locked, beside this checkout's Python packages."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKED = ROOT / "tests" / "clients" / "node"
WITHIN = 300
"""Seconds within which npm has to be done."""


def installed() -> Path:
    """The folder that holds `node_modules`; scripts are copied beside it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no node, or no npm, to run the JavaScript client with")
    digest = hashlib.sha256((LOCKED / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = ROOT / ".venv" / "node-clients" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(LOCKED / name, folder / name)
            command = ["npm", "ci", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=WITHIN)
            (folder / "installed").touch()
    return folder
