"""What a peer is, and how one measurement of it goes.

The peer's side is a program in its own language (`bench/peers/programs`). It and the runner take turns over pipes:

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
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from bench import measure
from bench.measure import MB, Result
from bench.work import CALLERS, LENGTHS, WARM_UP

PROGRAMS = Path(__file__).parent / "programs"
"""Where the programs that run inside the peers are kept."""

LIMIT_SECONDS = 120.0
"""How long one measurement may take before it is ended and reported as an error."""

INSTALL_SECONDS = 600.0
"""How long one installer may take."""


_PLACE = re.compile(r"\w+://\S+|(?<![\w.@])(?:/[\w.+@-]+){2,}/?")
"""An address or an absolute path, which a report must not carry."""


class PeerError(Exception):
    """A peer cannot be installed or run; the message is one line for the report."""


class Peer(Protocol):
    """A module that installs and measures one other engine."""

    NAME: str
    """Its name in results and on the command line."""

    LABEL: str
    """The column heading: what it is, and on which store."""

    SETTINGS: str
    """One sentence for the report: version, store, durability, concurrency, and what is special."""

    VERSIONS: Mapping[str, str]
    """The packages installed, with the version each is pinned to."""

    RUNS: Mapping[str, int]
    """Runs per measurement by work, so that one takes 2 to 6 seconds on two cores; a work not listed is not done."""

    def install(self, directory: Path) -> None:
        """Install under `directory`, once; raises `PeerError` with the reason when it cannot."""

    def run(self, directory: Path, work: str, runs: int) -> Result:
        """Measure one work once; whatever goes wrong becomes a result with an error."""


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
        """The next JSON line that has `key`; anything else the peer prints is passed over.

        Raises:
            PeerError: it ended first; with the last line of its stderr.
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
        raise PeerError(f"no {key!r} line: {self._complaint()}")

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


def measured(
    engine: str,
    work: str,
    runs: int,
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    stored: Callable[[], int],
    servers: Sequence[int] = (),
) -> Result:
    """Run a program through one measurement.

    Args:
        engine: the peer's name.
        work: W1 to W9.
        runs: how many workflow runs to do.
        command: the program.
        environment: settings for it, beside WORK, RUNS, CALLERS, WARM_UP and LENGTHS.
        stored: how many bytes the store holds at the moment.
        servers: processes outside the program's tree that belong to the engine, for the memory figure.
    """
    settings = {"WORK": work, "RUNS": str(runs), "CALLERS": str(CALLERS), "WARM_UP": str(WARM_UP)}
    settings["LENGTHS"] = json.dumps(LENGTHS)
    try:
        with started(command, {**settings, **environment}, LIMIT_SECONDS) as program:
            program.hear("ready")
            before = stored()
            program.say("go")
            raw = program.hear("seconds")
            memory = sum(measure.rss_mb(pid) for pid in (program.pid, *servers))
            grown = stored() - before
    except (PeerError, OSError) as reason:
        return Result(engine, work, runs, error=complaint(str(reason)))
    return _result(engine, work, runs, raw, memory, grown)


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


@contextmanager
def fresh_store(directory: Path) -> Iterator[Path]:
    """An empty directory beside the installed peers, so on the disk that the figures are about; removed at the end."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="store-", ignore_cleanup_errors=True) as place:
        yield Path(place)


def install_python(place: Path, versions: Mapping[str, str]) -> None:
    """Make a virtual environment at `place` with exactly these packages, unless it is there already."""
    if _is_installed(place, versions):
        return
    shutil.rmtree(place, ignore_errors=True)
    _installer([sys.executable, "-m", "venv", place], place.parent)
    pinned = [f"{name}=={version}" for name, version in versions.items()]
    _installer([place / "bin" / "python", "-m", "pip", "install", "--quiet", *pinned], place.parent)
    _mark_installed(place, versions)


def install_node(place: Path, versions: Mapping[str, str]) -> None:
    """Fill `place`/node_modules with exactly these packages, unless it is there already.

    No lock file: it would name the registry that happened to be configured.
    """
    if _is_installed(place, versions):
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    package = {"private": True, "type": "module", "dependencies": dict(versions)}
    (place / "package.json").write_text(json.dumps(package), encoding="utf-8")
    _installer(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"], place)
    _mark_installed(place, versions)


def place_programs(place: Path, *names: str) -> None:
    """Copy programs beside a node_modules: a JavaScript module looks for packages from where its own file lies."""
    for name in names:
        shutil.copyfile(PROGRAMS / name, place / name)


def complaint(text: str) -> str:
    """The line of a program's output that says what went wrong; no addresses, no paths, of bounded length.

    npm says it first and then where the whole log is, everyone else says it last.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    npm = [line for line in lines if line.startswith("npm error") and not line.startswith("npm error code")]
    telling = npm[:1] or [line for line in lines if "rror" in line and not line.startswith("at ")][-1:] or lines[-1:]
    return _PLACE.sub("...", telling[0])[:200] if telling else ""


def _result(engine: str, work: str, runs: int, raw: Mapping[str, object], memory: float, grown: int) -> Result:
    seconds, latencies, lengths = raw["seconds"], raw.get("latencies_ms", []), raw.get("runs_ms", {})
    if not (isinstance(seconds, int | float) and isinstance(latencies, list) and isinstance(lengths, dict)):
        return Result(engine, work, runs, error="the program's result line is malformed")
    found = measure.figures(runs, seconds, latencies, {int(steps): took for steps, took in lengths.items()})
    found |= {"memory_mb": memory, "store_mb": grown / MB / runs * 10_000}
    own = raw.get("figures", {})
    if isinstance(own, dict):
        found |= {key: float(value) for key, value in own.items()}
    return Result(engine, work, runs, float(seconds), found)


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
        raise PeerError(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"{name}: not done after {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        raise PeerError(f"{name}: {complaint(done.stderr) or complaint(done.stdout)}")


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
