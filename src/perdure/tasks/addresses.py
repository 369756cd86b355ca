"""Which addresses a request may go to: the public internet, and what an operator allows beside it.

A name is resolved once; every address it has is checked, and the connection goes to one that was. So a name that
resolves to something else a moment later, and a number in an unusual notation, get nowhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from perdure.model.errors import NonRetryableError, UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What `is_global` takes for public in one Python or another: metadata services, protocol assignments, site-local.
_CLOSED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "100.64.0.0/10",
        "fec0::/10",
        "2001::/23",
        "3fff::/20",
        "5f00::/16",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class AddressRefusedError(NonRetryableError):
    """A request was to go to an address that is not on the public internet and was not allowed."""


class Guard:
    """Resolves names, and refuses addresses.

    Args:
        allow: what may be reached although it is not public: addresses and networks (`"10.1.0.0/16"`), names
            (`"billing.internal"`), and all names below one (`"*.internal"`).

    Raises:
        UsageError: an entry of `allow` is none of these.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self._networks: list[Network] = []
        self._names: set[str] = set()
        self._domains: list[str] = []
        for entry in allow:
            self._add(entry)

    def _add(self, entry: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry))
            return
        except ValueError:
            pass
        name = entry.lower().rstrip(".")
        bare = name.removeprefix("*.")
        if not bare or any(sign in bare for sign in "/:*@ ") or bare.replace(".", "").isdigit():
            raise UsageError(f"allow: {entry!r} is no address, network (10.1.0.0/16), name or *.name")
        if name == bare:
            self._names.add(name)
        else:
            self._domains.append(f".{bare}")

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, each of which may be connected to.

        Raises:
            AddressRefusedError: one of them may not be. OSError: the name cannot be resolved.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._is_allowed_name(host):
            for address in addresses:
                self._check(host, address)
        return addresses

    def check_number(self, host: str) -> None:
        """Look at a host that is written as an address; a name is looked at when it is resolved.

        Raises:
            AddressRefusedError: it may not be connected to.
        """
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return
        self._check(host, host)

    def _is_allowed_name(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        return name in self._names or any(name.endswith(domain) for domain in self._domains)

    def _check(self, host: str, text: str) -> None:
        address = ipaddress.ip_address(text)
        if any(address in network for network in self._networks):
            return
        if not is_public(address):
            named = "" if host == text else f", which is {text}"
            raise AddressRefusedError(
                f"no request is made to {host}{named}: that is not on the public internet; "
                "an operator can allow it: by --deliver-to for what a server delivers, by allow=[...] where a task is "
                "made or a webhook is registered"
            )


def is_public(address: Address) -> bool:
    """Return whether an address is one host on the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        if getattr(address, "scope_id", None) or address in _NAT64_LOCAL:
            return False
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in _CLOSED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
