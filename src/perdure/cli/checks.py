"""What `perdure doctor` looks at, one finding after the other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from enum import Enum
from importlib.metadata import version
from pathlib import Path

import msgspec

from perdure.cli.filters import every
from perdure.cli.session import file_of
from perdure.cli.style import ago, clean, count, moment, short
from perdure.engine.app import Perdure
from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.engine.ending import parked_reason
from perdure.engine.env import Env, SystemEnv
from perdure.engine.settings import whose_workers
from perdure.model.decision import Action, CatalogEntry, Control, QueueStats, RunFilter, StoreInfo
from perdure.model.duration import in_words
from perdure.model.queue import QueueState
from perdure.model.record import Record
from perdure.model.run import NewRun, Retention, Run, RunStatus

OVERDUE_AFTER = 60_000
"""Milliseconds after which a due run that nobody took counts as stuck: a busy queue is no illness, a dead one is."""

LOOKED_AT = 5_000
"""Up to how many running and paused runs are looked at one by one."""

NAMED = 3
"""How many of the runs that are wrong are named."""

TIMES_AHEAD = 5_000
"""Milliseconds that the times in the store may be ahead of the present."""

CLOCKS_APART = 1_000
"""Milliseconds that the clock of the store's server may differ from this machine's."""

CLOCK_SET_SINCE = 1_735_689_600_000
"""The first moment of 2025: a clock that is behind it was never set."""

DISK_LOW, DISK_FULL = 1 << 30, 100 << 20
"""Free bytes under which the disk is worth a warning, and a problem."""

PROBE = "perdure.doctor"
A_CENTURY = 100 * 366 * 86_400_000


class Level(str, Enum):
    """How bad a finding is."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


SIGNS = {
    Level.OK: ("✓", "green"),
    Level.INFO: ("·", "bright_black"),
    Level.WARNING: ("!", "yellow"),
    Level.PROBLEM: ("✗", "red"),
}


