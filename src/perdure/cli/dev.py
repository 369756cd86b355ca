"""`perdure dev`: an application's worker, its server and its dashboard, in one command.

The server is in this process. The worker is in one of its own, which is told to stop and started anew when a file
changes. One that cannot be started says why, and the next change is another chance. Where the application takes
webhooks, this process imports it too, each time that a worker is at work with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.text import Text
from structlog.stdlib import BoundLogger

from perdure.cli import logs
from perdure.cli.command import OK, UNAVAILABLE, command
from perdure.cli.dev_webhooks import Webhooks
from perdure.cli.server import NEEDED
from perdure.cli.session import DEFAULT_STORE, STORE, Session
from perdure.cli.style import QUIET
from perdure.cli.supervisor import Process, ending
from perdure.cli.worker import EVERY, _loop_factory
from perdure.engine.worker.shift import SIGNALS
from perdure.model.errors import UsageError
from perdure.store.url import redacted

DRAIN = "3 seconds"
"""How long running steps may take when the worker is to stop; what is cut off is repeated by the next one."""

PAUSE = 1.0
"""Seconds after which a worker that ended by itself is started anew."""

QSTASH_TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="  # noqa: S105  # known to all
"""What QStash's clients take for the token of a server for development. Without keys any is as good."""

SUFFIXES = (".yaml", ".yml", ".toml", ".env")
"""What else than Python files is looked at for changes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "dev",
        without=["app"],
        examples=["perdure dev app.py", "perdure dev shop.app:app --port 9000 --store sqlite:///shop.db"],
    )(dev)


def dev(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="As in app.py, shop/app.py:app or shop.app:app.")],
    *,
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, help="Of the dashboard and the API.")] = 8000,
    qstash_dev: Annotated[
        bool,
        typer.Option("--qstash-dev", help="Sign messages as QStash's clients expect of a server for development."),
    ] = False,
) -> int:
    """Work an application, and show it: worker, server and dashboard in one command, for this machine alone.

    The worker is started anew when a file of the application changes, and its webhooks come in here. Without --store,
    runs are kept in perdure.db in the current folder, whatever store the application names. The first Ctrl-C ends both
    in order, the second hurries.

    QStash's clients are told by QSTASH_URL and QSTASH_TOKEN where to ask. With --port 8080 --qstash-dev those in
    JavaScript find it by QSTASH_DEV=1 alone.

    Exit codes: 0 stopped in order; 2 the command line is wrong, or the port is taken; 4 the store cannot be used.
    """
    if missing := [name for name in (*NEEDED, "watchfiles") if find_spec(name) is None]:
        raise UsageError(f"perdure dev needs {', '.join(missing)}: pip install 'perdure[server]'")
    folder = _folder(target)
    store = session.store or DEFAULT_STORE
    if store.startswith("memory://"):
        raise UsageError(
            "memory:// is each process's own, so the worker's runs would not be seen; give sqlite:///file.db"
        )
    server: Any = import_module("perdure.server")
    settings = server.ServerSettings.read(
        os.environ, store=store, host="127.0.0.1", port=port, qstash_dev=qstash_dev or None
    )
    os.environ[STORE] = store  # for the worker, and not a word of its command, which every user of the machine can read
    as_json = session.as_json or not sys.stderr.isatty()
    logs.configure(as_json=as_json, level="info")
    for name in ("uvicorn", "watchfiles", "perdure.requests"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log = structlog.get_logger("perdure.dev")
    words = [
        "worker",
        f"--drain={DRAIN}",
        f"--queues={EVERY}",
        *(["--log-json"] if session.as_json else []),
        "--",
        target,
    ]
    asgi = server.create_server(settings)
    webhooks = Webhooks(target, folder, asgi.state.hooks, log)
    reloading = Reloading([sys.executable, "-m", "perdure.cli", *words], folder, log, webhooks.began)

    def listening(url: str) -> None:
        hello = {"dashboard": url, "api": f"{url}/api/docs", "store": redacted(store), "watching": str(folder)}
        hello |= {"QSTASH_URL": url, "QSTASH_TOKEN": QSTASH_TOKEN}
        webhooks.url = url
        if as_json:
            log.info("serving", **hello)
            session.tell({**hello, "pid": os.getpid()})
        else:
            _welcome(session, hello)
        reloading.begin()

    listener = import_module("perdure.server.listening").Listener(asgi, listening)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_work(listener, reloading))
    log.info("stopped")
    return OK


async def _work(listener: Any, reloading: Reloading) -> None:
    try:
        await listener.work()
    finally:
        await reloading.end()


class Reloading:
    """A worker's process, which is started anew when a file changes.

    Args:
        command: what is run.
        folder: where files are looked at.
        log: where to say what happens.
        began: called when a worker is at work.
    """

    def __init__(self, command: list[str], folder: Path, log: BoundLogger, began: Callable[[Process], object]) -> None:
        self._command = command
        self._folder = folder
        self._log = log
        self._began = began
        self._process: Process | None = None
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Start the worker, and look for changes."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watch()), loop.create_task(self._keep())]

    async def end(self) -> None:
        """Have the worker stop, and wait until it has; further signals hurry it, and the third one ends it."""
        self._stop.set()
        loop = asyncio.get_running_loop()
        times = 1

        def hurry() -> None:
            nonlocal times
            times += 1
            self._tell(times)

        for number in SIGNALS:
            loop.add_signal_handler(number, hurry)
        try:
            self._tell(times)
            for task in self._tasks:
                await task
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _tell(self, times: int) -> None:
        if self._process is None:
            return
        if times > 2:
            self._process.kill()
        else:
            self._process.tell(signal.SIGTERM, times)

    async def _watch(self) -> None:
        watchfiles: Any = import_module("watchfiles")
        chosen = watchfiles.PythonFilter(extra_extensions=SUFFIXES)
        async for changes in watchfiles.awatch(self._folder, watch_filter=chosen, stop_event=self._stop):
            names = sorted({Path(path).name for _, path in changes})
            self._log.info(f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''} changed")
            self._changed.set()

    async def _keep(self) -> None:
        """Have one worker after the other."""
        while not self._stop.is_set():
            self._changed.clear()
            process = self._process = Process(0)
            ended = asyncio.ensure_future(process.run(self._command, self._began))
            await self._either(ended)
            if not ended.done():
                process.tell(signal.SIGTERM, 1)
            code = await ended
            if self._stop.is_set() or self._changed.is_set():
                continue
            if process.working is None:
                why = process.failed.message if process.failed is not None else f"it {ending(code)}"
                self._log.error(f"the application cannot be worked: {why}")
                self._log.info("change a file, and it is tried again")
                await self._either(timeout=PAUSE if code == UNAVAILABLE else None)
            else:
                await self._either(timeout=PAUSE)  # a signal may have come to it first, and only then to us
                if not self._stop.is_set() and not self._changed.is_set():
                    self._log.warning(f"the worker {ending(code)}; another one starts")

    async def _either(self, ended: asyncio.Future[int] | None = None, timeout: float | None = None) -> None:
        """Wait until a file changes, the command is to stop, the worker has ended, or the time is over."""
        events = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._stop)]
        waited: list[asyncio.Future[Any]] = [*events, *([] if ended is None else [ended])]
        try:
            await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()


def _folder(target: str) -> Path:
    """Return where the files of an application are: of a file its folder, or that of the package that it is in.

    Raises:
        UsageError: there is no such file.
    """
    place = target.partition(":")[0]
    if not place.endswith(".py"):
        return Path.cwd()
    path = Path(place).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {place}")
    folder = path.parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _welcome(session: Session, hello: dict[str, str]) -> None:
    console = session.err
    console.print()
    console.print(Text.assemble("  dashboard  ", (hello["dashboard"], "bold")), soft_wrap=True)
    for name in ("api", "store", "watching"):
        console.print(Text.assemble(f"  {name:<9}  ", (hello[name], QUIET)), soft_wrap=True)
    console.print()
    for name in ("QSTASH_URL", "QSTASH_TOKEN"):
        console.print(Text.assemble("  ", (f"{name}={hello[name]}", QUIET)), soft_wrap=True)
    console.print(Text("\n  Ctrl-C ends it\n", QUIET))
