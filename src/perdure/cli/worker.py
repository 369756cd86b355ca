"""`perdure worker`: a process that works an application's runs until a signal ends it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from structlog.stdlib import BoundLogger

from perdure.cli import logs
from perdure.cli.command import OK, command, describe, exit_code, say_error, show_traceback
from perdure.cli.session import STORE, Session
from perdure.cli.style import count
from perdure.cli.supervised import Failure, Line, News
from perdure.cli.supervisor import Supervisor
from perdure.engine.app import Perdure
from perdure.engine.worker.shift import Shift
from perdure.engine.worker.worker import Worker
from perdure.model.duration import in_words, milliseconds, seconds
from perdure.model.errors import UsageError
from perdure.telemetry import telemetry_here

EVERY = "*"
"""What stands for the queues of all workflows of an application."""

LEVELS = ("debug", "info", "warning", "error")

QueueNames = Annotated[
    str | None,
    typer.Option(
        "--queues",
        "--queue",
        "-q",
        metavar="A,B=N",
        help="The queues to serve, and how many runs of one to have in hand at once; the app's by default. "
        "* is all that its workflows are in, too.",
    ),
]

Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", "-c", metavar="N", help="How many runs to have in hand at once, in each process."),
]

Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        "-p",
        metavar="N",
        min=1,
        help="How many whole workers to keep, for as many cores; Perdure(processes=...) is about steps.",
    ),
]

Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", metavar="NAME[=URL]", help="Whose runs to work: those of the namespace's own store."),
]

MetricsPlace = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        envvar="PERDURE_METRICS_PORT",
        help="Serve metrics for Prometheus there; with --processes, each at a port of its own from there on.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "worker",
        without=["app"],
        examples=[
            "perdure worker shop.app:app",
            "perdure worker shop/app.py:app --queues mail,default --concurrency 50 --drain 2m",
            "perdure worker shop.app:app --queues pdf=4,default",
            "perdure worker shop.app:app --processes 4",
            "perdure worker shop.app:app --namespace acme",
            "perdure worker shop.app:app --metrics 9100",
        ],
    )(work)


def work(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="As in shop.app:app, or shop/app.py:app.")],
    *,
    queues: QueueNames = None,
    concurrency: Concurrency = None,
    processes: Processes = 1,
    namespaces: Namespaces = None,
    drain: Annotated[
        str | None, typer.Option("--drain", metavar="DURATION", help="How long running steps may take when it stops.")
    ] = None,
    metrics: MetricsPlace = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log JSON lines, as it does by itself where there is no terminal.")
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)}.")] = "info",
) -> int:
    """Work runs until SIGTERM or SIGINT: then running steps finish, and everything else is handed back at once.

    A second signal stops without waiting for steps; other workers repeat those. With --processes, one that ends by
    itself is replaced, and they end with the process that keeps them.

    Exit codes: 0 stopped in order; 1 steps were cut off when --drain ended, a defect ended it, or its processes keep
    ending at their start; 143 or 130 a second signal; 2 the application cannot be imported; 4 the store cannot be used.
    With --processes it is the highest of theirs.
    """
    line = Line.found()
    if log_level.lower() not in LEVELS:
        raise UsageError(f"--log-level: {log_level!r} is none of {', '.join(LEVELS)}")
    log = logs.configure(
        as_json=log_json or session.as_json or not sys.stderr.isatty(),
        level=log_level,
        process=None if line is None else line.number or None,
    )
    namespace = _namespace(session, namespaces or [])
    given: dict[str, Any] = {"queues": queues, "concurrency": concurrency, "drain": drain, "namespace": namespace}
    chosen = {name: value for name, value in given.items() if value is not None}
    served = None if metrics is None else _place(metrics, processes if line is None else line.number)
    if processes > 1:
        flags = {"log-json": log_json or session.as_json, "debug": session.debug}
        words = [f"--{name}={value}" for name, value in {**chosen, "log-level": log_level}.items()]
        words += [f"--{name}" for name, is_set in flags.items() if is_set]
        words += [] if metrics is None else [f"--metrics={metrics}"]
        return _keep(session, log, ["worker", *words, "--", target], processes)
    session.app = target
    if queues is not None:
        chosen["queues"], most = _queues(queues)
        if chosen["queues"] != (EVERY,):
            chosen["per_queue"] = most
    if line is None:
        return _work(session, log, chosen, None, served)
    try:
        return _work(session, log, chosen, line, served)
    except Exception as error:
        if session.debug:
            show_traceback(error)
        line.tell(News(failed=Failure(*describe(error))))
        return exit_code(error)


def _namespace(session: Session, given: list[str]) -> str | None:
    """Return whose runs to work; a URL goes the way of --store, which no user of the machine can read off a process."""
    if len(given) > 1:
        raise UsageError(f"--namespace: a worker works the runs of one; start one each for {', '.join(given)}")
    name, equals, url = given[0].partition("=") if given else ("", "", "")
    if url:
        session.store = url
    return f"{name}{equals}" if given else None


def _queues(text: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the queues to serve, and how many runs of some of them to have in hand at once."""
    names: list[str] = []
    most: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if equals:
            if not number.isdecimal():
                raise UsageError(f"--queues: {part.strip()!r} must be a name, or a name and a number, as in pdf=4")
            most[name] = int(number)
        names.append(name)
    return tuple(names), most


