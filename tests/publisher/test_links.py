"""Which server is asked, with which token; loops, threads, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import threading

import pytest

import perdure
from perdure import Publisher, PublishError, UsageError
from tests.dispatch.messages.destination import Destination, answered, destination
from tests.publisher.conftest import said
from tests.server.test_listening import _certificate

URL = "https://a.example"
HERE = {
    "QSTASH_URL": "https://q.example/",
    "QSTASH_TOKEN": "q",
    "PERDURE_URL": "https://p.example",
    "PERDURE_API_KEY": "p",
}


@pytest.mark.parametrize(
    ("names", "url", "token", "expected"),
    [
        (list(HERE), None, None, ("https://q.example", "Bearer q")),
        (["PERDURE_URL", "PERDURE_API_KEY", "QSTASH_TOKEN"], None, None, ("https://p.example", "Bearer p")),
        (["PERDURE_URL", "QSTASH_TOKEN"], None, None, ("https://p.example", None)),
        (["QSTASH_URL", "PERDURE_API_KEY"], None, None, ("https://q.example", None)),
        (list(HERE), "https://q.example", None, ("https://q.example", "Bearer q")),
        (list(HERE), "https://else.example/x/", None, ("https://else.example/x", None)),
        (list(HERE), "https://p.example/", None, ("https://p.example", "Bearer p")),
        (["PERDURE_API_KEY"], "https://else.example/x/", None, ("https://else.example/x", "Bearer p")),
        (["QSTASH_URL", "PERDURE_URL", "PERDURE_API_KEY"], "https://q.example", None, ("https://q.example", None)),
        (["QSTASH_URL", "QSTASH_TOKEN"], "https://else.example", None, ("https://else.example", None)),
        (list(HERE), None, "mine", ("https://q.example", "Bearer mine")),
        ([], "http://localhost:8000", "mine", ("http://localhost:8000", "Bearer mine")),
    ],
)
def test_a_token_of_the_environment_is_for_its_server(monkeypatch, names, url, token, expected):
    for name in names:
        monkeypatch.setenv(name, HERE[name])
    settings = Publisher(url, token)._link.settings
    assert (settings.url, settings.headers.get("Authorization")) == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "url: give the server's URL, or set QSTASH_URL"),
        ({"url": "shop.example"}, "url: .* is no server"),
        ({"url": "ftp://shop.example"}, "url: .* is no server"),
        ({"url": "http://"}, "url: .* is no server"),
        ({"url": "http://a:b"}, "url: "),
        ({"url": "http://a:0"}, "url: "),
        ({"url": "http://u:secret@a"}, "url: a server takes no password"),
        ({"url": "http://a?b=c"}, "url: .* more than a server's address"),
        ({"url": URL, "token": "two words"}, "token: "),
        ({"url": URL, "namespace": "a/b"}, "namespace: "),
        ({"url": URL, "timeout": 0}, "timeout: "),
        ({"url": URL, "timeout": "3m"}, "timeout: '3m' is over 120 seconds"),
        ({"url": URL, "patience": "5m"}, "patience: '5m' is over 240 seconds"),
        ({"url": URL, "ca": "nowhere.pem"}, "ca: 'nowhere.pem' is no file"),
    ],
)
def test_a_setting_that_cannot_be_is_told(options, told):
    with pytest.raises(UsageError, match=f"^{told}") as caught:
        Publisher(**options)
    assert "secret" not in str(caught.value)


def test_a_token_is_not_shown():
    pub = Publisher(URL, "secret")
    assert (repr(pub), repr(pub.blocking)) == (f"Publisher({URL!r})", f"BlockingPublisher({URL!r})")


async def test_requests_say_who_asks_and_about_what(recorder):
    recorder.answer = said(b"[]")
    async with Publisher(recorder.url, "tok", namespace="acme") as pub:
        await pub.queues.list()
    (got,) = recorder.got
    assert (got.headers["authorization"], got.headers["perdure-namespace"]) == ("Bearer tok", "acme")
    assert (got.headers["user-agent"], got.headers["accept"]) == ("perdure", "application/json")


async def test_connections_are_kept_and_bounded(recorder):
    recorder.answer = said(b"[]")
    async with Publisher(recorder.url) as pub:
        await asyncio.gather(*[pub.queues.list() for _ in range(200)])
    assert len(recorder.got) == 200
    assert 1 < recorder.connections <= 20


async def test_a_redirect_is_not_followed(recorder, asked):
    recorder.answer = lambda got: answered(307, "Location: /elsewhere\r\n")
    with pytest.raises(PublishError) as caught:
        await asked.queues.list()
    assert (caught.value.status, len(recorder.got)) == (307, 1)


async def test_a_server_that_hangs_up_is_asked_again(recorder, asked):
    recorder.answer = lambda got: None if len(recorder.got) < 3 else answered(200, body=b"[]")
    assert await asked.queues.list() == []
    assert len(recorder.got) == 3


async def test_a_server_without_time_is_asked_again_when_it_says(recorder, asked):
    recorder.answer = lambda got: (
        answered(503, "Retry-After: 0\r\n") if len(recorder.got) < 3 else answered(200, body=b"[]")
    )
    assert await asked.queues.list() == []
    recorder.answer = lambda got: answered(429, "Retry-After: 60\r\n", b'{"error": "Exceeded burst rate limit"}')
    with pytest.raises(PublishError, match="Exceeded burst rate limit") as caught:
        await asyncio.wait_for(asked.queues.list(), 5)
    assert caught.value.status == 429


async def test_a_date_says_too_when_to_ask_again(recorder, asked):
    dates = "Date: Fri, 20 Nov 2026 10:00:00 GMT\r\nRetry-After: Fri, 20 Nov 2026 11:00:00 GMT\r\n"
    recorder.answer = lambda got: answered(503, dates)
    with pytest.raises(PublishError, match="503"):
        await asyncio.wait_for(asked.queues.list(), 5)
    recorder.answer = lambda got: answered(503, "Retry-After: soon\r\n") if len(recorder.got) < 3 else said(b"[]")(got)
    assert await asked.queues.list() == []


@pytest.mark.parametrize("header", ["RateLimit-Reset", "Burst-RateLimit-Reset"])
async def test_the_end_of_a_limits_period_says_when_to_ask_again(recorder, asked, header):
    def answer(reset):
        limited = answered(429, f"{header}: {reset}\r\n", b'{"error": "Exceeded"}')
        return lambda got: limited if len(recorder.got) % 2 else answered(200, body=b"[]")

    for reset in ("0", "1795000000", "soon", "1" * 40):
        recorder.answer = answer(reset)
        assert await asked.queues.list() == []
    for reset in ("60", "99999999999"):
        recorder.answer = answer(reset)
        with pytest.raises(PublishError, match="Exceeded"):
            await asyncio.wait_for(asked.queues.list(), 5)
        recorder.got.clear()


async def test_an_answer_without_an_end_is_told(recorder, asked, monkeypatch):
    monkeypatch.setattr("perdure.publisher.links.ANSWER_BYTES", 1_000)
    recorder.answer = lambda got: answered(200, body=b"[" + b" " * 2_000 + b"]")
    for asking in (asked.queues.list(), asyncio.to_thread(asked.blocking.queues.list)):
        with pytest.raises(PublishError, match="its answer cannot be read .it is over 1,000 bytes.*may or may not"):
            await asking
    recorder.answer = lambda got: answered(200, "Content-Encoding: gzip\r\n", b"nonsense")
    for asking in (asked.queues.list(), asyncio.to_thread(asked.blocking.queues.list)):
        with pytest.raises(PublishError, match="its answer cannot be read"):
            await asking
    assert len(recorder.got) == 4
    asked.blocking.close()


async def test_an_answer_that_drips_is_given_up():
    drips = []

    async def drip(reader, writer):
        drips.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Publisher(url, timeout=0.2, patience=0) as pub:
        with pub.blocking as blocking:
            for asking in (pub.queues.list(), asyncio.to_thread(blocking.queues.list)):
                with pytest.raises(PublishError, match="the answer has no end after 0.2 seconds"):
                    await asyncio.wait_for(asking, 5)
    server.close()
    await asyncio.gather(*drips)


async def test_a_server_that_does_not_answer_is_given_up():
    async with destination() as silent:
        silent.hold = asyncio.Event()
        async with Publisher(silent.url, timeout=0.2, patience=0.5) as pub:
            with pytest.raises(PublishError, match="did not answer .* may or may not have happened") as caught:
                await pub.publish(URL, json=1)
        silent.hold.set()
    assert caught.value.status == 0
    assert len({got.headers["upstash-deduplication-id"] for got in silent.got}) == 1 < len(silent.got)


async def test_a_server_that_is_not_there_is_told(unused_tcp_port):
    async with Publisher(f"http://127.0.0.1:{unused_tcp_port}", patience=0) as pub:
        with pytest.raises(PublishError, match="cannot be reached"):
            await pub.publish(URL)
        with pytest.raises(PublishError, match="cannot be reached"):
            await asyncio.to_thread(pub.blocking.publish, URL)
        pub.blocking.close()


async def test_a_closed_publisher_says_so(asked):
    await asked.close()
    with pytest.raises(UsageError, match="closed"):
        await asked.queues.list()
    await asked.close()
    asked.blocking.close()
    asked.blocking.close()
    with pytest.raises(UsageError, match="closed"):
        asked.blocking.queues.list()


async def test_another_loop_is_told(recorder, asked):
    recorder.answer = said(b"[]")
    await asked.queues.list()
    with pytest.raises(UsageError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(asked.queues.list()))


async def test_a_publisher_may_go_on_with_the_next_loop(recorder):
    recorder.answer = said(b"[]")
    pub = Publisher(recorder.url)

    async def once():
        assert await pub.queues.list() == []
        await pub._link._http.aclose()

    for _ in range(2):
        await asyncio.to_thread(asyncio.run, once())
    assert len(recorder.got) == 2


async def test_any_thread_may_use_the_blocking_publisher(recorder, asked):
    recorder.answer = said(b"[]")
    found = []
    threads = [threading.Thread(target=lambda: found.append(asked.blocking.queues.list())) for _ in range(8)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    asked.blocking.close()
    assert found == [[]] * 8


async def test_a_cancelled_call_leaves_a_publisher_that_works(recorder, asked):
    recorder.hold = asyncio.Event()
    task = asyncio.create_task(asked.queues.list())
    while not recorder.got:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    recorder.hold.set()
    recorder.hold, recorder.answer = None, said(b"[]")
    assert await asked.queues.list() == []


def test_the_publisher_is_loaded_when_it_is_named():
    program = (
        "import sys, perdure; before = 'httpx' in sys.modules; perdure.Publisher; print(before, 'httpx' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Unheard'"):
        perdure.Unheard  # the attribute is what is asked for


def test_without_httpx_it_is_told_what_to_install():
    program = (
        "import sys; sys.modules['httpx'] = None; import perdure\n"
        "try: perdure.Publisher\n"
        "except perdure.UsageError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "perdure.Publisher needs httpx: pip install 'perdure[http]'\n"


def test_a_verb_tells_what_it_does():
    pub = Publisher(URL)
    assert pub.publish.__name__ == "publish"
    assert "tried again" in (pub.publish.__doc__ or "")
    assert "tried again" in (Publisher.publish.__doc__ or "")
    assert "latest first" in (Publisher.logs.__doc__ or "")
    with pytest.raises(TypeError):
        pub.publish()


async def test_a_certificate_is_checked(tmp_path):
    key, certificate = _certificate()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "cert.pem").write_bytes(certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    found = Destination(answer=said(b"[]"))
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with Publisher(url, ca=tmp_path / "cert.pem") as pub, Publisher(url) as other:
        assert await pub.queues.list() == []
        with pub.blocking as blocking:
            assert await asyncio.to_thread(blocking.queues.list) == []
        with pytest.raises(
            PublishError, match=r"no secure connection .* check the server's certificate, and ca"
        ) as caught:
            await asyncio.wait_for(other.queues.list(), 5)
        assert caught.value.status == 0
    server.close()
