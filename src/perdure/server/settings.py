"""How a server is set up: what the command line and the environment say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from perdure.model.errors import UsageError
from perdure.model.name import check_name
from perdure.server.security.issuers import Issuer, read_issuers

DEFAULT = "default"
"""The namespace that is the store's URL itself."""

PREFIX = "PERDURE_"
"""What the variables begin with that set a field: `PERDURE_PORT` for `port`."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of a server.

    Args:
        store: the URL of the default namespace's store, from which those of others follow.
        namespaces: the other namespaces, with the URL of each one's store, or None for the one that follows.
        host, port: where it listens.
        hosts: the names that it may be asked by; none for any, as long as there are keys.
        proxies: addresses and networks of proxies in front of it, whose `X-Forwarded-For` says who asks.
        issuers: whose signed tokens (JWT) are taken; in the environment JSON, or the name of a file with it.
        cors: origins whose pages may ask, each as `https://host[:port]`; none by default.
        rate: how many requests a principal may make, as `600/minute`; None for no bound.
        tls_cert, tls_key: files with the certificate and its key; both or none.
        log_json: logs are JSON lines.
        dispatch: whether it hands runs to those who serve workflows over HTTP.
        deliver_to: where messages may go to although it is not on the public internet: addresses, networks, names, and
            `*.name`. A server that this machine alone can reach delivers to everywhere.
        qstash_dev: messages are signed with the keys that QStash's own clients know for development.
        redact: names of fields whose values viewers do not see, wherever they stand in inputs, results and events.
        body_bytes: the size of a request's body.
        body_depth: how deep arrays and objects may stand inside each other in it.
        body_tokens: how many brackets, commas and colons it may hold.
        connections: how many connections may be open at once.
        connections_per_address: how many of them from one address that is none of the proxies and not this machine.
        watchers: how many live streams may be open at once, in one namespace.
        streams_per_key: how many live streams and long polls one key may have open at once.
        keep_alive: how long (in seconds) a connection may be idle.
        drain: how long (in seconds) requests may take when the server stops.

    Raises:
        UsageError: a setting is out of its range.
    """

    store: str = field(default="sqlite:///perdure.db", repr=False)  # a URL may hold a password
    namespaces: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    cors: tuple[str, ...] = ()
    rate: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    log_json: bool = False
    dispatch: bool = True
    deliver_to: tuple[str, ...] = ()
    qstash_dev: bool = False
    redact: tuple[str, ...] = ()
    body_bytes: int = 1_048_576
    body_depth: int = 64
    body_tokens: int = 200_000
    connections: int = 4_000
    connections_per_address: int = 1_000
    watchers: int = 2_000
    streams_per_key: int = 500
    keep_alive: int = 15
    drain: int = 10

    def __post_init__(self) -> None:
        for name in self.namespaces:
            check_name(name, "namespace")
            if name == DEFAULT:
                raise UsageError(f"namespace: {DEFAULT!r} is the store's own; give its URL as --store")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name}: {value!r} must be a whole number, at least {least}")
        if self.qstash_dev and not self.is_loopback:
            raise UsageError("qstash_dev: the keys for development are known to everybody; listen on 127.0.0.1")
        if self.port > 65_535:
            raise UsageError(f"port: {self.port} must be from 0 to 65,535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("tls_cert, tls_key: give both files, or none")
        for text in self.proxies:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise UsageError(f"proxies: {text!r} is no address and no network, as in 10.1.0.0/16") from None
        for origin in self.cors:
            scheme, separator, place = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not place or "/" in place or "*" in place:
                raise UsageError(f"cors: {origin!r} is no origin; write it as https://host or https://host:port")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def is_proxy(self, address: str) -> bool:
        """Return whether an address is that of a proxy, behind which many may be."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in ipaddress.ip_network(text) for text in self.proxies)

    @classmethod
    def read(cls, environment: Mapping[str, str], **given: Any) -> ServerSettings:
        """Return the settings that were given, and from the environment those that were not.

        Args:
            environment: its variables; `PERDURE_STORE`, `PERDURE_NAMESPACES` (`a b=URL`), `PERDURE_PORT` and so on.
            given: fields; None for one that was not given.

        Raises:
            UsageError: a variable cannot be read, or see the class.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        for each in fields(cls):
            name = f"{PREFIX}{each.name.upper()}"
            if each.name not in chosen and environment.get(name):
                chosen[each.name] = _parsed(each.name, name, environment[name])
        return cls(**chosen)


_LEAST = {
    "port": 0,
    "body_bytes": 1_024,
    "body_depth": 4,
    "body_tokens": 100,
    "connections": 1,
    "connections_per_address": 1,
    "watchers": 1,
    "streams_per_key": 1,
    "keep_alive": 1,
    "drain": 0,
}


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address means this machine and no other can reach it."""
    if host.casefold().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def network_of(address: str) -> str:
    """Return an address, or of IPv6 the network, which one host may fill; `unknown` for what is none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(found if found.version == 4 else ipaddress.ip_network((int(found) >> 64 << 64, 64)))


def read_namespaces(texts: list[str]) -> dict[str, str | None]:
    """Return namespaces from `name` and `name=URL`.

    Raises:
        UsageError: one is there twice, or has no name.
    """
    found: dict[str, str | None] = {}
    for text in texts:
        name, equals, url = text.partition("=")
        check_name(name, "namespace")
        if name in found:
            raise UsageError(f"namespace: {name!r} is there twice")
        found[name] = url if equals else None
    return found


_JOINED = re.compile(r"(?:^|\s)[\w-]+,|,[\w-]+=\w[\w+]*://")
"""Namespaces with commas between them. In a URL a comma is between the servers of one store."""


def _parsed(field_name: str, variable: str, text: str) -> Any:
    if field_name == "namespaces":
        if _JOINED.search(text):
            raise UsageError(f"{variable}: put spaces between namespaces, not commas")
        return read_namespaces(text.split())
    if field_name == "issuers":
        return read_issuers(text)
    if field_name in ("cors", "deliver_to", "hosts", "proxies", "redact"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if field_name in _LEAST:
        if not text.isdecimal():
            raise UsageError(f"{variable}: {text!r} must be a whole number")
        return int(text)
    if field_name in ("log_json", "dispatch", "qstash_dev"):
        if text.lower() not in _FLAGS:
            raise UsageError(f"{variable}: {text!r} must be one of {', '.join(_FLAGS)}")
        return _FLAGS[text.lower()]
    return text


_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
