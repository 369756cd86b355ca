"""What a worker logs: sentences for people on a terminal, one JSON document per line for everybody else."""

from __future__ import annotations

import functools
import logging
import os
import sys

import structlog
from structlog.typing import EventDict, Processor

from perdure.telemetry.logs import Masking, RunContext, add_run_context

REDACTED = "PERDURE_REDACT"
"""The variable that names further fields whose values are masked, separated by commas."""


def configure(*, as_json: bool, level: str, process: int | None = None) -> structlog.stdlib.BoundLogger:
    """Send every log, the engine's and the application's, to standard error; return the worker's logger.

    Args:
        as_json: one JSON document per line.
        level: the least level that is shown.
        process: which of several this is, for every line; None where it is the only one.
    """
    shared: list[Processor] = [
        add_run_context,
        structlog.stdlib.add_log_level,
        *([structlog.stdlib.add_logger_name] if as_json else []),
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        structlog.stdlib.ExtraAdder(),
        *([functools.partial(_number, process)] if process is not None else []),
    ]
    masking = Masking(tuple(os.environ.get(REDACTED, "").replace(",", " ").split()))
    render: list[Processor] = (
        [structlog.processors.dict_tracebacks, masking, _in_order, structlog.processors.JSONRenderer(default=repr)]
        if as_json
        else [
            masking,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False, sort_keys=False),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RunContext())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("perdure.worker")
    return logger


def _number(process: int, logger: object, method: str, event: EventDict) -> EventDict:
    """Say which process this is, unless the line is about another one."""
    return {"process": process, **event}


def _in_order(logger: object, method: str, event: EventDict) -> EventDict:
    """Put what every line has in front of what this one has."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **event}
