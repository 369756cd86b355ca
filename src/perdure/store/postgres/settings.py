"""What can be chosen about the store, checked before anything is connected."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError
from perdure.store.url import count, redacted, require_known

MOST_CONNECTIONS = 1000
SYNCHRONOUS_COMMIT = ("on", "remote_apply", "remote_write", "local", "off")
_SSLMODE = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OF_THE_DRIVER = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "host")
"""Options that libpq has too, and that go to the driver as they are."""
_OWN = (
    "schema",
    "synchronous_commit",
    "pool_size",
    "listen",
    "poll",
    "pgbouncer",
    "patience",
    "connect_timeout",
    "command_timeout",
)

STANDSTILL = "5s"
"""How long a process may stand still in the middle of a write, and keep others from its runs: less than leases last."""

_KEPT_ALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
"""By which the server finds out, in half a minute, that a client's machine is gone, and lets go of what it held."""

LOOKING_FOR_CLIENT = {"client_connection_check_interval": "2s"}
"""By which it finds out, while it works on a statement, that nobody waits for it; not every platform has this."""

_COMMAND, _LONG_COMMAND = 10.0, 60.0
_EXTENDING = 4.0
"""Seconds for a statement: one on which work waits, one that may look at every run, one on which all leases hang."""

_POLL_LISTENING, _POLL_DEAF = 5.0, 1.0

_HOT = {
    # Statements are prepared once and for tables of any size; a plan made while a table was empty must still be one
    # that looks rows up when there are a million.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": STANDSTILL,
}


class Settings:
    """Where the database is and how it is used.

    Args:
        url: without what stands behind its `?`.
        options: see docs/stores.md; text where they come from the URL.

    Raises:
        UsageError: an option is unknown or out of its range.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        require_known("postgresql", options, _OWN + _OF_THE_DRIVER)
        self.shown = redacted(url)
        self.url = _with_driver_options(url, options)
        self.schema = _schema(options.get("schema", "perdure"))
        self.synchronous_commit = _chosen("synchronous_commit", options.get("synchronous_commit", "on"))
        self.pool_size = count("pool_size", options.get("pool_size", 10), MOST_CONNECTIONS)
        self.pgbouncer = _flag("pgbouncer", options.get("pgbouncer", False))
        self.listen = _flag("listen", options.get("listen", not self.pgbouncer))
        if self.listen and self.pgbouncer:
            raise UsageError("store: listen=on needs a session of its own, which pgbouncer=on has not; remove one")
        poll: Duration = options.get("poll", _POLL_LISTENING if self.listen else _POLL_DEAF)
        self.poll = _seconds("poll", poll)
        self.patience = _seconds("patience", options.get("patience", 10.0))
        self.connect_timeout = _seconds("connect_timeout", options.get("connect_timeout", 10.0))
        self.command_timeout = _seconds("command_timeout", options.get("command_timeout", _COMMAND))
        self.long_timeout = max(self.command_timeout, _LONG_COMMAND)
        self.extend_timeout = min(self.command_timeout, _EXTENDING)

    @property
    def lock_key(self) -> int:
        """The number of the advisory lock under which this schema's tables are made."""
        digest = hashlib.sha256(f"perdure {self.schema}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def hot(self) -> dict[str, str]:
        """Return what the server is told at the start of a connection for the store's own statements."""
        return self.plain() if self.pgbouncer else {**self.plain(), **_HOT}

    def plain(self) -> dict[str, str]:
        """Return what it is told at the start of a connection in which somebody else's statements run."""
        if self.pgbouncer:  # which refuses what it does not know
            return {"application_name": "perdure"}
        return {
            "application_name": "perdure",
            "synchronous_commit": self.synchronous_commit,
            "default_transaction_isolation": "read committed",
            **_KEPT_ALIVE,
        }


AS_HOT = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _HOT.items())
"""The expressions that make the rest of a plain transaction plan, and stand still, no other than hot connections do."""


def _with_driver_options(url: str, options: Mapping[str, Any]) -> str:
    given = {name: str(options[name]) for name in _OF_THE_DRIVER if name in options}
    if (mode := given.get("sslmode", "prefer")) not in _SSLMODE:
        raise UsageError(f"store: sslmode={mode!r} must be one of {', '.join(_SSLMODE)}")
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        if name in given and given[name] != "system" and not Path(given[name]).is_file():
            raise UsageError(f"store: {name}={given[name]!r} is no file that can be read")
    parts = urlsplit(url)
    try:
        parts.port  # noqa: B018  # a property that raises
    except ValueError:
        if "," not in parts.netloc:  # several hosts have a port each
            raise UsageError(f"store: {redacted(url)!r} has no whole number for its port") from None
    if "," in parts.netloc:
        given["target_session_attrs"] = "read-write"
    return parts._replace(scheme="postgresql", query=urlencode(given), fragment="").geturl()


def _schema(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,47}", name) or name.startswith("pg_"):
        raise UsageError(
            f"store: schema={name!r} must be a plain name: small letters, digits and _, up to 48, no digit first, "
            "and not pg_…"
        )
    return name


def _chosen(option: str, value: object) -> str:
    if value not in SYNCHRONOUS_COMMIT:
        raise UsageError(f"store: {option}={value!r} must be one of {', '.join(SYNCHRONOUS_COMMIT)}")
    return str(value)


def _flag(option: str, value: object) -> bool:
    words = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
    found = value if isinstance(value, bool) else words.get(str(value).lower())
    if found is None:
        raise UsageError(f"store: {option}={value!r} must be on or off")
    return found


def _seconds(option: str, value: Duration) -> float:
    found = seconds(_number(value), field=f"store: {option}")
    if found <= 0:
        raise UsageError(f"store: {option}={value!r} must be longer than nothing")
    return found


def _number(value: Duration) -> Duration:
    """Return a number that came as text from a URL as the number it is."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value) else value
