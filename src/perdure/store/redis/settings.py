"""Where the servers are and how they are used: the URL, and the options behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError
from perdure.store.url import count, redacted, require_known

OPTIONS = ("prefix", "shards", "durability", "evicting", "listen", "poll", "pool_size", "patience")

CLUSTER_SHARDS = 16
MOST_SHARDS = 1024
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_DURABILITY = re.compile(r"server|fsync|replicated:([1-9][0-9]?)")
_SWITCH = {"on": True, "off": False, True: True, False: False}
POLL_LISTENING, POLL_ALONE = 5.0, 1.0
PATIENCE = 20.0
"""Seconds: a cluster as it is shipped takes fifteen to miss a master, and some more to choose another one."""


@dataclass(frozen=True)
class Address:
    """A server's host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """What the URL and the options say.

    Attributes:
        url: without the password.
        addresses: of the server or of any node of the cluster; of the sentinels where there is a `service`.
        service: the name that the sentinels know the master by; None without sentinels.
        shards: how many; None for what the store has, or by default.
        replicas: how many of them have to have a write before it is acknowledged.
        fsync: whether a write has to be on the server's disk before it is acknowledged.
        poll, patience: in seconds.
    """

    url: str
    addresses: tuple[Address, ...]
    service: str | None
    database: int
    username: str | None
    password: str | None
    is_encrypted: bool
    prefix: str
    shards: int | None
    fsync: bool
    replicas: int
    may_evict: bool
    listen: bool
    poll: float
    pool_size: int
    patience: float


def settings_of(url: str, options: Mapping[str, Any]) -> Settings:
    """Read a URL, `redis://user:password@host:6379/0` or one of its kind, and the options of the store.

    Raises:
        UsageError: the URL or an option is wrong.
    """
    require_known("redis", options, OPTIONS)
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    is_watched = kind == "sentinel"
    path = [piece for piece in parts.path.split("/") if piece]
    service = unquote(path.pop(0)) if is_watched and path else None
    if is_watched and service is None:
        raise UsageError(f"store: {redacted(url)!r} names no service; write redis+sentinel://host:26379/service/0")
    database = path.pop(0) if path else "0"
    if path or not database.isdecimal():
        raise UsageError(f"store: {redacted(url)!r}: {'/'.join([database, *path])!r} is no database; give a number")
    known = {**_query_of(parts.query), **options}
    durability = _choice(known, "durability", "server", _DURABILITY, "server, fsync or replicated:1")
    listen = _switch(known, "listen")
    return Settings(
        url=redacted(url),
        addresses=tuple(_address(place, url, 26379 if is_watched else 6379) for place in places.split(",")),
        service=service,
        database=int(database),
        username=unquote(user) or None,
        password=unquote(password) or None,
        is_encrypted=scheme.endswith("s") and scheme != "redis",
        prefix=_choice(known, "prefix", "perdure", _PREFIX, "letters, digits and _.:-, at most 100"),
        shards=_number(known, "shards", None, MOST_SHARDS),
        fsync=durability == "fsync",
        replicas=int(durability.partition(":")[2] or 0),
        may_evict=_choice(known, "evicting", "refuse", re.compile("refuse|allow"), "refuse or allow") == "allow",
        listen=listen,
        poll=_seconds(known, "poll", POLL_LISTENING if listen else POLL_ALONE),
        pool_size=_number(known, "pool_size", 10, 10_000) or 10,
        patience=_seconds(known, "patience", PATIENCE),
    )


def _query_of(query: str) -> dict[str, str]:
    """Return what stands behind a URL's `?`, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(query).items()}


def _address(place: str, url: str, port: int) -> Address:
    parts = urlsplit(f"//{place or 'localhost'}")
    try:
        return Address(parts.hostname or "localhost", parts.port or port)
    except ValueError:
        raise UsageError(f"store: {redacted(url)!r}: {place!r} is no host:port") from None


def _choice(options: Mapping[str, Any], name: str, default: str, valid: re.Pattern[str], what: str) -> str:
    value = str(options.get(name, default))
    if not valid.fullmatch(value):
        raise UsageError(f"store: {name}={value!r} must be {what}")
    return value


def _switch(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, "on")
    if value not in _SWITCH:
        raise UsageError(f"store: {name}={value!r} must be on or off")
    return _SWITCH[value]


def _number(options: Mapping[str, Any], name: str, default: int | None, most: int) -> int | None:
    value = options.get(name, default)
    if value is None:
        return None
    return count(name, value, most)


def _seconds(options: Mapping[str, Any], name: str, default: Duration) -> float:
    return seconds(options.get(name, default), field=f"store: {name}")
