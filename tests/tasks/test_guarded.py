"""Every way out that the engine has, against URLs that try to get to where they may not: nobody there hears a thing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from perdure.model.errors import StepError
from perdure.tasks import AddressRefusedError, HttpError, HttpRequestError, HttpTimeouts
from perdure.tasks.addresses import Guard
from perdure.tasks.door import ConnectionTransport, Door, Request
from tests.tasks.serving import Reply, client_context, in_turn, web

SOON = HttpTimeouts(2.0, 2.0, 5.0)

LOOPBACK = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0x7F.0x0.0x0.0x1",
    "017700000001", "0177.0.0.1", "0177.1", "00000177.0.0.1", "0", "0.0.0.0", "0x0", "00", "localhost", "LOCALHOST",
    "localhost.", "127.0.0.1.", "127。0。0。1", "127．0．0．1", "①②⑦.0.0.1", "１２７.0.0.1", "ⓛocalhost", "ｌocalhost",
    "localhost%2e", "%6cocalhost", "127.0.0.1%00", "%31%32%37.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]",
    "[0000::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]",
    "[::127.0.0.1]", "[::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]", "[2002:7f00:0001::1]", "[2001:0:7f00:1::1]", "[::1%lo]", "[::1%25lo]", "[fe80::1%lo]",
    "8.8.8.8@127.0.0.1", "public.example@localhost", "user:word@127.0.0.1", "public.example%40127.0.0.1",
    "127.0.0.1#@8.8.8.8", "8.8.8.8\\@127.0.0.1", "127.0.0.1\\@8.8.8.8",
]  # fmt: skip
"""Names of this machine, in every spelling, where somebody listens."""

INSIDE = [
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "169.254.169.254", "0xa9fea9fe",
    "2852039166", "0251.0376.0251.0376", "169.254.43518", "169.254.170.2", "100.64.0.1", "100.100.100.200",
    "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "0.0.0.1", "[fc00::1]", "[fd00:ec2::254]",
    "[fe80::1]", "[fec0::1]", "[ff02::1]", "[100::1]", "[2001:db8::1]", "[2001::1]", "[3fff::1]", "[5f00::1]",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[2002:c0a8:1::1]", "[::ffff:10.0.0.1]",
]  # fmt: skip
"""Addresses of private networks, of metadata services and of nobody."""


def doors(guard: Guard) -> dict[str, Door]:
    """The ways out: of tasks, of deliveries, of the keys of issuers."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {
        "tasks": Door(guard, 10_000, 5, tls),
        "deliveries": Door(guard, None, None, tls),
        "issuers": Door(guard, 10_000, 0, tls),
    }