def _place(text: str, number: int) -> tuple[str, int]:
    """Return the address and the port at which the process of that number, from 1 on, serves its metrics."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < (found := int(port) + max(0, number - 1)) < 65_536:
        raise UsageError(
            f"--metrics: {text!r} must be a port from 1 to 65535, or an address and a port, as in 0.0.0.0:9100"
        )
    return host.strip("[]") or "127.0.0.1", found


def _work(
    session: Session, log: BoundLogger, chosen: dict[str, Any], line: Line | None, metrics: tuple[str, int] | None
) -> int:
    """Work in this process."""
    is_every = chosen.get("queues") == (EVERY,)
    app = session.load(creates=True, **{name: chosen[name] for name in chosen if name != "queues" or not is_every})
    if is_every:
        queues = {*app.settings.queues, *(workflow.queue for workflow in app.registry.workflows.values())}
        app.settings = dataclasses.replace(app.settings, queues=tuple(sorted(queues)))
    app.telemetry += telemetry_here(metrics, but=app.telemetry)
    if app.settings.mode == "client":
        raise UsageError(f"{session.app} has mode='client', which works nothing; take that out, or give another app")
    if not app.registry.workflows:
        raise UsageError(f"{session.app} has no workflows, so there is nothing to work")
    if line is not None and app.url.startswith("memory://"):
        raise UsageError("memory:// is each process's own, so --processes needs another store: sqlite:///file.db")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(ToldShift(session, app, log, line).work())
    if code != OK:
        # A thread that a step left behind would keep the process; what it does is lost already.
        sys.stdout.flush()
        logging.shutdown()
        os._exit(code)
    return code


def _keep(session: Session, log: BoundLogger, words: list[str], processes: int) -> int:
    """Have others work: processes that this one keeps."""
    if session.store is not None:
        os.environ[STORE] = session.store  # and not a word of the command, which every user of the machine can read

    def all_work(each: list[dict[str, Any]]) -> None:
        alike = {name: value for name, value in each[0].items() if name not in {"pid", "worker"}}
        own = [{"pid": one["pid"], "worker": one["worker"]} for one in each]
        session.tell({**alike, "pid": os.getpid(), "processes": own})

    supervisor = Supervisor(words, processes, log, all_work)
    code = asyncio.run(supervisor.work())
    if supervisor.failure is not None:
        say_error(session.as_json, supervisor.failure.type, supervisor.failure.message)
    return code


class ToldShift(Shift):
    """A worker's process that says what happens as the other commands do.

    Args:
        session: how the command was called.
        app: the closed engine.
        log: where to say what happens.
        line: to the supervisor, where one keeps this process. A signal that it tells of may have come here too.
    """

    def __init__(self, session: Session, app: Perdure, log: BoundLogger, line: Line | None) -> None:
        super().__init__(app)
        self._session = session
        self._log = log
        self._line = line
        self._came = 0

    async def work(self) -> int:
        """Work until a signal comes, or the supervisor says so."""
        if self._line is not None:
            self._line.listen(self._heard, seconds(self.app.settings.drain))
        return await super().work()

    def signalled(self, number: signal.Signals) -> None:
        """Count the signals that came here."""
        self._came += 1
        self._heard(number, self._came)

    def _heard(self, number: signal.Signals, times: int) -> None:
        """Count a signal that came to a whole group of processes once."""
        while len(self.signals) < times:
            super().signalled(number)

    def stopping(self, worker: Worker, reason: str | None) -> None:
        """Say how long this may take."""
        drain = in_words(milliseconds(self.app.settings.drain))
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
            "webhooks": sorted(self.app.registry.hooks),
            "queues": [_bounded(queue, self.app.settings.per_queue) for queue in self.app.settings.queues],
            "concurrency": self.app.settings.concurrency,
            "pid": os.getpid(),
            "worker": worker.id,
        }
        lists = {name: ",".join(value) if isinstance(value, list) else value for name, value in hello.items()}
        self._log.info("working", **(hello if self._session.as_json else lists))
        if self._line is not None:
            self._line.tell(News(working=hello))
        else:
            self._session.tell(hello)


def _bounded(queue: str, most: Mapping[str, int]) -> str:
    return f"{queue}={most[queue]}" if queue in most else queue


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop; None, for asyncio's own, where there is no uvloop."""
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory
