"""A few threads of our own for plain `def` steps.

A stopped body ends at its next line of Python; one that is stuck outside of Python cannot be ended at all. So a thread
is replaced as soon as its body is stopped, and goes away once that has ended. All are daemons: the interpreter does
not wait for them when it exits.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("perdure.engine")

_SPINS_WHEN_TRACED = sys.version_info < (3, 12)
"""A traced caller (a debugger, coverage) then spins until the other thread has taken the exception up, which one that
is stuck outside of Python does not do; so there the body is only left behind."""


class StopThread(BaseException):
    """Raised in a thread whose step was stopped; no `except Exception` holds it up."""


class Call:
    """A call in a thread, and its result."""

    def __init__(self, threads: Threads, body: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.result: asyncio.Future[Any] = loop.create_future()
        self._threads = threads
        self._body = body
        self._loop = loop
        self._lock = threading.Lock()  # a thread that `StopThread` may come to holds no lock that others need
        self._thread: int | None = None
        self._is_stopped = False

    def run(self) -> bool:
        """Run the call in the present thread; return whether that may go on to another one."""
        with self._lock:
            if self._is_stopped:
                return True
            self._thread = threading.get_ident()
        result, error = None, None
        try:
            try:
                result = self._body()
            except BaseException as raised:
                error = raised
            with self._lock:
                self._thread = None
                if self._is_stopped:
                    return False
            self._loop.call_soon_threadsafe(_settle, self.result, result, error)
        except RuntimeError:  # the loop is closed, and nobody waits
            pass
        finally:
            del result, error  # whose traceback holds this frame
        return True

    def stop(self) -> None:
        """Begin no more; a call that is under way ends at its next line, and its thread is replaced."""
        if self._is_stopped:
            return
        with self._lock:
            self._is_stopped = True
            if self._thread is None:
                return
            if not _SPINS_WHEN_TRACED or sys.gettrace() is None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(StopThread))
        self._threads.replace()


class Threads:
    """See the module's text. `count` is how many calls run at once."""

    def __init__(self, count: int) -> None:
        self._room = count
        self._idle = 0
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._is_closed = False

    def call(self, body: Callable[[], Any], context: contextvars.Context) -> Call:
        """Call a body as soon as a thread is free."""
        call = Call(self, lambda: context.run(body), asyncio.get_running_loop())
        with self._changed:
            self._calls.append(call)
            self._employ()
        return call

    def replace(self) -> None:
        """Have another thread in place of one whose body was stopped."""
        with self._changed:
            self._room += 1
            self._employ()

    def close(self) -> None:
        """Begin nothing more, and wait for nothing."""
        with self._changed:
            self._is_closed = True
            self._calls.clear()
            self._changed.notify_all()

    def _employ(self) -> None:
        if self._is_closed or not self._calls:
            return
        if self._idle >= len(self._calls):
            self._changed.notify()
        elif self._room > 0:
            thread = threading.Thread(target=self._serve, name="perdure-step", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the call waits for the next thread that is free
                _log.warning("no further thread can be started for steps: %s", error)
            else:
                self._room -= 1

    def _serve(self) -> None:
        try:
            while (call := self._next()) is not None and call.run():
                del call  # and with it what the step was given
        except StopThread:
            pass  # it came late, to a thread that is replaced already

    def _next(self) -> Call | None:
        with self._changed:
            while not self._calls:
                if self._is_closed:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return self._calls.popleft()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