class Canary:
    """Somebody who listens on this machine, and counts who connects."""

    def __init__(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._sockets[0].getsockname()[1]
        if socket.has_dualstack_ipv6():
            self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for each in self._sockets:
            each.setblocking(False)

    def heard(self) -> int:
        count = 0
        for each in self._sockets:
            try:
                while True:
                    each.accept()[0].close()
                    count += 1
            except BlockingIOError:
                pass
        return count

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


async def asked(door: Door, url: str) -> Exception:
    with pytest.raises((StepError, AddressRefusedError, HttpRequestError)) as refused:
        await door.send(Request("POST", url, {}, None, b"x"), SOON)
    return refused.value


def test_the_list_is_as_long_as_it_has_to_be() -> None:
    assert len(set(LOOPBACK + INSIDE)) >= 80


async def test_the_canary_hears_who_is_let_through(canary: Canary) -> None:
    for door in doors(Guard(["127.0.0.1"])).values():
        sending = asyncio.create_task(
            door.send(Request("POST", f"http://127.0.0.1:{canary.port}/", {}, None, b""), SOON)
        )
        while not canary.heard():
            await asyncio.sleep(0.001)
        with pytest.raises(HttpError):
            await sending


@pytest.mark.parametrize("host", LOOPBACK)
async def test_no_way_out_leads_back_in(canary: Canary, host: str) -> None:
    for door in doors(Guard()).values():
        for scheme in ("http", "https"):
            await asked(door, f"{scheme}://{host}:{canary.port}/")
    assert canary.heard() == 0


@pytest.mark.parametrize("host", INSIDE)
async def test_no_way_out_leads_into_a_private_network(host: str) -> None:
    for door in doors(Guard()).values():
        assert isinstance(await asked(door, f"http://{host}/"), AddressRefusedError | HttpRequestError)


async def test_a_redirect_to_any_of_them_leads_nowhere(canary: Canary) -> None:
    with web(in_turn(Reply())) as outer:
        for host in LOOPBACK:
            location = f"http://{host}:{canary.port}/".encode().decode("latin-1")
            outer.answers = in_turn(Reply(302, headers={"Location": location}))
            ways = doors(Guard(["perdure.example"]))
            url = f"http://perdure.example:{outer.port}/"
            with pytest.MonkeyPatch.context() as patched:
                names(patched, {"perdure.example": ["127.0.0.1"]})
                await asked(ways["tasks"], url)
                await asked(ways["issuers"], url)
                request = Request("POST", url, {}, None, b"x")
                (answer,) = await asyncio.gather(ways["deliveries"].send(request, SOON), return_exceptions=True)
                told = "Invalid URL in location header" if isinstance(answer, HttpError) else "status=302"
                assert told in str(answer)  # a redirect is an answer like any other there
    assert canary.heard() == 0


async def test_a_name_that_changes_its_address_between_two_looks_leads_nowhere(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first it is an address that may be reached, where nobody listens; whoever looks again finds this machine."""
    looked = names(monkeypatch, {"perdure.example": ["127.0.0.2", "127.0.0.1"] * 60})
    for number in range(20):
        for door in doors(Guard(["127.0.0.2"])).values():
            refused = await asked(door, f"http://perdure.example:{canary.port}/{number}")
            assert isinstance(refused, HttpError)  # nobody was there
            assert isinstance(await asked(door, f"http://perdure.example:{canary.port}/"), AddressRefusedError)
    assert len(looked) == 120
    assert canary.heard() == 0


async def test_no_proxy_of_the_environment_is_asked(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    for door in doors(Guard()).values():
        await asked(door, "http://10.0.0.1/")
        await asked(door, "http://127.0.0.1:1/")
    assert canary.heard() == 0


async def test_a_connection_is_kept_for_its_origin_and_each_name_shows_its_own_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = names(monkeypatch, {"localhost": ["127.0.0.1"], "perdure.example": ["127.0.0.1"]})
    transport = ConnectionTransport(Guard(["127.0.0.1"]), client_context())
    replies = in_turn(*[Reply(body=b"hello")] * 3, Reply(body=b"bye", headers={"Connection": "close"}), Reply())
    with web(replies) as server, web(in_turn(Reply(body=b"hello")), is_secure=True) as secure:
        async with httpx.AsyncClient(transport=transport) as http:
            for _ in range(3):
                assert (await http.get(f"http://localhost:{server.port}/")).text == "hello"
            assert looked == ["localhost"]
            assert (await http.get(f"http://localhost:{server.port}/")).text == "bye"
            assert (await http.get(f"http://localhost:{server.port}/")).status_code == 200
            assert looked == ["localhost"] * 2  # the other side had ended the first one
            assert (await http.get(f"https://localhost:{secure.port}/")).text == "hello"
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await http.get(f"https://perdure.example:{secure.port}/")
            assert (await http.get(f"https://localhost:{secure.port}/")).text == "hello"


async def test_an_answer_that_is_left_unread_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = names(monkeypatch, {"localhost": ["127.0.0.1"]})
    with web(in_turn(Reply(body=b"x" * 1_000_000), Reply(body=b"hello"))) as server:
        async with httpx.AsyncClient(transport=ConnectionTransport(Guard(["127.0.0.1"]), client_context())) as http:
            async with http.stream("GET", f"http://localhost:{server.port}/") as response:
                assert response.status_code == 200
            assert (await http.get(f"http://localhost:{server.port}/")).text == "hello"
    assert looked == ["localhost"] * 2


async def test_a_connection_that_the_other_side_ends_is_replaced_by_a_new_one() -> None:
    ended: list[asyncio.StreamWriter] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        ended.append(writer)

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with server, httpx.AsyncClient(transport=ConnectionTransport(None, client_context())) as http:
        for _ in range(3):
            assert (await http.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")).status_code == 200
            await ended[-1].wait_closed()
    assert len(ended) == 3


async def test_what_is_built_on_the_transport_is_guarded_too(canary: Canary) -> None:
    transport = ConnectionTransport(Guard(), client_context())
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as http:
        for host in ("127.0.0.1", "[::1]", "localhost", "127.1"):
            with pytest.raises((AddressRefusedError, httpx.InvalidURL, OSError)):
                await http.get(f"http://{host}:{canary.port}/")
    assert canary.heard() == 0


def names(monkeypatch: pytest.MonkeyPatch, known: dict[str, list[str]]) -> list[str]:
    """Have names resolve to their addresses, one after the other, the last for ever; returns who was asked for."""
    loop, looked = asyncio.get_running_loop(), list[str]()
    plain = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        addresses = known.get(host.decode() if isinstance(host, bytes) else str(host))
        if addresses is None:
            return await plain(host, port, **options)
        looked.append(str(host))
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    return looked
