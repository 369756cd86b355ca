"""Where a request may go: the public internet, by whatever name, number or redirect it is asked to go elsewhere."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from perdure import NonRetryableError
from perdure.tasks import AddressRefusedError, HttpError, HttpRequestError, http_request, http_request_task
from perdure.tasks.addresses import is_public
from tests.tasks.serving import Reply, client_context, in_turn, web

CLOSED = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "0.0.0.0", "0.1.2.3", "100.64.0.1", "100.100.100.200", "168.63.129.16",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "233.252.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "100::1", "2001:db8::1", "2001::1", "3fff::1",
    "5f00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::a9fe:a9fe",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::1",
]  # fmt: skip
OPEN = [
    "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808",
    "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("text", CLOSED)
def test_an_address_that_is_not_public(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OPEN)
def test_an_address_that_is_public(text):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "localhost", "LOCALHOST",
        "localhost.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "127。0。0。1",
        "①②⑦.0.0.1", "0.0.0.0", "0",
    ],
)  # fmt: skip
async def test_no_spelling_of_this_machine_is_let_through(host):
    with web(in_turn(Reply(body=b"secret"))) as server:
        with pytest.raises((NonRetryableError, HttpError)):  # a resolver need not know each of them
            await http_request(f"http://{host}:{server.port}/", timeout=5)
        assert server.asked == []


@pytest.mark.parametrize("host", ["a..b", "a" * 300 + ".example", "xn--"])
async def test_a_name_that_no_host_can_have_is_not_tried_again(host):
    with pytest.raises(HttpRequestError, match=f"^GET http://{host[:3]}"):
        await http_request(f"http://{host}/")


@pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "192.168.0.1", "168.63.129.16"])
async def test_metadata_and_private_networks_are_refused_with_the_way_to_allow_them(host):
    with pytest.raises(AddressRefusedError, match=r"that is not on the public internet; an operator can allow it"):
        await http_request(f"http://{host}/latest/meta-data/")


async def test_a_redirect_leads_nowhere_else_than_a_first_request():
    with web(in_turn(Reply(body=b"secret"))) as inner:
        with web(in_turn(Reply(302, headers={"Location": f"{inner.url}/"}))) as outer:
            with pytest.raises(AddressRefusedError, match="no request is made to 127.0.0.1"):
                await http_request_task(allow=["localhost"])(f"http://localhost:{outer.port}/")
            assert len(outer.asked) == 1
        assert inner.asked == []


@pytest.mark.parametrize("allow", ["127.0.0.1", "127.0.0.0/8", "localhost", "LOCALHOST."])
async def test_what_is_allowed_is_reached(allow):
    with web(in_turn(Reply(body=b"hello"))) as server:
        answer = await http_request_task(allow=[allow])(f"http://localhost:{server.port}/")
    assert answer.text == "hello"
    assert answer.url == f"http://localhost:{server.port}/"
    assert server.asked[0].headers["Host"] == f"localhost:{server.port}"


def answering(monkeypatch: pytest.MonkeyPatch, *addresses: list[str]) -> list[str]:
    """Have names resolve to these, once each; returns the names that were asked for."""
    left, asked = list(addresses), []
    loop = asyncio.get_running_loop()
    plain = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        if not str(host).endswith(".example"):
            return await plain(host, port, **options)
        asked.append(str(host))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_is_resolved_once_so_it_cannot_become_another_address(monkeypatch):
    asked = answering(monkeypatch, ["127.0.0.1"], ["10.9.9.9"])
    with web(in_turn(Reply(body=b"hello"))) as server:
        answer = await http_request_task(allow=["127.0.0.1"])(f"http://shop.example:{server.port}/")
    assert answer.text == "hello"
    assert asked == ["shop.example"]
    assert server.asked[0].headers["Host"] == f"shop.example:{server.port}"


async def test_one_closed_address_among_public_ones_is_enough_to_refuse_a_name(monkeypatch):
    answering(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(AddressRefusedError, match="shop.example, which is 127.0.0.1"):
        await http_request("http://shop.example/")


async def test_all_names_below_one_are_allowed_but_not_it_and_not_its_neighbours(monkeypatch):
    answering(monkeypatch, ["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"])
    task = http_request_task(allow=["*.shop.example"])
    with web(in_turn(Reply(body=b"hello"))) as server:
        assert (await task(f"http://api.shop.example:{server.port}/")).text == "hello"
        for host in ("shop.example", "evilshop.example"):
            with pytest.raises(AddressRefusedError):
                await task(f"http://{host}:{server.port}/")


async def test_the_next_address_is_tried_where_nobody_listens_at_the_first(monkeypatch):
    answering(monkeypatch, ["127.0.0.2", "127.0.0.1"], ["127.0.0.2"])
    task = http_request_task(allow=["127.0.0.0/8"])
    with web(in_turn(Reply(body=b"hello"))) as server:
        assert (await task(f"http://shop.example:{server.port}/", "POST", body="x")).text == "hello"
        assert server.asked[0].body == b"x"
        with pytest.raises(HttpError, match="GET http://shop.example"):
            await task(f"http://shop.example:{server.port}/")


async def test_a_certificate_is_checked_for_the_name_and_not_for_the_address(monkeypatch):
    answering(monkeypatch, ["127.0.0.1"])
    task = http_request_task(allow=["127.0.0.0/8"], tls=client_context())
    with web(in_turn(Reply(body=b"hello")), is_secure=True) as server:
        assert (await task(f"https://localhost:{server.port}/")).text == "hello"
        with pytest.raises(HttpError, match=r"shop.example.*certificate verify failed"):
            await task(f"https://shop.example:{server.port}/")
        with pytest.raises(HttpError, match="certificate verify failed"):
            await http_request_task(allow=["localhost"])(f"https://localhost:{server.port}/")
        assert len(server.asked) == 1
