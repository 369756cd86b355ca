"""What a server is: its version, its role, and what its settings make of an acknowledgement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from perdure.model.errors import StoreReadOnlyError, StoreUnavailableError
from perdure.store.redis.connections import Node
from perdure.store.redis.settings import Settings

OLDEST = (6, 2)
WAITAOF_SINCE = (7, 2)
UNKNOWN = "unknown"
_ASKED = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")


@dataclass(frozen=True)
class Server:
    """What one server says of itself.

    Attributes:
        info: its INFO.
        config: the settings that matter; `unknown` where it does not tell.
    """

    info: dict[str, str]
    config: dict[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """Its name and version."""
        if "valkey_version" in self.info:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info.get('redis_version', UNKNOWN)}"

    @property
    def version(self) -> tuple[int, ...]:
        """The version of Redis that it is, or that it says it is like."""
        return tuple(int(part) for part in self.info.get("redis_version", "0").split(".")[:2] if part.isdecimal())

    @property
    def is_cluster(self) -> bool:
        """Whether it is a node of a cluster."""
        return self.info.get("cluster_enabled") == "1"

    @property
    def keeps_a_log(self) -> bool:
        """Whether it has an append-only file."""
        return self.info.get("aof_enabled") == "1"


async def examine(node: Node, settings: Settings) -> Server:
    """Look at a server, and refuse it if it cannot hold a store.

    Raises:
        StoreReadOnlyError: it is a replica. StoreUnavailableError: it is too old, or set up so that it would lose runs.
    """
    told = await node.send([("INFO",)])
    if isinstance(told[0], ResponseError):
        raise told[0]
    info = _parsed(told[0])
    config = await _config(node, info)
    server = Server(info, config)
    _require(server, settings, str(node.address))
    node.is_known = True
    node.syncs_always = server.keeps_a_log and config["appendfsync"] == "always"
    return server


def _require(server: Server, settings: Settings, where: str) -> None:
    if server.version < OLDEST:
        raise StoreUnavailableError(f"{where} is {server.engine}: Perdure needs 6.2 or later, so upgrade it")
    if server.info.get("role") == "slave" and not server.is_cluster:
        master = f"{server.info.get('master_host')}:{server.info.get('master_port')}"
        raise StoreReadOnlyError(f"{where} is a replica of {master}: give that one's address")
    policy = server.config["maxmemory-policy"]
    is_bounded = server.config["maxmemory"] != "0"
    # volatile-*: only keys that have an end of their own are thrown away, and none of the store's has one
    if is_bounded and policy.startswith("allkeys") and not settings.may_evict:
        raise StoreUnavailableError(
            f"{where} throws data away when its memory is full (maxmemory-policy {policy}), and runs with it: "
            "set maxmemory-policy noeviction, or accept the loss with ?evicting=allow"
        )
    if settings.fsync and (server.version < WAITAOF_SINCE or not server.keeps_a_log):
        raise StoreUnavailableError(
            f"{where}: durability=fsync needs version 7.2 and an append-only file ({server.engine}, appendonly "
            f"{server.config['appendonly']}): set appendonly yes, or leave durability out"
        )


async def _config(node: Node, info: dict[str, str]) -> dict[str, str]:
    """Return the settings that matter; where CONFIG is forbidden, as on managed servers, what INFO tells of them."""
    config = {
        "appendonly": "yes" if info.get("aof_enabled") == "1" else "no",
        "appendfsync": UNKNOWN,
        "maxmemory": info.get("maxmemory", UNKNOWN),
        "maxmemory-policy": info.get("maxmemory_policy", UNKNOWN),
    }
    for answer in await node.send([("CONFIG", "GET", name) for name in _ASKED]):
        if isinstance(answer, list) and len(answer) == 2:
            config[answer[0].decode()] = answer[1].decode()
    return config


def _parsed(text: Any) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def durability_of(server: Server, settings: Settings) -> tuple[str, str, tuple[str, ...]]:
    """Return the class of an acknowledgement, what it survives, and what had better be changed."""
    log, fsync = server.keeps_a_log, server.config["appendfsync"]
    warnings: list[str] = []
    if UNKNOWN in server.config.values():
        warnings.append(
            "The server does not tell its settings (CONFIG is forbidden): see in its console that appendonly is on and "
            "that maxmemory-policy is noeviction."
        )
    if settings.may_evict and server.config["maxmemory-policy"].startswith("allkeys"):
        warnings.append("The server may throw runs away when its memory is full: set maxmemory-policy noeviction.")
    if not log:
        warnings.append("The server keeps no append-only file: set appendonly yes, or runs end with the server.")
    if settings.fsync and fsync != "always":
        warnings.append("durability=fsync waits up to a second for each write: set appendfsync always.")
    may_fail_over = (server.is_cluster or settings.service) and server.info.get("connected_slaves", "0") != "0"
    if settings.fsync and may_fail_over:
        warnings.append(
            "durability=fsync waits for the master's disk alone, and a replica that takes over may lack what was "
            "acknowledged: set durability=replicated:1."
        )
    if settings.replicas:
        disk = "on the master's disk within a second" if log else "on no disk"
        return (
            "D3 replicated",
            f"The end of the master: it is in the memory of {settings.replicas} replica(s), and {disk}.",
            tuple(warnings),
        )
    if not log:
        return (
            "D0 memory",
            "The end of the program; when the server ends, everything since its last snapshot is lost.",
            tuple(warnings),
        )
    if settings.fsync or fsync == "always":
        return "D2 local", "The end of the server and of its machine: it is on the disk first.", tuple(warnings)
    if fsync == "no":
        return (
            "D1 relaxed",
            "The end of the server; when its machine fails, about the last 30 seconds are lost.",
            tuple(warnings),
        )
    return (
        "D1 relaxed",
        "The end of the server; when its machine fails, the last second may be lost.",
        tuple(warnings),
    )
