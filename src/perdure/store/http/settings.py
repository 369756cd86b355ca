"""Where the server is and how it is asked, checked before anything is connected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError
from perdure.store.namespaces import namespaced
from perdure.store.url import count, redacted, require_known

OPTIONS = ("api_key", "namespace", "patience", "timeout", "connect_timeout", "pool_size", "ca")

MOST_CONNECTIONS = 1_000

_KEY = re.compile(r"[!-~]{1,16000}")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings:
    """See the module.

    Args:
        url: `https://host:8000`, or with a path where the server is behind a proxy; what stands behind its `?` is
            left out.
        options: see docs/server.md; text where they come from the URL.

    Attributes:
        url: where the server is.
        shown: the same, without what nobody is to see.
        is_open: what is sent, the key among it, can be read on its way.

    Raises:
        UsageError: the URL or an option is wrong.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        require_known("http", options, OPTIONS)
        parts = urlsplit(url)
        self.shown = redacted(url).rstrip("/")
        try:
            port = parts.port
        except ValueError:
            raise UsageError(f"store: {self.shown!r} has no whole number for its port") from None
        if not parts.hostname or port == 0:
            raise UsageError(
                f"store: {url.partition('?')[0]!r} names no server; write https://host or http://host:8000"
            )
        if "@" in parts.netloc:
            raise UsageError(f"store: {self.shown!r}: a server takes no password; give api_key, or set PERDURE_API_KEY")
        self.url = parts._replace(query="", fragment="").geturl().rstrip("/")
        self.api_key = options.get("api_key")
        if self.api_key is not None and not _KEY.fullmatch(str(self.api_key)):
            raise UsageError("store: api_key must be the key or token as it was given, without spaces")
        self.namespace = options.get("namespace")
        if self.namespace is not None:
            namespaced("", str(self.namespace))
        self.patience = _seconds("patience", options.get("patience", 10.0), least=0)
        self.timeout = _seconds("timeout", options.get("timeout", 60.0), least=0.001)
        self.connect_timeout = _seconds("connect_timeout", options.get("connect_timeout", 5.0), least=0.001)
        self.pool_size = count("pool_size", options.get("pool_size", 10), MOST_CONNECTIONS)
        self.ca = options.get("ca")
        if self.ca is not None and not Path(str(self.ca)).is_file():
            raise UsageError(f"store: ca={self.ca!r} is no file that can be read")
        self.is_open = parts.scheme == "http" and parts.hostname not in _LOOPBACK

    def headers(self) -> dict[str, str]:
        """Return what every request says of who sends it, and what it is about."""
        json = "application/json"
        found = {"Content-Type": json, "Accept": json, "Accept-Encoding": "identity", "User-Agent": "perdure"}
        if self.api_key is not None:
            found["Authorization"] = f"Bearer {self.api_key}"
        if self.namespace is not None:
            found["Perdure-Namespace"] = str(self.namespace)
        return found


def _seconds(option: str, value: Duration, least: float) -> float:
    number = float(value) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value) else value
    found = seconds(number, field=f"store: {option}")
    if found < least:
        raise UsageError(f"store: {option}={value!r} must be longer than nothing")
    return found
