"""Servers that die, hang up and lose answers while runs are in flight: all ends, and nothing runs or is recorded twice.

PERDURE_CRASH_SEED=7 PERDURE_CRASH_RUNS=2000 python -m pytest tests/crash/test_server_deaths.py -s
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.living import TIMEOUT, Trouble, in_thread, live_through
from tests.servers import Line, PostgresServer, ValkeyServer, cut

PATIENCE = "1s"
"""Of the stores, so short that callers and workers hear of the trouble and have to try again themselves."""

pytestmark = [pytest.mark.crash, pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


def line_troubles(line: Line, *writes: bytes) -> list[Trouble]:
    """What can become of a line: cut anywhere, nobody there, nothing heard; and above all, answers and requests lost.

    Args:
        line: the line.
        writes: what is in requests that must not be done twice, nor be taken for done.
    """

    async def hang_up() -> None:
        line.drop()

    async def be_away() -> None:
        line.is_refusing = True
        line.drop()
        await asyncio.sleep(1.5)  # longer than the patience
        line.is_refusing = False

    async def say_nothing() -> None:
        line.freeze()
        await asyncio.sleep(1.5)
        line.thaw()

    def lose(how: Callable[[bytes], None], holding: bytes) -> Trouble:
        async def losing() -> None:
            how(holding)

        return losing

    answers = [lose(line.lose_answer, holding) for holding in writes]
    requests = [lose(line.lose_request, holding) for holding in writes]
    return [*answers, hang_up, *answers, be_away, *answers, hang_up, *requests, *answers, say_nothing]


def terminate_backends(server: PostgresServer) -> None:
    """Have the server hang up on everybody, as an administrator would."""
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'perdure'")


def kill_clients(server: ValkeyServer) -> None:
    for sort in ("normal", "pubsub"):
        server.call("CLIENT", "KILL", "TYPE", sort)


def crash(server: PostgresServer | ValkeyServer) -> None:
    server.kill()
    server.start()


async def test_postgres_dies_and_comes_back(tmp_path: Path):
    with PostgresServer() as server:
        troubles = [in_thread(crash, server), in_thread(terminate_backends, server), in_thread(server.restart)]
        await live_through(server.url(patience=PATIENCE), troubles, tmp_path)


async def test_postgres_is_cut_off(tmp_path: Path):
    with PostgresServer() as server:
        async with cut(server.port) as line:
            troubles = [
                *line_troubles(line, b"input", b"step", b"output", b"COMMIT"),
                in_thread(terminate_backends, server),
            ]
            url = line.url(server.url(patience=PATIENCE))
            await live_through(url, troubles, tmp_path, pauses=(0.1, 0.4), seen_at=server.url)
            assert line.lost > 10


async def test_valkey_dies_and_comes_back(tmp_path: Path):
    with ValkeyServer(appendfsync="always") as server:
        troubles = [in_thread(crash, server), in_thread(kill_clients, server), in_thread(server.restart)]
        await live_through(server.url(patience=PATIENCE), troubles, tmp_path)


async def test_valkey_is_cut_off_and_forgets_its_scripts(tmp_path: Path):
    with ValkeyServer(appendfsync="always") as server:
        async with cut(server.port) as line:
            troubles = [*line_troubles(line, b"input", b"step", b"output"), in_thread(server.call, "SCRIPT", "FLUSH")]
            url = line.url(server.url(patience=PATIENCE))
            await live_through(url, troubles, tmp_path, pauses=(0.1, 0.4), seen_at=server.url)
            assert line.lost > 10
