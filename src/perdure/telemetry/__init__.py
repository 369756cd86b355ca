"""Who can watch what workers do: `OpenTelemetry`, `Prometheus`, `Sentry`, or a `Telemetry` of your own; and logs.

Each needs a package that Perdure does not depend on, and is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from perdure.engine.telemetry import Commit, Telemetry
from perdure.model.errors import UsageError
from perdure.telemetry.logs import RunContext, run_context

if TYPE_CHECKING:
    from perdure.telemetry.opentelemetry import OpenTelemetry
    from perdure.telemetry.prometheus import Prometheus
    from perdure.telemetry.sentry import Sentry

__all__ = [
    "Commit",
    "OpenTelemetry",
    "Prometheus",
    "RunContext",
    "Sentry",
    "Telemetry",
    "run_context",
    "telemetry_here",
]

OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The variable that says where OpenTelemetry exports to; those for `TRACES` and for `METRICS` alone are named alike."""

DSN = "SENTRY_DSN"
"""The variable that says where reports to Sentry go."""

_FOUND_IN = {
    "OpenTelemetry": ("opentelemetry", "otel"),
    "Prometheus": ("prometheus", "metrics"),
    "Sentry": ("sentry",) * 2,
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _FOUND_IN[name]
    try:
        return getattr(import_module(f"perdure.telemetry.{module}"), name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{name}: it needs the package {error.name}: pip install 'perdure[{extra}]'") from None


def is_exported(what: Literal["trace", "metric"], environment: Mapping[str, str]) -> bool:
    """Return whether the environment says where traces or metrics go, and does not switch them off."""
    kind = f"{what.upper()}S"
    is_placed = environment.get(OTLP) or environment.get(OTLP.replace("ENDPOINT", f"{kind}_ENDPOINT"))
    return bool(is_placed) and environment.get(f"OTEL_{kind}_EXPORTER", "").strip().lower() != "none"


def telemetry_here(
    metrics: tuple[str, int] | None = None,
    environment: Mapping[str, str] = os.environ,
    but: Sequence[Telemetry] = (),
) -> list[Telemetry]:
    """Return who is to watch a process, as its environment says.

    Args:
        metrics: the address and port to serve metrics for Prometheus at; None for nowhere.
        environment: the variables: with `OTEL_EXPORTER_OTLP_ENDPOINT`, or that of traces or metrics alone, there is
            OpenTelemetry, unless `OTEL_SDK_DISABLED` is `true`; with `SENTRY_DSN`, Sentry.
        but: who watches it already: of OpenTelemetry and Sentry there is only one.

    Raises:
        UsageError: a package is missing, or nobody can listen there.
    """
    found: list[Telemetry] = []
    there = {type(each).__name__ for each in but}
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exported = {} if is_off else {f"{what}s": is_exported(what, environment) for what in ("trace", "metric")}
    if any(exported.values()) and "OpenTelemetry" not in there:
        found.append(__getattr__("OpenTelemetry").exporting(**exported))
    if metrics is not None:
        prometheus = __getattr__("Prometheus")(metrics[1], metrics[0])
        prometheus.listen()
        found.append(prometheus)
    if environment.get(DSN) and "Sentry" not in there:
        found.append(__getattr__("Sentry")(environment[DSN]))
    return found
