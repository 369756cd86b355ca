"""`perdure worker`: a process that works an application's runs until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from structlog.stdlib import BoundLogger

from perdure.cli import logs
from perdure.cli.command import OK, command
from perdure.cli.session import Session
from perdure.cli.style import count, duration
from perdure.engine.app import Perdure
from perdure.engine.shift import Shift
from perdure.engine.worker import Worker
from perdure.model.duration import milliseconds
from perdure.model.errors import UsageError

LEVELS = ("debug", "info", "warning", "error")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "worker",
        without=["app"],
        examples=[
            "perdure worker shop.app:app",
            "perdure worker shop/app.py:app --queues mail,default --concurrency 50 --drain 2m",
        ],
    )(work)


def work(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="As in shop.app:app, or shop/app.py:app.")],
    *,
    queues: Annotated[
        str | None, typer.Option("--queues", "-q", metavar="A,B", help="The queues to serve; the app's by default.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", metavar="N", help="How many runs to have in hand at once.")
    ] = None,
    drain: Annotated[
        str | None, typer.Option("--drain", metavar="DURATION", help="How long running steps may take when it stops.")
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log JSON lines, as it does by itself where there is no terminal.")
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)}.")] = "info",
) -> int:
    """Work runs until SIGTERM or SIGINT: then running steps finish, and everything else is handed back at once.

    A second signal stops without waiting for steps; other workers repeat those.

    Exit codes: 0 stopped in order; 1 steps were cut off when --drain ended, or a defect ended it; 143 or 130 a second
    signal; 2 the application cannot be imported; 4 the store cannot be used.
    """
    if log_level.lower() not in LEVELS:
        raise UsageError(f"--log-level: {log_level!r} is none of {', '.join(LEVELS)}")
    log = logs.configure(as_json=log_json or session.as_json or not sys.stderr.isatty(), level=log_level)
    session.app = target
    given: dict[str, Any] = {
        "queues": queues and tuple(name.strip() for name in queues.split(",")),
        "concurrency": concurrency,
        "drain": drain,
    }
    app = session.load(creates=True, **{name: value for name, value in given.items() if value is not None})
    if app.settings.mode == "client":
        raise UsageError(f"{target} has mode='client', which works nothing; take that out, or give another app")
    if not app.registry.workflows:
        raise UsageError(f"{target} has no workflows, so there is nothing to work")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(ToldShift(session, app, log).work())
    if code != OK:
        # A thread that a step left behind would keep the process; what it does is lost already.
        sys.stdout.flush()
        logging.shutdown()
        os._exit(code)
    return code


class ToldShift(Shift):
    """A worker's process that says what happens as the other commands do.

    Args:
        session: how the command was called.
        app: the closed engine.
        log: where to say what happens.
    """

    def __init__(self, session: Session, app: Perdure, log: BoundLogger) -> None:
        super().__init__(app)
        self._session = session
        self._log = log

    def stopping(self, worker: Worker, reason: str | None) -> None:
        """Say how long this may take."""
        drain = duration(milliseconds(self.app.settings.drain))
        left = f" and waiting up to {drain} for {count(len(worker.turns), 'run')}"
        self._log.info(f"stopping{left if worker.turns else ''}", signal=reason)

    def hurried(self, reason: str) -> None:
        """Say that a second signal was heard."""
        self._log.warning("stopping at once", signal=reason)

    def insisted(self, number: signal.Signals) -> None:
        """End as if nobody had taken the signal, whatever hangs."""
        os._exit(128 + number)

    def stopped(self, worker: Worker) -> None:
        """Say what was left undone."""
        if worker.cut_off:
            self._log.warning(f"{count(worker.cut_off, 'run')} given back in the middle of a step")
        self._log.info("stopped")

    async def opened(self, worker: Worker) -> None:
        """Say what is worked, and where."""
        info = await self.app.describe()
        hello = {
            "store": info.url,
            "durability": info.durability,
            "workflows": sorted(self.app.registry.workflows),
            "queues": list(self.app.settings.queues),
            "concurrency": self.app.settings.concurrency,
            "pid": os.getpid(),
            "worker": worker.id,
        }
        lists = {name: ",".join(value) if isinstance(value, list) else value for name, value in hello.items()}
        self._log.info("working", **(hello if self._session.as_json else lists))
        if self._session.as_json:
            self._session.show(hello)
            self._session.out.file.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop; None, for asyncio's own, where there is no uvloop."""
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory
