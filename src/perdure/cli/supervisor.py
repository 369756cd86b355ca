"""`perdure worker --processes N`: keeps N worker processes at work, and ends with them.

The processes run the same command. The first is started alone, so that what is wrong with the application or the store
is said once; the others follow when it is at work. One that ends without having been asked to is replaced. See
`perdure.cli.supervised` for how the two sides speak.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from structlog.stdlib import BoundLogger

from perdure.cli.command import OK, PROBLEM, UNAVAILABLE, USAGE
from perdure.cli.style import count
from perdure.cli.supervised import PLACE, Failure, News
from perdure.engine.worker.shift import SIGNALS
from perdure.model.duration import in_words

ATTEMPTS = 5
"""How many processes in a row, in one place, may end before they are at work."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between the end of a process and the start of the next one; each time twice as many."""

STEADY = 30.0
"""Seconds at work after which a process that ends is no sign that the next one will."""

LAST_WORDS = 1.0
"""Seconds for what a process told before it ended to come through."""


class Process:
    """One worker process, and the supervisor's end of its line.

    Attributes:
        number: its place, from 1 on; 0 where there is no other.
        working: what it works, once it does.
        worked_for: how many seconds it was at work.
        failed: why it ended, where it said so.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.working: dict[str, Any] | None = None
        self.failed: Failure | None = None
        self.worked_for = 0.0
        self._working_since = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unsaid = b""

    async def run(self, command: Sequence[str], began: Callable[[Process], object]) -> int:
        """Run the command until it ends, and return its exit code; below zero, the signal that ended it.

        Args:
            command: what to run.
            began: called when it is at work.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._writer.write(self._unsaid)
            try:
                environment = {**os.environ, PLACE: f"{self.number}:{theirs.fileno()}"}
                self._process = await asyncio.create_subprocess_exec(
                    *command, env=environment, stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
            except OSError as error:
                self._writer.close()
                self.failed = Failure(type(error).__name__, f"the process cannot be started: {error}")
                return PROBLEM
        hearing = asyncio.ensure_future(self._hear(reader, began))
        try:
            code = await self._process.wait()
            await asyncio.wait([hearing], timeout=LAST_WORDS)
        finally:
            hearing.cancel()
            self._writer.close()
        if self.working is not None:
            self.worked_for = asyncio.get_running_loop().time() - self._working_since
        return code

    def tell(self, number: signal.Signals, times: int) -> None:
        """Tell it that the supervisor was sent a signal, and how many there were with it."""
        said = f"{number.name} {times}\n".encode()
        if self._writer is None:
            self._unsaid += said
        elif not self._writer.is_closing():
            self._writer.write(said)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _hear(self, reader: asyncio.StreamReader, began: Callable[[Process], object]) -> None:
        try:
            while line := await reader.readline():
                news = msgspec.json.decode(line, type=News)
                if news.failed is not None:
                    self.failed = news.failed
                elif news.working is not None:
                    self.working = news.working
                    self._working_since = asyncio.get_running_loop().time()
                    began(self)
        except OSError:  # it was killed
            pass


class Supervisor:
    """Keeps worker processes at work until a signal comes.

    Args:
        words: what to type behind `perdure` to have one of them.
        size: how many to keep.
        log: where to say what happens.
        began: called with what each works, when all of them do for the first time.
    """

    def __init__(
        self, words: Sequence[str], size: int, log: BoundLogger, began: Callable[[list[dict[str, Any]]], object]
    ) -> None:
        self._command = [sys.executable, "-m", "perdure.cli", *words]
        self._size = size
        self._log = log
        self._began = began
        self._signals: list[signal.Signals] = []
        self._processes: dict[int, Process] = {}
        self._stop = asyncio.Event()
        self._is_first_at_work = asyncio.Event()
        self._all: dict[int, dict[str, Any]] = {}
        self._code = OK
        self.failure: Failure | None = None

    async def work(self) -> int:
        """Keep them until a signal comes, or they cannot be kept; return the exit code.

        It is the worst of theirs. With `failure` set, they could not be kept, and it says why.
        """
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        places = [asyncio.ensure_future(self._keep(1))]
        first = asyncio.ensure_future(self._is_first_at_work.wait())
        await asyncio.wait([places[0], first], return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if not self._stop.is_set():
            places += [asyncio.ensure_future(self._keep(number)) for number in range(2, self._size + 1)]
        codes = await asyncio.gather(*places)
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        if len(self._signals) > 2:
            return 128 + self._signals[2]
        if self.failure is None:
            self._log.info("all workers stopped")
        return max(self._code, *codes)

    async def _keep(self, place: int) -> int:
        """Have one process after the other in a place; return the exit code of the last."""
        attempts, pause = 0, FIRST_PAUSE
        while not self._stop.is_set():
            process = self._processes[place] = Process(place)
            code = await process.run(self._command, self._at_work)
            if self._stop.is_set():
                return _exit_code(code)
            attempts = attempts + 1 if process.working is None else 0
            if self._is_hopeless(process, code, attempts):
                return OK  # `_give_up` has said the code
            pause = FIRST_PAUSE if process.worked_for >= STEADY else pause
            self._log.warning(
                f"process {ending(code)}; another one starts in {in_words(round(pause * 1000))}",
                process=place,
                **({"error": process.failed.message} if process.failed else {}),
            )
            try:
                await asyncio.wait_for(self._stop.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, LONGEST_PAUSE)
        return OK

    def _is_hopeless(self, process: Process, code: int, attempts: int) -> bool:
        """Give up where the next process would not be at work either."""
        if process.working is not None:
            return False
        if not self._is_first_at_work.is_set() and code in {USAGE, UNAVAILABLE}:
            self._give_up(code, process.failed or Failure("PerdureError", f"the first process {ending(code)}"))
            return True
        if code == UNAVAILABLE:  # it was there, and the processes that are at work wait for it too
            return False
        if attempts < ATTEMPTS:
            return False
        why = f": {process.failed.message}" if process.failed else ""
        said = f"{ATTEMPTS} processes in a row ended before they were at work; the last {ending(code)}{why}"
        self._give_up(PROBLEM, Failure("PerdureError", said))
        return True

    def _give_up(self, code: int, failure: Failure) -> None:
        self._code, self.failure = code, failure
        self._stop.set()
        self._tell_all(signal.SIGTERM, 1)

    def _at_work(self, process: Process) -> None:
        assert process.working is not None
        self._is_first_at_work.set()
        if len(self._all) < self._size:
            self._all[process.number] = process.working
            if len(self._all) == self._size:
                self._log.info(f"{count(self._size, 'worker')} in processes of their own", pid=os.getpid())
                self._began([self._all[number] for number in sorted(self._all)])

    def _signalled(self, number: signal.Signals) -> None:
        self._signals.append(number)
        self._stop.set()
        if len(self._signals) > 2:
            for process in self._processes.values():
                process.kill()
            return
        at_once = " at once" if len(self._signals) > 1 else ""
        self._log.info(f"stopping {count(len(self._processes), 'worker')}{at_once}", signal=number.name)
        self._tell_all(number, len(self._signals))

    def _tell_all(self, number: signal.Signals, times: int) -> None:
        for process in self._processes.values():
            process.tell(number, times)


def ending(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _exit_code(code: int) -> int:
    """Return the exit code that tells of an end that was asked for: a process that was killed did not stop in order."""
    if code >= 0:
        return code
    return 128 - code if -code in SIGNALS else PROBLEM