class Check(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        name: what was looked at.
        level: how bad it is.
        said: what was found.
        advice: what to do about it; empty for nothing.
    """

    name: str
    level: Level
    said: str
    advice: str = ""


async def examine(app: Perdure) -> list[Check]:
    """Return the findings about an open store."""
    now = app.world.now()
    info = await app.describe()
    found = [*_about(info), await _write(app, now), *_disk(info)]
    catalog = await app.store.catalog()
    newest = await app.client.find(RunFilter(), 1, None)
    found.append(_clock(newest.runs, catalog, now, _ahead(app.world)))
    stats = await app.store.stats(now)
    gates = {state.name: state for state in await app.store.queues() if state.is_gated}
    paused = {name for name, state in gates.items() if state.is_paused}
    is_needed = any(queue.due and queue.queue not in paused for queue in stats.queues)
    found.append(_workers(catalog, now, is_needed=is_needed))
    totals = ", ".join(f"{total:,} {status}" for status, total in stats.status.items())
    found.append(Check("runs", Level.INFO, totals or "none"))
    found += [_queue(queue, gates.get(queue.queue), now) for queue in stats.queues if queue.due]
    found += [check async for check in _stuck(app, now)]
    return found


def _about(info: StoreInfo) -> list[Check]:
    return [
        Check("store", Level.OK, info.url),
        Check("engine", Level.OK, f"{info.engine}, schema version {info.schema_version}, Perdure {version('perdure')}"),
        Check("python", Level.INFO, sys.version.partition(" ")[0]),
        Check(
            "durability",
            Level.OK,
            f"{info.durability}: an acknowledged write survives {info.survives[:1].lower()}{info.survives[1:]}",
        ),
        Check("settings", Level.INFO, ", ".join(f"{name}={value}" for name, value in info.settings.items()) or "none"),
        *(Check("setup", Level.WARNING, warning) for warning in info.warnings),
    ]


async def _write(app: Perdure, now: int) -> Check:
    """Write a run, end it and remove it again; nothing stays."""
    run_id = f"{PROBE}.{app.client.new_id()}"
    probe = NewRun(
        id=run_id,
        workflow=PROBE,
        queue=PROBE,
        created_at=now,
        due_at=now + A_CENTURY,  # no worker will ever take it
        records=(Record(0, "input", "input", "ok", now, "{}"),),
        retention=Retention(terminated=-A_CENTURY),  # expires before every other run, so that only it is removed
    )
    await app.store.create([probe])
    await app.store.control([Control(run_id, Action.TERMINATE)], now)
    removed = await app.store.prune(now - A_CENTURY, 1)
    took = in_words(app.world.now() - now)
    if not removed:
        return Check("writing", Level.PROBLEM, f"run {run_id} was written, but not found again")
    return Check("writing", Level.OK, f"written, changed and removed again in {took}")


def _disk(info: StoreInfo) -> list[Check]:
    path = file_of(info.url)
    if path is None:
        return []
    size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
    free = shutil.disk_usage(path.parent).free
    level = Level.PROBLEM if free < DISK_FULL else Level.WARNING if free < DISK_LOW else Level.OK
    advice = "" if level is Level.OK else "make room: a full disk stops every run"
    return [Check("disk", level, f"{_bytes(free)} free, the store takes {_bytes(size)}", advice)]


def _ahead(world: Env) -> int:
    """Return by how many milliseconds the store's clock was found to be ahead of this machine's when it was opened."""
    return world.ahead if isinstance(world, SystemEnv) else 0


def _clock(newest: list[Run], catalog: list[CatalogEntry], now: int, ahead: int) -> Check:
    latest = max([*(run.created_at for run in newest), *(entry.seen_at for entry in catalog)], default=0)
    if now < CLOCK_SET_SINCE:
        return Check("clock", Level.PROBLEM, f"it is {moment(now)} here", "set this machine's clock")
    if latest > now + TIMES_AHEAD:
        return Check(
            "clock",
            Level.PROBLEM,
            f"the store has times {in_words(latest - now)} ahead of the present, {moment(now)}",
            "set the clocks: timers and leases are only as good as they are (chrony, ntpd)",
        )
    if abs(ahead) > CLOCKS_APART:
        where = "ahead of" if ahead > 0 else "behind"
        return Check(
            "clock",
            Level.WARNING,
            f"the server's clock is {in_words(abs(ahead))} {where} this machine's; runs go by the server's",
            "set the clocks (chrony, ntpd), so that the times in logs agree",
        )
    return Check("clock", Level.OK, f"{moment(now)}, not behind the store's times")


def _workers(catalog: list[CatalogEntry], now: int, *, is_needed: bool) -> Check:
    present = [entry for entry in catalog if now - entry.seen_at <= WORKER_GONE_AFTER]
    if present:
        workflows = clean(", ".join(sorted({entry.workflow for entry in present})))
        workers = len({entry.worker for entry in present})
        return Check("workers", Level.OK, f"{workers} or more in the last {in_words(WORKER_GONE_AFTER)}: {workflows}")
    seen = ago(max(entry.seen_at for entry in catalog), now) if catalog else "never"
    level = Level.PROBLEM if is_needed else Level.WARNING if catalog else Level.INFO
    return Check(
        "workers",
        level,
        f"none in the last {in_words(WORKER_GONE_AFTER)}; last seen: {seen}",
        "start one: perdure worker MODULE:APP",
    )


def _queue(queue: QueueStats, gate: QueueState | None, now: int) -> Check:
    oldest = now if queue.oldest_due_at is None else queue.oldest_due_at
    said = f"{count(queue.due, 'run')} due in queue {clean(queue.queue)!r}, the oldest for {in_words(now - oldest)}"
    if now - oldest <= OVERDUE_AFTER:
        return Check("waiting", Level.INFO, said)
    if gate is not None:
        state = "is paused" if gate.is_paused else "has limits, which may be what holds them up"
        return Check("waiting", Level.WARNING, f"{said}; it {state}", "see perdure queues list")
    advice = f"nobody takes them: start a worker with --queues {clean(whose_workers(queue.queue))}, or more of them"
    return Check("waiting", Level.PROBLEM, said, advice)


async def _stuck(app: Perdure, now: int) -> AsyncIterator[Check]:
    """Yield what is wrong with single runs."""
    ended = [
        run.id
        async for run in every(app, RunFilter(status=(RunStatus.RUNNING, RunStatus.COMPENSATING)), LOOKED_AT)
        if run.worker is not None and run.due_at is not None and run.due_at <= now
    ]
    if ended:
        yield Check(
            "leases",
            Level.PROBLEM,
            f"{_runs(ended)} ended without a sign of their worker: {_named(ended)}",
            "the next worker that serves their queues takes them over",
        )
    parked: dict[str, str] = {}
    async for run in every(app, RunFilter(status=(RunStatus.PAUSED,)), LOOKED_AT):
        if (reason := parked_reason(run)) is not None:
            parked[run.id] = reason
    if parked:
        first = ", the first of them" if len(parked) > 1 else ""
        yield Check(
            "parked",
            Level.PROBLEM,
            f"{count(len(parked), 'run')}: {_named(list(parked))}{first}: {short(next(iter(parked.values())))}",
            "see perdure runs explain RUN; then deploy code that fits, and perdure runs resume RUN",
        )
    where = RunFilter(status=(RunStatus.COMPENSATION_FAILED,))
    failed = [run.id async for run in every(app, where, LOOKED_AT)]
    if failed:
        yield Check(
            "undos",
            Level.PROBLEM,
            f"{count(len(failed), 'run')} could not be undone: {_named(failed)}",
            "see perdure undos list; then perdure undos retry RUN, or perdure undos done RUN",
        )


def _runs(ids: list[str]) -> str:
    return "the lease of 1 run" if len(ids) == 1 else f"the leases of {len(ids):,} runs"


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return ", ".join(clean(run_id) for run_id in ids[:NAMED]) + more


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} TiB"
