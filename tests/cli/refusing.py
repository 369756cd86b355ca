"""What a store that cannot be used must look like at the command line, and the commands that may meet one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from tests.cli.working import SHOP

SECRET = "s3cr&t/?"
QUOTED = quote(SECRET, safe="")

COMMANDS = {
    "worker": [SHOP],
    "start": ["letter"],
    "runs list": [],
    "runs show": ["r"],
    "runs journal": ["r"],
    "runs explain": ["r"],
    "runs pause": ["r"],
    "runs resume": ["r"],
    "runs terminate": ["r", "--yes"],
    "runs restart": ["r"],
    "runs fork": ["r", "--from-step", "charge"],
    "runs send-event": ["r", "approved"],
    "stats": [],
    "doctor": [],
}
ELSEWHERE = {"demo", "migrate"}


class Bad(NamedTuple):
    code: int
    kind: str
    says: str
    make: Callable[[Path, pytest.MonkeyPatch], str]


def check(said, bad: Bad) -> None:
    assert (said.code, said.out) == (bad.code, ""), said
    assert said.err.startswith("error: "), said.err
    assert said.err.count("\n") == 1, said.err
    assert bad.says in said.err
    for hidden in (SECRET, QUOTED, "Traceback"):
        assert hidden not in said.err
