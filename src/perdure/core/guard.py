"""Catches I/O in workflow code that does not go through the event loop: files, sockets, threads, `time.sleep`.

The interpreter announces such calls to audit hooks (PEP 578). Outside workflow code the hook costs one look-up.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from perdure.core.loop import ReplayLoop, caller, running
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
_ALLOWED = {"importlib", "linecache", "logging", "tokenize", "zipimport"}
"""Modules that may do as they like: what they do is the same on a replay, or, in a log, is meant to be outside."""

_SILENT = [
    ("time", "sleep", "time.sleep", (3, 13)),
    ("threading", "_start_new_thread", "_thread.start_new_thread", (3, 12)),
]
"""What Pythons before a version do without announcing it: the module, the function there, and the event."""

_installed: list[bool] = []


def install() -> None:
    """Install the hook, once for the process; a hook cannot be taken out again."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)
        _announce(sys.version_info)


def _announce(version: tuple[Any, ...]) -> None:
    """Have an older Python announce what newer ones announce by themselves."""
    for module, name, event, since in _SILENT:
        if version < since:
            setattr(sys.modules[module], name, _announced(getattr(sys.modules[module], name), event))


def _announced(function: Callable[..., Any], event: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def announced(*args: Any, **kwargs: Any) -> Any:
        sys.audit(event, *args)
        return function(*args, **kwargs)

    return announced


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event not in _FIXES:
        return
    loop = running()
    if loop is None or _is_allowed() or (event == "open" and _is_time_zone(args[0])):
        return
    raise NotDurableError(
        f"{caller()}: workflow {loop.replay.program.name!r} uses {_FIXES[event]}; a replay could not repeat it"
    )


def _is_allowed() -> bool:
    """Return whether workflow code is importing, logging or formatting a traceback, rather than doing it itself."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code is not ReplayLoop.drain.__code__:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module in _ALLOWED or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None at the bottom
    return False


def _is_time_zone(path: object) -> bool:
    """Return whether a file is one that `zoneinfo` reads."""
    zones = sys.modules.get("zoneinfo")
    return zones is not None and isinstance(path, str) and path.startswith(zones.TZPATH)
