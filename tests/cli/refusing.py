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
    "reencrypt": [],
    "doctor": [],
    "endpoints add": ["http://127.0.0.1:1/"],
    "endpoints list": [],
    "endpoints remove": ["http://127.0.0.1:1/"],
    "endpoints keys": [],
    "definitions list": [],
    "definitions show": ["d"],
    "events emit": ["tick"],
    "queues list": [],
    "queues pause": ["q"],
    "queues resume": ["q"],
    "queues limit": ["q", "--none"],
    "queues dead": ["q"],
    "queues retry": ["q", "--all"],
    "queues discard": ["q", "--all"],
    "schedules list": [],
    "schedules show": ["s"],
    "schedules pause": ["s"],
    "schedules resume": ["s"],
    "schedules trigger": ["s"],
    "schedules backfill": ["s", "--from", "2030-01-01T00:00Z", "--until", "2030-01-02T00:00Z"],
    "schedules delete": ["s"],
    "undos list": [],
    "undos retry": ["r"],
    "undos done": ["r"],
    "server": ["--port", "0"],
    "dev": [SHOP, "--port", "0"],
    "workers": [],
    "keys create": ["k"],
    "keys list": [],
    "keys revoke": ["k"],
    "keys rotate": ["k"],
    "audit list": [],
    "audit verify": [],
}
# What opens two stores or its own, none, and what reads a file first.
ELSEWHERE = {"demo", "migrate", "definitions schema", "definitions validate", "definitions publish"}


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
