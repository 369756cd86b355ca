"""The front door to the stores: the one module that knows which there are, so that nothing else depends on one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from perdure.model.encryption import Encryption
from perdure.model.errors import UsageError
from perdure.store.contract import Store
from perdure.store.memory import MemoryStore
from perdure.store.namespaces import namespaced
from perdure.store.sqlite import SqliteStore
from perdure.store.url import redacted, require_known

__all__ = ["Store", "is_a_servers", "namespaced", "open_store"]


def open_store(url: str, encryption: Encryption | None = None, **options: Any) -> Store:
    """Construct the store at a URL; nothing is connected before its `open`.

    Args:
        url: `memory://` for a store of its own, `memory://name` for one that this process shares by that name;
            `sqlite:///orders.db` for a file beside the program, `sqlite:////var/lib/orders.db` for an absolute path;
            `postgresql://user:password@host:5432/database`; `redis://host:6379/0` or `valkey://…`, with
            `rediss://` or `valkeys://` for TLS and `redis+sentinel://host:26379,host:26379/service/0` for Sentinel;
            `https://host` or `http://host:8000` for a Perdure server, which does what clients ask for.
        encryption: the keys that what is kept is encrypted with; None keeps it as it is.
        options: what may also stand behind the URL's `?`; a keyword wins over the URL. See docs/stores.md, and for
            servers docs/server.md.

    Raises:
        UsageError: an unknown scheme or option, or a URL without a path; the driver is not installed.
    """
    scheme, separator, _ = url.partition("://")
    make = _STORES.get(scheme) if separator else None
    if make is None:
        raise UsageError(f"store: {redacted(url)!r} is no store; give one of {', '.join(_EXAMPLES)}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"store: {redacted(url)!r} cannot be read: {error}; quote signs in a password") from None
    if not all("=" in option for option in parts.query.split("&") if parts.query):
        raise UsageError(f"store: behind the ? of {redacted(url)!r} stand options as name=value, with & between them")
    behind = dict(parse_qsl(parts.query, keep_blank_values=True))
    store = make(url, unquote(parts.netloc + parts.path), {**behind, **options})
    return store if encryption is None or is_a_servers(url) else _encrypted(store, encryption)


def is_a_servers(url: str) -> bool:
    """Return whether the store at a URL is behind a Perdure server, which has the keys of what is encrypted in it."""
    return url.startswith(("http://", "https://"))


def _encrypted(store: Store, encryption: Encryption) -> Store:
    if find_spec("cryptography") is None:
        raise UsageError("encryption: it needs the package cryptography: pip install 'perdure[crypto]'")
    from perdure.store.encrypted import EncryptedStore

    return EncryptedStore(store, encryption)


def _memory(url: str, place: str, options: dict[str, Any]) -> Store:
    if options:
        raise UsageError(f"store: memory:// takes no options, so remove {', '.join(sorted(options))}")
    return MemoryStore(place.strip("/"))


def _sqlite(url: str, place: str, options: dict[str, Any]) -> Store:
    if place.strip("/") in {"", ":memory:"}:
        raise UsageError(f"store: {url!r} names no file; write sqlite:///file.db, or memory:// to keep nothing")
    if not place.startswith("/"):
        raise UsageError(f"store: {url!r} lacks a slash; write sqlite:///{place}, or sqlite:////{place} from the root")
    require_known("sqlite", options, ("synchronous", "busy_timeout"))
    return SqliteStore(place[1:], **options)


def _postgres(url: str, place: str, options: dict[str, Any]) -> Store:
    _require("asyncpg", "postgres", url)
    from perdure.store.postgres import PostgresStore

    return PostgresStore(url.partition("?")[0], **options)


def _redis(url: str, place: str, options: dict[str, Any]) -> Store:
    _require("redis", "redis", url)
    from perdure.store.redis import RedisStore

    return RedisStore(url.partition("?")[0], **options)


def _http(url: str, place: str, options: dict[str, Any]) -> Store:
    _require("httpx", "http", url)
    from perdure.store.http import HttpStore

    return HttpStore(url.partition("?")[0], **options)


def _require(package: str, extra: str, url: str) -> None:
    if find_spec(package) is None:
        scheme = url.partition("://")[0]
        raise UsageError(f"store: {scheme}:// needs the package {package}: pip install 'perdure[{extra}]'")


_STORES: dict[str, Callable[[str, str, dict[str, Any]], Store]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    **dict.fromkeys(("postgresql", "postgres"), _postgres),
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys", "redis+sentinel", "valkey+sentinel"), _redis),
    **dict.fromkeys(("http", "https"), _http),
}
_EXAMPLES = ("memory://", "sqlite:///file.db", "postgresql://host/database", "redis://host:6379", "https://host")
