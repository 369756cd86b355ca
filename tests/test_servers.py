"""The servers that the suite runs on start, restart and end; the line to them can be cut."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as Gone

from tests.servers import (
    PostgresServer,
    ValkeyCluster,
    ValkeySentinel,
    ValkeyServer,
    cut,
    label,
    postgres,
    valkey,
)

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("version", [16, 18])
def test_postgres_keeps_what_was_committed_before_it_was_killed(version: int) -> None:
    with PostgresServer(version) as server:
        assert server.sql("SHOW server_version_num")[0][0].startswith(str(version))
        assert server.sql("SHOW fsync") == [("on",)]
        server.sql("CREATE TABLE kept AS SELECT 1 AS n")
        server.kill()
        assert not server.answers()
        server.start()
        assert server.sql("SELECT n FROM kept") == [(1,)]
        server.restart()
        assert server.sql("SELECT n FROM kept") == [(1,)]
    assert not server.folder.exists()


def test_postgres_is_one_for_all_and_has_a_database_for_each() -> None:
    assert postgres() is postgres()
    for over in ("tcp", "socket"):
        url = postgres().url("orders", over=over)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("orders",)
    assert postgres().url("orders", schema="a b").endswith("/orders?schema=a+b")
    wrong = url.replace("p%40ss", "wrong")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(wrong)


def test_valkey_keeps_what_was_fsynced_before_it_was_killed() -> None:
    with ValkeyServer(appendfsync="always", requirepass="p@ss/word") as server:
        assert server.call("SET", "kept", 1) == "OK"
        server.kill()
        assert not server.answers()
        server.start()
        assert server.call("GET", "kept") == "1"
        server.restart()
        with redis.Redis.from_url(server.url()) as client:
            assert client.get("kept") == b"1"


def test_valkey_is_one_for_each_configuration() -> None:
    assert valkey() is valkey()
    assert valkey().call("CONFIG", "GET", "appendonly") == ["appendonly", "yes"]


def test_a_cluster_moves_slots_and_replicas_take_over() -> None:
    with ValkeyCluster(masters=3, replicas=1, requirepass="p@ss/word") as cluster:
        slot = cluster.slot("{a}")
        first = cluster.owner(slot)
        second, third = (node for node in cluster.masters if node is not first)
        for number in range(10):
            first.call("SET", f"{{a}}{number}", number)
        seen: list[object] = []
        cluster.migrate_slot(slot, second, lambda: seen.append(second.call("CLUSTER", "COUNTKEYSINSLOT", slot)))
        assert seen == [5]
        assert cluster.owner(slot) is second
        cluster.migrate_slots_at_once(slot, slot, third)
        assert third.call("GET", "{a}7") == "7"
        new = cluster.hand_over(third)
        assert cluster.owner(slot) is new is not third
        assert cluster.fail_over(new) is third
        assert third.call("GET", "{a}7") == "7"
        new.start()
        new.until(lambda: new.follows(third), "come back as a replica")


def test_a_sentinel_makes_the_replica_the_master() -> None:
    with ValkeySentinel(requirepass="p@ss/word") as pair:
        old = pair.master
        old.call("SET", "kept", 1)
        assert old.call("WAIT", 1, 5000) == 1
        new = pair.fail_over()
        assert pair.master is new is not old
        assert new.call("GET", "kept") == "1"


async def test_a_line_loses_requests_and_answers_and_is_cut() -> None:
    server = valkey()
    key = label("a line")
    async with cut(server.port) as line:
        assert line.url(server.url()) == server.url().replace(str(server.port), str(line.port))
        async with redis.asyncio.Redis.from_url(line.url(server.url()), retry=None) as client:
            line.lose_request(b"INCR")
            with pytest.raises(Gone):
                await client.incr(key)
            assert server.call("GET", key) is None
            line.lose_answer(b"INCR")
            with pytest.raises(Gone):
                await client.incr(key)
            assert (line.lost, server.call("GET", key)) == (2, "1")
            assert await client.incr(key) == 2
            line.drop()
            with pytest.raises(Gone):
                await client.ping()
            line.freeze()
            asked = asyncio.ensure_future(client.incr(key))
            await asyncio.wait([asked], timeout=0.05)
            assert not asked.done()
            line.thaw()
            assert await asked == 3
            line.is_refusing = True
            line.drop()
            with pytest.raises(Gone):
                await client.ping()


def test_a_server_that_cannot_start_says_why() -> None:
    server = ValkeyServer(appendfsync="sometimes")
    with pytest.raises(AssertionError, match="appendfsync sometimes"):
        server.start()
    server.remove()


def test_a_server_that_was_removed_is_not_started_by_a_thread_that_was_about_to() -> None:
    server = ValkeyServer().start()
    with ThreadPoolExecutor() as threads:
        restarting = [threads.submit(server.restart) for _ in range(3)]
        server.remove()
    assert any(isinstance(each.exception(), (AssertionError, FileNotFoundError)) for each in restarting)
    assert not server.is_running
    assert not server.answers()


PROGRAM = """
import time
from tests.servers import postgres, valkey
servers = [postgres(), valkey()]
print(*(server.process.pid for server in servers), *(server.folder for server in servers), flush=True)
{end}
"""


@pytest.mark.parametrize(("end", "sign"), [("", None), ("time.sleep(60)", signal.SIGKILL)])
def test_servers_end_however_the_run_ends(end: str, sign: signal.Signals | None) -> None:
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        *pids, first, second = process.stdout.readline().split()
        if sign is not None:
            process.send_signal(sign)
        process.wait(30)
    until = time.monotonic() + 30
    while any(is_alive(int(pid)) for pid in pids) or Path(first).exists() or Path(second).exists():
        assert time.monotonic() < until, "they are still there"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
