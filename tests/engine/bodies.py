"""Step bodies that have to stand at module level, because a process imports them by name."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from perdure import Perdure, flow
from perdure.authoring.context import current_trace


def product(a: int, b: int) -> int:
    return a * b


def own_pid() -> int:
    return os.getpid()


def own_thread() -> str:
    return threading.current_thread().name


def note_and_hang(path: str) -> None:
    """Write the process's id, then never come back."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def complain(text: str) -> None:
    raise ValueError(text)


def dies() -> None:
    os._exit(3)


def exits() -> None:
    sys.exit(3)


def runs_out() -> None:
    next(iter(()))


def told() -> list[object]:
    """What `flow` says in a process; fails on the first attempt, after two heartbeats."""
    if flow.attempt() == 1:
        flow.heartbeat({"done": 1})
        flow.heartbeat({"done": 2})
        raise OSError("the first attempt")
    return [flow.run_id(), flow.idempotency_key(), flow.attempt(), flow.last_heartbeat()]


def calls_a_step() -> int:
    """Call another step, which a process cannot."""
    return inner(1)  # type: ignore[return-value]  # it raises


def beats_what_cannot_be_kept() -> None:
    flow.heartbeat(object())


_app = Perdure("memory://bodies")


@_app.step
def inner(n: int) -> int:
    return n


def log_and_tell(text: str) -> list[str | None]:
    """Log, also what cannot be sent as it is, and return which trace the body finds."""
    log = logging.getLogger("shop.pictures")
    log.debug("too little")
    log.info("%s", text, extra={"size": 7, "lock": threading.Lock()})
    try:
        complain("as the test wishes")
    except ValueError:
        log.exception("it went wrong")
    return [current_trace.get()]
