"""What a replay could not repeat raises in workflow code, with the line and the way out; the rest works."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import inspect
import logging
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.core import guard, loop
from perdure.core.loop import caller
from perdure.model.errors import NotDurableError
from perdure.model.run import RunStatus
from tests.core.driver import Driver, encode, steps

a, b = steps("a", "b")


@pytest.fixture(autouse=True)
def guarded() -> None:
    guard.install()
    guard.install()  # a second time does nothing


BLOCKING: list[tuple[str, Callable[[], Any], str]] = [
    ("open", lambda: open("/dev/null").close(), "a file; read or write it in a step"),
    ("path", lambda: pathlib.Path("/dev/null").read_text(), "a file; read or write it in a step"),
    ("listdir", lambda: os.listdir("."), "a directory; read it in a step"),
    ("socket", socket.socket, "a socket; use it in a step"),
    ("getaddrinfo", lambda: socket.getaddrinfo("localhost", 80), "the network; use it in a step"),
    ("thread", lambda: threading.Thread(target=print).start(), "a thread; a plain `def` step runs in one"),
    ("sleep", lambda: time.sleep(0), "the wall clock; use `await flow.sleep(...)` or `await asyncio.sleep(...)`"),
    ("subprocess", lambda: subprocess.run(["true"], check=True), "a process; start it in a step"),
    ("system", lambda: os.system("true"), "a process; start it in a step"),
    ("sqlite", lambda: sqlite3.connect(":memory:"), "a database; use it in a step"),
]


@pytest.mark.parametrize(("call", "fix"), [case[1:] for case in BLOCKING], ids=[case[0] for case in BLOCKING])
def test_a_blocking_call_raises_with_its_line_and_the_fix(call: Callable[[], Any], fix: str):
    async def work() -> None:
        call()

    error = Driver(work).error
    assert type(error) is NotDurableError
    line = inspect.getsourcelines(call)[1] if call is not socket.socket else inspect.getsourcelines(work)[1] + 1
    assert str(error) == f"{__file__}:{line}: workflow 'flow' uses {fix}; a replay could not repeat it"


def running() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("run_in_executor", lambda: running().run_in_executor(None, print)),
    ("run_in_executor", lambda: asyncio.to_thread(print)),
    ("create_connection", lambda: running().create_connection(asyncio.Protocol, "localhost", 80)),
    ("create_connection", lambda: asyncio.open_connection("localhost", 80)),
    ("create_server", lambda: asyncio.start_server(print, "localhost", 80)),
    ("subprocess_exec", lambda: asyncio.create_subprocess_exec("true")),
    ("subprocess_shell", lambda: asyncio.create_subprocess_shell("true")),
    ("add_signal_handler", lambda: running().add_signal_handler(signal.SIGUSR1, print)),
    ("add_reader", lambda: running().add_reader(0, print)),
    ("call_soon_threadsafe", lambda: running().call_soon_threadsafe(print)),
    ("run_until_complete", lambda: running().run_until_complete(running().create_future())),
    ("stop", lambda: running().stop()),
]


@pytest.mark.parametrize(("name", "call"), REFUSED, ids=[f"{n}-{case[0]}" for n, case in enumerate(REFUSED)])
def test_what_the_loop_cannot_repeat_raises_with_its_line(name: str, call: Callable[[], Any]):
    async def work() -> None:
        result = call()
        if inspect.isawaitable(result):
            await result

    error = Driver(work).error
    assert type(error) is NotDurableError
    assert str(error).startswith(f"{__file__}:")
    assert f"workflow 'flow' called loop.{name}, which a replay cannot repeat; move that code into a step" in str(error)


def test_a_loop_that_waits_for_nothing_is_stopped(monkeypatch: pytest.MonkeyPatch):
    async def work() -> None:
        while True:
            await asyncio.sleep(0)

    monkeypatch.setattr(loop, "SPIN_LIMIT", 1_000)
    error = Driver(work).error
    assert type(error) is NotDurableError
    assert str(error) == (
        "workflow 'flow' ran 1,000 callbacks without waiting for anything; "
        "await a step, a sleep or an event inside its loop"
    )


def test_a_loop_that_waits_now_and_then_may_go_on_for_ever(monkeypatch: pytest.MonkeyPatch):
    async def work() -> int:
        for n in range(300):
            await a(n)
        return n

    monkeypatch.setattr(loop, "SPIN_LIMIT", 100)
    assert Driver(work).finish().result == 299


def test_outside_of_workflow_code_nothing_is_guarded(tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("text")
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def fresh_module(tmp_path: pathlib.Path) -> Iterator[str]:
    """A package that was never imported, which reads a file and looks into a folder when it is."""
    package = tmp_path / "perdure_fresh"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os\nwith open(__file__) as file:\n    SELF = file.read()\nFILES = os.listdir(__path__[0])\n"
    )
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield "perdure_fresh"
    sys.path.remove(str(tmp_path))
    sys.modules.pop("perdure_fresh", None)


def test_imports_inside_workflow_code_work(fresh_module: str):
    async def work() -> bool:
        import perdure_fresh  # type: ignore[import-not-found]

        return "__init__.py" in perdure_fresh.FILES

    assert Driver(work).result is True


def test_logging_inside_workflow_code_works(tmp_path: pathlib.Path):
    log = logging.getLogger("tests.core.not_durable")
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    log.addHandler(handler)

    async def work() -> None:
        log.warning("said")

    try:
        assert Driver(work).result is None
        assert (tmp_path / "log").read_text() == "said\n"
    finally:
        log.removeHandler(handler)
        handler.close()


def test_tracebacks_can_be_formatted_inside_workflow_code():
    async def work() -> bool:
        import linecache

        linecache.clearcache()
        try:
            raise ValueError("no")
        except ValueError:
            return "raise ValueError" in traceback.format_exc()

    assert Driver(work).result is True


def test_time_zones_can_be_used_inside_workflow_code():
    async def work() -> str:
        zoneinfo.ZoneInfo.clear_cache()
        return flow.now().astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).isoformat()

    assert Driver(work).result == "2023-11-14T23:13:20+01:00"


def test_a_program_that_was_started_by_an_import_is_guarded_all_the_same(tmp_path: pathlib.Path):
    code = "import tests.core.test_not_durable as t\nERROR = t.looks_into_a_folder()\n"
    (tmp_path / "perdure_main.py").write_text(code)
    sys.path.insert(0, str(tmp_path))
    sys.modules["tests.core.test_not_durable"] = sys.modules[__name__]
    try:
        assert type(importlib.import_module("perdure_main").ERROR) is NotDurableError
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("perdure_main", None)


def looks_into_a_folder() -> Exception:
    async def work() -> None:
        os.listdir(".")

    return Driver(work).error


def test_the_hook_lets_pass_what_is_no_business_of_a_workflow():
    """Called by hand, because the interpreter hides what its hooks do from coverage."""

    async def work() -> list[str]:
        guard._audit("some.event", ())
        guard._audit("open", (f"{zoneinfo.TZPATH[0]}/UTC",))
        import_like = eval("lambda: guard._audit('open', ('file',))", {"guard": guard, "__name__": "importlib.some"})
        import_like()
        try:
            guard._audit("open", ("file",))
        except NotDurableError as error:
            return [str(error).partition(": ")[2]]
        return []

    guard._audit("open", ("file",))
    assert Driver(work).result == [
        "workflow 'flow' uses a file; read or write it in a step; a replay could not repeat it"
    ]


def test_a_call_that_only_the_library_made_still_has_a_line():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # `caller` is called by a thread of the library's
        assert "threading.py:" in pool.submit(caller).result()


def test_code_that_no_workflow_called_is_never_allowed_anything():
    assert guard._is_time_zone(3) is False
    threads = []
    thread = threading.Thread(target=lambda: threads.append(guard._is_allowed()))
    thread.start()
    thread.join()
    assert threads == [False]


def test_what_an_older_python_does_not_announce_is_announced(monkeypatch: pytest.MonkeyPatch):
    class Silent:
        @staticmethod
        def sleep(seconds: float) -> str:
            return f"slept {seconds}"

    async def work() -> str:
        return Silent.sleep(1)

    monkeypatch.setitem(sys.modules, "perdure_silent", Silent)  # type: ignore[arg-type]  # as good as a module
    monkeypatch.setattr(guard, "_SILENT", [("perdure_silent", "sleep", "time.sleep", (3, 12))])
    guard._announce((3, 12, 1))
    assert Driver(work).result == "slept 1"
    guard._announce((3, 11, 9))
    assert "uses the wall clock" in str(Driver(work).error)
    assert Silent.sleep(2) == "slept 2"


def test_a_bare_callback_that_fails_is_logged_once(caplog: pytest.LogCaptureFixture):
    async def work() -> None:
        running().call_soon(lambda: 1 / 0)
        await a()
        await b()

    run = Driver(work)
    assert [record.message for record in caplog.records if "error in" in record.message]
    run.end("a")
    caplog.clear()
    run.crash()
    assert caplog.records == []


def test_an_exception_that_nobody_looks_at_is_logged(caplog: pytest.LogCaptureFixture):
    async def fails() -> None:
        raise ValueError("unseen")

    async def work() -> None:
        for _ in range(70):  # so many that the loop forgets those that are done
            asyncio.create_task(fails())  # noqa: RUF006  # nobody looks at it
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        running().call_exception_handler({})
        await a()

    Driver(work).end("a")
    assert "run r: Task exception was never retrieved" in caplog.text
    assert "run r: unhandled error" in caplog.text


def test_handles_can_be_cancelled_and_asked():
    async def work() -> list[Any]:
        called: list[str] = []
        loop = running()
        soon, later = loop.call_soon(called.append, "soon"), loop.call_later(60, called.append, "later")
        for handle in (soon, later, later):
            handle.cancel()
        loop.call_later(5, called.append, "on time")
        when = later.when() - loop.time()
        await asyncio.sleep(6)
        loop.set_debug(True)
        return [soon.cancelled(), later.cancelled(), when, called, loop.is_running(), loop.is_closed()]

    run = Driver(work)
    run.wait(5)
    run.wait(1)
    assert run.result == [True, True, 60, ["on time"], True, False]
    assert run.keys == ["timeout#2", "sleep", "output"]


def test_there_is_no_private_loop_outside_of_workflow_code():
    run = Driver(_one_step)
    assert run.turn is not None
    assert run.turn.replay.loop.is_running() is False
    assert loop.running() is None
    assert caller().startswith(__file__)


async def _one_step() -> None:
    await a()


@pytest.mark.parametrize("nested", [False, True])
def test_leaving_python_from_workflow_code_fails_the_run_and_not_the_worker(nested: bool):
    async def leave() -> None:
        sys.exit("enough")

    async def work() -> None:
        if nested:
            await asyncio.gather(leave(), a())
        await leave()

    run = Driver(work)
    assert run.status is RunStatus.ERRORED
    assert "enough" in str(run.error)


def test_leaving_python_in_a_task_can_be_caught_by_its_parent():
    async def leave() -> None:
        sys.exit("enough")

    async def work() -> str:
        try:
            await asyncio.create_task(leave())
        except SystemExit:
            return await b("stayed")
        return "left"

    run = Driver(work)
    run.end("b", "stayed")
    assert run.result == "stayed"


def test_a_workflow_that_cancels_itself_fails():
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await a()

    assert "CancelledError" in str(Driver(work).error)


def test_a_result_that_cannot_be_stored_fails_the_run_and_says_so():
    async def work() -> Any:
        return object()

    assert "the result of workflow 'flow' cannot be stored" in str(Driver(work).error)


def test_a_result_of_another_type_than_announced_fails_the_run():
    async def work() -> int:
        return "five"  # type: ignore[return-value]

    assert "the result of workflow 'flow' does not fit int" in str(Driver(work).error)


def test_arguments_that_do_not_fit_fail_a_new_run():
    async def work(n: int) -> None:
        await a()

    async def other(n: str) -> None:
        await a()

    error = Driver(other, "5", journal=Driver(work, 5).journal[:1]).error
    assert "the input of workflow 'flow' does not fit its parameters" in str(error)


def test_an_entrypoint_that_cannot_be_made_fails_its_run():
    async def work() -> None:
        await a()

    class Broken(type(Driver(work).program)):  # type: ignore[misc]
        def begin(self, payload: str, run: Any) -> Any:
            raise RuntimeError("no such setting")

    assert str(Driver(Broken(work, name="flow")).error) == "no such setting"
    assert encode(None) == "null"
