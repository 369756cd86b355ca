"""Reports to Sentry of what failed for good."""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger

import perdure
from perdure.engine.telemetry import STUCK_LOGGER, Commit, Telemetry
from perdure.model.decision import Claim
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import Run, RunStatus
from perdure.telemetry.failures import chain, error_of
from perdure.telemetry.metrics import step_name

if TYPE_CHECKING:
    from perdure.engine.worker.worker import Worker

FLUSH = 2.0
"""Seconds that a stopping worker gives to the reports that are left."""

_OF_OTHERS = (f"{Path(perdure.__file__).parent}{os.sep}", f"{sysconfig.get_path('stdlib')}{os.sep}", "<frozen ")
"""What the files of Python and of Perdure begin with."""

_FRAME = re.compile(
    r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)\n(?:\s{4,}(?P<code>\S.*)\n)?', re.MULTILINE
)


class Sentry(Telemetry):
    """Reports each step that failed for good, and each run that failed for another reason than steps or children, once.

    Inputs and results are never part of a report; messages and tracebacks of errors are.

    Args:
        dsn: where reports go; None where the application calls `sentry_sdk.init` itself.
        options: further arguments of `sentry_sdk.init`.
    """

    def __init__(self, dsn: str | None = None, **options: Any) -> None:
        if dsn is not None:
            sentry_sdk.init(dsn, **options)
        ignore_logger(STUCK_LOGGER)  # what it says is reported here, as part of its run
        self._failed: dict[
            tuple[str, int], list[str | None]
        ] = {}  # payloads of what has been reported, by run and epoch

    def taken(self, claim: Claim) -> None:
        """Note what has failed in a run before."""
        self._failed[claim.run.id, claim.run.epoch] = [each.payload for each in claim.journal if _has_failed(each)]

    def left(self, run: Run) -> None:
        """Forget a run."""
        self._failed.pop((run.id, run.epoch), None)

    def closed(self, worker: Worker) -> None:
        """A worker has stopped: send what is left."""
        sentry_sdk.get_client().flush(timeout=FLUSH)

    def committed(self, commit: Commit) -> None:
        """Report what failed."""
        run, decision = commit.run, commit.decision
        for attempt in commit.attempts:
            if attempt.state == "error":
                _report(run, error_of(attempt.payload), "error", step_name(attempt.key), attempt.attempt)
        if decision.status is RunStatus.ERRORED and decision.records:
            error = error_of(decision.records[-1].payload)
            failed = self._failed.get((run.id, run.epoch), [])
            payloads = [
                *failed,
                *(each.payload for each in (*decision.records[:-1], *commit.attempts) if _has_failed(each)),
            ]
            known = {(each.type, each.message) for payload in payloads for each in chain(error_of(payload))}
            if not any((each.type, each.message) in known for each in chain(error)):  # else it has been reported
                _report(run, error, "error")
        elif (reason := commit.parked) is not None:
            _report(run, ErrorInfo("Parked", reason), "warning", group=("perdure.parked", run.workflow))
        elif decision.status is RunStatus.COMPENSATION_FAILED:
            _report(run, ErrorInfo("CompensationFailed", "what it did could not all be undone"), "error")
        if (reported := self._failed.get((run.id, run.epoch))) is not None:
            reported += [each.payload for each in decision.records if _has_failed(each)]


def _has_failed(record: Record) -> bool:
    """Return whether a record is about a step or a child that failed for good, and so has been reported."""
    return record.state == "error" and record.kind not in {"event", "undo"}


def _report(
    run: Run,
    error: ErrorInfo,
    level: str,
    step: str | None = None,
    attempts: int = 0,
    *,
    group: tuple[str, ...] | None = None,
) -> None:
    """Report what became of a run; reports of one group are one issue, by default those alike of a workflow's step."""
    tags = {"perdure.run": run.id, "perdure.workflow": run.workflow, "perdure.queue": run.queue}
    about: dict[str, Any] = {"run": run.id, "workflow": run.workflow, "version": run.version, "queue": run.queue}
    if step is not None:
        tags["perdure.step"] = step
        about |= {"step": step, "attempts": attempts}
    causes = list(chain(error))
    sentry_sdk.capture_event(
        {
            "level": level,  # type: ignore[typeddict-item]  # one of its words
            "logger": "perdure",
            "transaction": run.workflow if step is None else f"{run.workflow}/{step}",
            "exception": {"values": [_value(each) for each in reversed(causes)]},
            "fingerprint": list(group or ("{{ default }}", run.workflow, step or "")),
            "tags": tags,
            "contexts": {"perdure": about},
        }
    )


def _value(error: ErrorInfo) -> dict[str, Any]:
    """Return an exception as Sentry describes one."""
    module, _, name = error.type.rpartition(":")
    value: dict[str, Any] = {"type": name, "value": error.message, "mechanism": {"type": "perdure", "handled": True}}
    if module:
        value["module"] = module
    frames = [_frame(found) for found in _FRAME.finditer(error.traceback)]
    if frames:
        value["stacktrace"] = {"frames": frames}
    return value


def _frame(found: re.Match[str]) -> dict[str, Any]:
    file = found["file"]
    frame = {"filename": file, "abs_path": file, "lineno": int(found["line"]), "function": found["name"]}
    frame["in_app"] = "site-packages" not in file and not file.startswith(_OF_OTHERS)
    return frame | ({"context_line": found["code"]} if found["code"] else {})
