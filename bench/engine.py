"""What an engine is, ours and a peer alike, and how one measurement of it goes.

The engine's side is a program in its own language. It and the runner take turns over pipes:

    program  {"ready": true}               store made, workers running, warmed up
    runner   notes the store's size, says  go
    program  {"seconds": 1.5, ...}         the raw samples
    runner   notes memory and store while all processes still live, then closes stdin
    program  ends

So memory and store are measured from outside, the same way for every engine, and percentiles and rates come from
`bench.measure.figures` and not from five implementations.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg

from bench import measure
from bench.measure import MB, Result
from bench.servers import ServerError
from bench.stores import Store
from bench.work import CALLERS, LENGTHS, WARM_UP

LIMIT_SECONDS = 240.0
"""How long one measurement may take before it is ended and reported as an error."""

SKIPPED = "not measured for this engine"
"""Why a work that an engine does not do has no figures."""

_PLACE = re.compile(r"\w+://\S+|(?<![\w.@])(?:/[\w.+@-]+){2,}/?")
"""An address or an absolute path, which a report must not carry."""


class EngineError(Exception):
    """An engine cannot be installed or run; the message is one line for the report."""


def _nothing(directory: Path) -> None:
    """Install what is there already."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Who does the works, on one store.

    Args:
        name: its name in results and on the command line.
        label: the heading of its column.
        settings: one sentence for the report: version, concurrency, and what is special.
        store: the store it keeps its runs in.
        runs: runs per measurement by work, so that one takes 2 to 6 seconds on two cores; a work that is not listed is
            not done.
        command: the program, given the directory of the installed engines and the work.
        install: puts it under a directory, once; raises `EngineError` with the reason when it cannot.
        versions: the packages installed, with the version each is pinned to.
        environment: settings of the program, beside STORE, WORK, RUNS, CALLERS, WARM_UP and LENGTHS.
        lengths: the steps per run that W7 goes through.
        options: what stands behind the store's URL.
    """

    name: str
    label: str
    settings: str
    store: Store
    runs: Mapping[str, int]
    command: Callable[[Path, str], Sequence[str | Path]]
    install: Callable[[Path], None] = _nothing
    versions: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    lengths: Sequence[int] = LENGTHS
    options: str = ""

    def measure(self, directory: Path, work: str, runs: int) -> Result:
        """Measure one work once, on a fresh store; whatever goes wrong becomes a result with an error."""
        settings = {"WORK": work, "RUNS": str(runs), "CALLERS": str(CALLERS), "WARM_UP": str(WARM_UP)}
        settings |= {"LENGTHS": json.dumps(self.lengths), **self.environment}
        try:
            with self.store.serving(directory) as served:
                settings["STORE"] = served.url + self.options
                with started(self.command(directory, work), settings, LIMIT_SECONDS) as program:
                    program.hear("ready")
                    before = served.stored()
                    program.say("go")
                    raw = program.hear("seconds")
                    worker = measure.rss_mb(program.pid)
                    memory = worker + sum(measure.rss_mb(pid) for pid in served.servers)
                    grown = served.stored() - before
        except (EngineError, ServerError, OSError, psycopg.Error) as reason:
            return Result(self.name, work, runs, error=complaint(str(reason)))
        return _result(self.name, work, runs, raw, {"memory_mb": memory, "worker_mb": worker}, grown)


class Program:
    """A running program that speaks the protocol of this module."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        """Wrap a process started with text pipes for stdin and stdout, and a file for stderr."""
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def hear(self, key: str) -> dict[str, object]:
        """The next JSON line that has `key`; anything else the engine prints is passed over.

        Raises:
            EngineError: it ended first; with the last line of its stderr.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                try:
                    heard = json.loads(line)
                except ValueError:
                    continue
                if key in heard:
                    return dict(heard)
        raise EngineError(f"no {key!r} line: {self._complaint()}")

    def say(self, word: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _complaint(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        said = complaint(self._errors.read()) or "nothing on stderr"
        return "ended from outside or out of time" if status == -signal.SIGKILL else f"exit {status}, {said}"


@contextmanager
def started(command: Sequence[str | Path], environment: Mapping[str, str], limit_seconds: float) -> Iterator[Program]:
    """A program in a process group of its own, which is gone when the block ends or the limit passes."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        late = threading.Timer(limit_seconds, _end, [process])
        late.start()
        try:
            yield Program(process, errors)
        finally:
            _close(process)
            late.cancel()


def complaint(text: str) -> str:
    """The line of a program's output that says what went wrong; no addresses, no paths, of bounded length.

    npm says it first and then where the whole log is, everyone else says it last.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    npm = [line for line in lines if line.startswith("npm error") and not line.startswith("npm error code")]
    telling = npm[:1] or [line for line in lines if "rror" in line and not line.startswith("at ")][-1:] or lines[-1:]
    return _PLACE.sub("...", telling[0])[:200] if telling else ""


def _result(
    engine: str, work: str, runs: int, raw: Mapping[str, object], memory: Mapping[str, float], grown: int
) -> Result:
    seconds, latencies, lengths = raw["seconds"], raw.get("latencies_ms", []), raw.get("runs_ms", {})
    if not (isinstance(seconds, int | float) and isinstance(latencies, list) and isinstance(lengths, dict)):
        return Result(engine, work, runs, error="the program's result line is malformed")
    found = measure.figures(runs, seconds, latencies, {int(steps): took for steps, took in lengths.items()})
    found |= {**memory, "store_mb": grown / MB / runs * 10_000}
    own = raw.get("figures", {})
    if isinstance(own, dict):
        found |= {key: float(value) for key, value in own.items()}
    return Result(engine, work, runs, float(seconds), found)


def _close(process: subprocess.Popen[str]) -> None:
    """Let the program end by itself, and end it and what it started if it does not."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    _end(process)
    process.wait()
    process.stdout.close()


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
