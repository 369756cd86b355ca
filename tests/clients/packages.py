"""The official clients for Node, as npm installs them: once, into a cache in the virtual environment."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "node"
NAMES = ("package.json", "package-lock.json")
MUST = "PERDURE_TEST_NODE"
"""With this variable, what cannot be installed fails the tests that need it, rather than skipping them."""


@functools.cache
def node_packages() -> Path:
    """Return a folder with the packages that the lock names; scripts have to lie in it to find them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return _lacking("node and npm are not installed")
    texts = [(HERE / name).read_bytes() for name in NAMES]
    folder = Path(sys.prefix) / "node" / hashlib.sha256(b"".join(texts)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of this test run want it, too
        if not (folder / "done").exists():
            for name, text in zip(NAMES, texts, strict=True):
                (folder / name).write_bytes(text)
            said = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            if said.returncode:
                return _lacking(f"npm ci: {said.stderr[-500:]}")
            (folder / "done").touch()
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, folder)
    return folder


def _lacking(what: str) -> Path:
    if os.environ.get(MUST):
        pytest.fail(what)
    pytest.skip(f"the official clients for Node: {what}")
