"""Catches I/O in workflow code that does not go through the event loop: files, sockets, threads, `time.sleep`.

The interpreter announces such calls to audit hooks (PEP 578). Outside workflow code the hook costs one look-up.
"""

from __future__ import annotations

import sys
from typing import Any

from perdure.core.loop import caller, running
from perdure.model.errors import NotDurableError

_FIXES = {
    "open": "a file; read or write it in a step",
    "os.listdir": "a directory; read it in a step",
    "os.scandir": "a directory; read it in a step",
    "os.system": "a process; start it in a step",
    "os.fork": "a process; start it in a step",
    "os.posix_spawn": "a process; start it in a step",
    "subprocess.Popen": "a process; start it in a step",
    "socket.__new__": "a socket; use it in a step",
    "socket.connect": "a socket; use it in a step",
    "socket.getaddrinfo": "the network; use it in a step",
    "sqlite3.connect": "a database; use it in a step",
    "_thread.start_new_thread": "a thread; a plain `def` step runs in one",
    "_thread.start_joinable_thread": "a thread; a plain `def` step runs in one",
    "time.sleep": "the wall clock; use `await flow.sleep(...)` or `await asyncio.sleep(...)`",
}
_READERS_OF_CODE = ("<frozen importlib", "linecache", "tokenize", "zipimport", "importlib")
_installed: list[bool] = []


def install() -> None:
    """Install the hook, once for the process; a hook cannot be taken out again."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event not in _FIXES:
        return
    loop = running()
    if loop is None or (event == "open" and _is_reading_code()):
        return
    raise NotDurableError(
        f"{caller()}: workflow {loop.replay.program.name!r} uses {_FIXES[event]}; a replay could not repeat it"
    )


def _is_reading_code() -> bool:
    """Return whether an import or a traceback, rather than the user, opens the file."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_READERS_OF_CODE[0]) or frame.f_globals.get("__name__", "").startswith(_READERS_OF_CODE[1:]):
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
