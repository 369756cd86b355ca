"""The server on a port: what a client may send, how long it may take, and how it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from perdure.model.errors import UsageError
from perdure.server import ServerSettings, create_server, listening
from perdure.server.listening import Listener
from tests.server.conftest import memory


@contextlib.asynccontextmanager
async def listens(**settings: Any) -> AsyncIterator[tuple[Listener, str, int]]:
    """A listener in this process, which leaves the signals alone; its address and its port."""
    told: list[str] = []
    listener = Listener(create_server(ServerSettings(store=memory(), port=0, **settings)), told.append)
    listener.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(listener.work())
    while not told:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.005)
    try:
        yield listener, told[0], int(told[0].rpartition(":")[2])
    finally:
        listener.should_exit = True
        await task


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    async with listens(keep_alive=1) as (_, _, port):
        yield port


async def answer(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


CLOSE = b"Host: localhost\r\nConnection: close\r\n\r\n"


async def test_it_answers_and_does_not_say_what_it_is(port):
    said = await answer(port, b"GET /livez HTTP/1.1\r\n", CLOSE)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"server:" not in said.lower()
    assert b"uvicorn" not in said.lower()


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"nonsense\r\n\r\n"], 400),
        ([b"GET /livez HTTP/1.1\r\nA: \x00\r\n", CLOSE], 400),
        ([b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n", CLOSE], 414),
        ([b"GET /livez HTTP/1.1\r\n", *[b"A%d: b\r\n" % n for n in range(101)], CLOSE], 431),
        ([b"GET /livez HTTP/1.1\r\nA: " + b"a" * 33_000 + b"\r\n", CLOSE], 431),
        ([b"GET /livez HTTP/1.1\r\nA: ", *[b"a" * 10_000] * 5], 431),
        ([b"GET /livez HTTP/1.1\r\n", *[b"A%d: %b\r\n" % (n, b"b" * 900) for n in range(60)]], 431),
    ],
)
async def test_what_is_no_request(port, parts, status):
    said = await answer(port, *parts)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), said
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


async def test_who_sends_nothing_or_too_slowly_is_let_go(monkeypatch):
    monkeypatch.setattr(listening, "HEAD_WITHIN", 0.1)
    async with listens() as (_, _, port):
        assert await answer(port) == b""
        assert await answer(port, b"GET /livez HTTP/1.1\r\nHost: ") == b""
        second = await answer(port, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /livez HT")
        assert second.startswith(b"HTTP/1.1 200")


async def test_who_takes_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(listening, "TAKEN_WITHIN", 0.2)
    async with listens() as (listener, url, port):
        body = {"runs": [{"workflow": "w", "input": "x" * 90_000, "id": f"run-{number}"} for number in range(10)]}
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/api/v1/runs/batch", json=body)).status_code == 200
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stuck.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stuck, ("127.0.0.1", port))
        for number in range(10):
            request = f"GET /api/v1/runs/run-{number}/journal HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await loop.sock_sendall(stuck, request.encode() * 20)
        while not any(connection.flow.write_paused for connection in listener.server_state.connections):
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while listener.server_state.connections:
                await asyncio.sleep(0.02)
        stuck.close()


async def test_a_kept_connection_ends_by_itself(port):
    began = time.monotonic()
    said = await answer(port, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 5


async def test_who_never_ends_what_was_answered_is_let_go(monkeypatch):
    monkeypatch.setattr(listening, "REST_WITHIN", 0.2)
    async with listens() as (listener, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405")
        async with asyncio.timeout(5):
            while listener.server_state.connections:
                writer.write(b"x")
                await asyncio.sleep(0.005)
        writer.close()


@pytest.mark.parametrize(
    ("first", "then", "ever"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n", b"\r\n"),
        (b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nx", b"yz", b""),
    ],
)
async def test_who_asks_nothing_more_is_let_go(monkeypatch, first, then, ever):
    monkeypatch.setattr(listening, "HEAD_WITHIN", 0.2)
    async with listens() as (listener, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(then)
        async with asyncio.timeout(5):
            while listener.server_state.connections:
                writer.write(ever)
                await asyncio.sleep(0.005)
        writer.close()


async def test_who_ends_late_what_was_answered_may_ask_on(monkeypatch):
    monkeypatch.setattr(listening, "REST_WITHIN", 0.5)
    async with listens() as (_, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nx")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405")
        writer.write(b"yzGET /livez HTTP/1.1\r\n" + CLOSE)
        assert b"HTTP/1.1 200" in await reader.read()
        writer.close()


async def test_past_its_connections_it_says_so():
    async with listens(connections=2) as (_, url, port):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        async with httpx.AsyncClient(base_url=url) as client:
            refused = await client.get("/livez")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:perdure:error:too-many-connections")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"]
        for _, writer in kept:
            writer.close()
        while not (await answer(port, b"GET /livez HTTP/1.1\r\n", CLOSE)).startswith(b"HTTP/1.1 200"):
            pass


async def test_one_address_has_so_many_connections_and_others_have_theirs(monkeypatch):
    monkeypatch.setattr(listening, "is_loopback", lambda host: host == "127.0.0.2")  # as if we were far away
    async with listens(connections_per_address=2) as (listener, url, port):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        async with httpx.AsyncClient(base_url=url) as client:
            refused = await client.get("/livez")
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:perdure:error:too-many-connections")
        assert "connections_per_address" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        far = httpx.AsyncHTTPTransport(local_address="127.0.0.3")
        near = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        for other in (far, near, near):
            async with httpx.AsyncClient(base_url=url, transport=other) as client:
                assert (await client.get("/livez")).status_code == 200
        for _, writer in kept:
            writer.close()
        while not (await answer(port, b"GET /livez HTTP/1.1\r\n", CLOSE)).startswith(b"HTTP/1.1 200"):
            pass
        while listener.server_state.connections:
            await asyncio.sleep(0.005)
        assert not listener.config.places


async def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1 {port} cannot be had"):
            await Listener(create_server(ServerSettings(store=memory(), port=port)), print).work()


async def test_it_listens_to_others_only_where_somebody_said_who_may_do_what():
    with pytest.raises(UsageError, match="perdure keys create"):
        await Listener(create_server(ServerSettings(store=memory(), host="0.0.0.0", port=0)), print).work()


async def test_over_tls(tmp_path):
    key, certificate = _certificate()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "cert.pem").write_bytes(certificate)
    files = {"tls_cert": f"{tmp_path}/cert.pem", "tls_key": f"{tmp_path}/key.pem"}
    async with listens(**files) as (_, url, _):
        assert url.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=files["tls_cert"])) as client:
            answer = await client.get(url.replace("127.0.0.1", "localhost") + "/livez")
        assert answer.status_code == 200
        assert "strict-transport-security" in answer.headers


def _certificate() -> tuple[bytes, bytes]:
    """A key and a certificate for this machine, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(1)
    )
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = made.sign(key, hashes.SHA256())
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return key.private_bytes(pem, *plain), signed.public_bytes(pem)


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "perdure.cli",
        "server",
        "--store",
        f"sqlite:///{tmp_path}/shop.db",
        "--port",
        "0",
        "--json",
    ]
    environment = {**os.environ, "PERDURE_NAMESPACES": "acme"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = ""
        while "}" not in lines and process.poll() is None:
            lines += process.stdout.readline()
        assert lines, process.communicate()
        hello = json.loads(lines)
        assert hello["namespaces"] == ["default", "acme"]
        assert httpx.get(f"{hello['url']}/readyz").json() == {"status": "ok"}
        with httpx.stream("GET", f"{hello['url']}/api/v1/watch", timeout=10) as stream:
            parts = stream.iter_text()
            while "event: namespace" not in next(parts):
                pass
            process.send_signal(signal.SIGTERM)
            for _ in parts:  # until it ends, with the server
                pass
        assert process.wait(10) == 0
    assert (tmp_path / "shop.acme.db").exists()
