"""Streams of changes, over real sockets: who reads, who reads slowly, and who has gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource

import pytest

from perdure import Perdure, flow
from perdure.model.errors import StoreUnavailableError
from perdure.server import live
from perdure.server.principal import Principal, Role
from tests.server.conftest import Serve, Served, memory


@pytest.fixture
def worker():
    app = Perdure(memory())

    @app.workflow
    async def order(number: int) -> int:
        answer = await flow.wait_for_event("answer", type="go", timeout="1 hour")
        return number + answer

    return app


class Stream:
    """What a watcher reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    @classmethod
    async def open(cls, served: Served, path: str, headers: str = "") -> Stream:
        url = served.http.base_url
        stream = cls(*await asyncio.open_connection(url.host, url.port))
        stream.writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        stream.head = await stream.reader.readuntil(b"\r\n\r\n")
        return stream

    async def event(self) -> tuple[str, str, dict]:
        """The next event: its id, its kind and its data; comments are passed over."""
        async with asyncio.timeout(4):
            while True:
                part = await self.part()
                fields = dict(line.split(": ", 1) for line in part.decode().splitlines() if ": " in line)
                if "data" in fields:
                    return fields["id"], fields["event"], json.loads(fields["data"])

    async def part(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        if size == 0:
            raise EOFError
        return (await self.reader.readexactly(size + 2))[:-2]

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(live, "REST", 0.01)


async def test_a_run_is_watched_to_its_end(serving: Serve, worker):
    served = await serving(worker)
    await worker.start("order", input={"number": 1}, id="a/b")
    stream = await Stream.open(served, "/api/v1/runs/a%2Fb/watch")
    assert b"text/event-stream" in stream.head
    assert b"no-store" in stream.head
    _, kind, run = await stream.event()
    assert (kind, run["id"]) == ("run", "a/b")
    while run["status"] != "waiting":
        _, _, run = await stream.event()
    await served.http.post("/api/v1/runs/a%2Fb/events", json={"type": "go", "payload": 2})
    while run["status"] != "complete":
        _, _, run = await stream.event()
    assert "output" not in run
    assert (await served.http.get("/api/v1/runs/a%2Fb/result")).json()["output"] == 3
    await stream.close()


async def test_a_namespace_is_watched(serving: Serve, worker):
    served = await serving(worker)
    stream = await Stream.open(served, "/api/v1/watch")
    _, kind, first = await stream.event()
    assert (kind, first["latest"], first["status"]) == ("namespace", [], {})
    await served.http.post("/api/v1/runs", json={"workflow": "order", "input": {"number": 1}, "id": "a"})
    seen = first
    while seen["status"] != {"waiting": 1}:
        _, _, seen = await stream.event()
    assert seen["latest"][0]["id"] == "a"
    await stream.close()


async def test_who_comes_back_is_not_told_again_what_was_heard(serving: Serve, worker):
    served = await serving(worker)
    await worker.start("order", input={"number": 1}, id="a")
    stream = await Stream.open(served, "/api/v1/runs/a/watch")
    number, _, run = await stream.event()
    while run["status"] != "waiting":
        number, _, run = await stream.event()
    await stream.close()
    again = await Stream.open(served, "/api/v1/runs/a/watch", f"Last-Event-ID: {number}\r\n")
    await worker.run("a").pause()
    _, _, run = await again.event()
    assert run["status"] == "paused"
    await again.close()


async def test_a_run_that_is_not_there_cannot_be_watched(serving: Serve, worker):
    served = await serving(worker)
    assert (await served.http.get("/api/v1/runs/none/watch")).status_code == 404


async def test_a_silent_stream_says_that_it_is_there(serving: Serve, worker, monkeypatch):
    monkeypatch.setattr(live, "HEARTBEAT", 0.05)
    monkeypatch.setattr(live, "RECHECK", 0.02)
    served = await serving(worker)
    stream = await Stream.open(served, "/api/v1/watch")
    await stream.event()
    while await stream.part() != b":\n\n":
        pass
    await stream.close()


async def test_who_may_not_watch_any_longer_is_let_go(serving: Serve, worker, monkeypatch):
    monkeypatch.setattr(live, "RECHECK", 0.02)
    served = await serving(worker)

    admitted = [Principal("ada", Role.VIEWER, "key", ("default",))]

    async def authenticate(scope: object) -> Principal | None:
        return admitted[0] if admitted else None

    monkeypatch.setattr(served.server.authenticator, "authenticate", authenticate)
    stream = await Stream.open(served, "/api/v1/watch")
    await stream.event()
    admitted.clear()
    with pytest.raises(EOFError):
        while True:
            await stream.part()
    await stream.close()


async def test_where_nobody_can_say_who_may_watch_a_stream_ends_in_order(serving: Serve, worker, monkeypatch, caplog):
    monkeypatch.setattr(live, "RECHECK", 0.02)
    served = await serving(worker)
    stream = await Stream.open(served, "/api/v1/watch")
    await stream.event()

    async def authenticate(scope: object) -> Principal | None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(served.server.authenticator, "authenticate", authenticate)
    with pytest.raises(EOFError):
        while True:
            await stream.part()
    await stream.close()
    assert caplog.text == ""


async def test_one_look_out_serves_streams_and_clients(serve: Serve, worker, monkeypatch):
    served = await serve(worker)
    store, waiting = served.app.store, [0, 0]
    real = store.wait

    async def wait(timeout: float) -> bool:
        waiting[0] += 1
        waiting[1] = max(waiting)
        try:
            return await real(timeout)
        finally:
            waiting[0] -= 1

    monkeypatch.setattr(store, "wait", wait)
    told = asyncio.create_task(served.server.hearing("default").wait("", 5))
    with served.server.live("default").watch() as place:
        assert await place.next(5) is not None
        await told
        await worker.start("order", input={"number": 1}, id="a")
        while b'"waiting":1' not in ((await place.next(5)) or live.Event("", b"")).text:
            pass
    assert waiting[1] == 1


async def test_who_comes_as_the_server_stops_is_let_go(serve: Serve, worker):
    served = await serve(worker)
    late = served.server.live("default").watch()
    await served.server.stop()
    with late:
        assert late.is_over


@pytest.mark.parametrize("what", ["result", "wait"])
async def test_nobody_is_waited_for_who_has_gone(serving: Serve, what):
    served = await serving()
    assert (await served.http.post("/api/v1/runs", json={"workflow": "order", "id": "a"})).status_code == 201
    wait = {"timeout": 20, "last": ""}
    wait["last"] = (await served.http.post("/api/v1/store/wait", json=wait)).json()["last"]
    body = json.dumps(wait)
    request = "GET /api/v1/runs/a/result?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    if what == "wait":
        head = "POST /api/v1/store/wait HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
    url = served.http.base_url
    writers = [(await asyncio.open_connection(url.host, url.port))[1] for _ in range(5)]
    for writer in writers:
        writer.write(request.encode())
    async with asyncio.timeout(5):
        while asked(what) < 5:
            await asyncio.sleep(0.005)
        for writer in writers:
            writer.close()
        while asked(what):
            await asyncio.sleep(0.005)


def asked(what: str) -> int:
    """How many requests wait for something."""
    name = {"result": "wait_for_end", "wait": "Hearing.wait"}[what]
    return sum(name in str(task.get_coro()) for task in asyncio.all_tasks())


async def test_streams_end_when_the_server_does(serving: Serve, worker):
    served = await serving(worker)
    stream = await Stream.open(served, "/api/v1/watch")
    await stream.event()
    await served.server.stop()
    with pytest.raises(EOFError):
        while True:
            await stream.part()
    assert (await served.http.get("/api/v1/watch")).status_code == 503
    await stream.close()


async def test_only_so_many_may_watch(serving: Serve, worker):
    served = await serving(worker, watchers=1)
    stream = await Stream.open(served, "/api/v1/watch")
    await stream.event()
    refused = await served.http.get("/api/v1/watch")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:perdure:error:too-many-watchers")
    await stream.close()


@pytest.mark.slow
async def test_a_thousand_watchers_and_one_that_does_not_read(serving: Serve, worker, monkeypatch):
    monkeypatch.setattr(live, "TAKEN_WITHIN", 1.0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8_192), most))
    served = await serving(worker)
    streams = [await Stream.open(served, "/api/v1/watch") for _ in range(1_000)]
    stuck = await Stream.open(served, "/api/v1/watch")
    stuck.writer.transport.pause_reading()
    for stream in streams:
        await stream.event()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(20):
        body = {"workflow": "order", "input": {"number": number}, "id": f"run-{number}"}
        assert (await served.http.post("/api/v1/runs", json=body)).status_code == 201

    async def until_last(stream: Stream) -> None:
        seen: dict = {}
        while seen.get("status") != {"waiting": 20}:
            _, _, seen = await stream.event()

    async with asyncio.timeout(20):
        await asyncio.gather(*map(until_last, streams))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    for stream in [*streams, stuck]:
        await stream.close()
