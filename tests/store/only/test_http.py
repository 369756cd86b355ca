"""How a client gets along with servers that are not there, that are something else, or that fail for a while."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from perdure.model import errors
from perdure.model.decision import Action, Control, RunFilter, RunPage, StoreInfo
from perdure.model.document import Document
from perdure.model.errors import (
    PerdureError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.server.errors import problem_of
from perdure.store import namespaced, open_store
from perdure.store.http.errors import RefusedError, RequestTooLargeError, translated
from perdure.store.operations import Records
from tests.tasks.serving import CERTIFICATE, server_context

INFO = StoreInfo("", "memory", 1, "D0 memory", "Nothing.", {})


class Script:
    """A server that answers with what it is told to, one thing after the other; then with the last of them.

    An answer is a document, a status with a document, bytes to be sent as they are, or None: it hangs up.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []
        self.heads: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line[16:]) for line in head.lower().split("\r\n") if line.startswith("content-length")
                )
                body = msgspec.json.decode(await reader.readexactly(length))
                self.heads.append(head)
                self.asked.append((head.split()[1].rpartition("/")[2], body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if callable(answer):
                    answer = await answer(body) if inspect.iscoroutinefunction(answer) else answer(body)
                if answer is None:
                    return
                writer.write(answer if isinstance(answer, bytes) else response(answer))
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def response(answer: Any) -> bytes:
    status, document = answer if isinstance(answer, tuple) else (200, answer)
    body = msgspec.json.encode(document)
    more = "Retry-After: 0\r\n" if status == 429 else ""
    return f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@asynccontextmanager
async def scripted(*answers: Any, tls: Any = None, **options: Any) -> AsyncIterator[tuple[Script, Any]]:
    """A scripted server, and an open store that asks it."""
    script = Script(*answers)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    script.url = f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
    store = open_store(script.url, **options)
    script.answers.insert(0, INFO)
    try:
        await store.open()
        script.asked.clear()
        yield script, store
    finally:
        await store.close()
        server.close()
        await server.wait_closed()


def problem(status: int, name: str, detail: str = "it is so") -> tuple[int, Any]:
    return status, {"type": f"urn:perdure:error:{name}", "title": "t", "status": status, "detail": detail, "errors": []}


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("http://", {}, "names no server"),
        ("http://h:0", {}, "names no server"),
        ("http://h:x", {}, "no whole number for its port"),
        ("http://ada:secret@h", {}, "takes no password"),
        ("http://h", {"key": "x"}, "http has no option key"),
        ("http://h?wait=1", {}, "http has no option wait"),
        ("http://h", {"api_key": "two words"}, "api_key must be the key"),
        ("http://h", {"api_key": "a\r\nHost: b"}, "api_key must be the key"),
        ("http://h", {"namespace": "A"}, "namespace: 'A' must be"),
        ("http://h?patience=soon", {}, "patience"),
        ("http://h?timeout=0", {}, "timeout='0' must be longer"),
        ("http://h?pool_size=0", {}, "pool_size='0'"),
        ("https://h?ca=nowhere.pem", {}, "ca='nowhere.pem' is no file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(url, options, said):
    with pytest.raises(UsageError, match=said) as caught:
        open_store(url, **options)
    assert "secret" not in str(caught.value)


def test_a_namespace_of_a_server_is_an_option():
    assert namespaced("https://h/x?timeout=5", "acme") == "https://h/x?timeout=5&namespace=acme"


async def test_who_is_not_there_is_not_waited_for():
    store = open_store("http://127.0.0.1:1")
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailableError, match="it cannot be reached"):
            await store.open()


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((404, {"detail": "Not Found"}), StoreCorruptError, "there is no Perdure server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", StoreCorruptError, "nothing that a Perdure server"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"\xff"', StoreCorruptError, "nothing that a Perdure server"),
        ({"url": 7}, StoreCorruptError, "nothing that a Perdure server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", StoreUnavailableError, "did not answer"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", StoreError, "status 302"),
        (problem(401, "not-authenticated"), StoreUnavailableError, "set PERDURE_API_KEY"),
        (problem(403, "not-allowed"), StoreReadOnlyError, "it is so"),
        (problem(404, "no-such-namespace"), StoreUnavailableError, "check the option namespace"),
        (problem(421, "not-this-servers-name"), StoreUnavailableError, "it is so"),
        (problem(500, "internal-error"), StoreError, "it is so"),
        (problem(422, "invalid-request", "now: 7 is not the present"), UsageError, "^now: 7 is not"),
        ((502, "Bad Gateway"), StoreUnavailableError, "status 502"),
    ],
)
async def test_what_is_none_says_so(answer, kind, said):
    async with scripted(answer, patience=0) as (_, store):
        with pytest.raises(kind, match=said) as caught:
            await store.describe()
        assert type(caught.value) is kind


async def test_its_key_and_its_namespace_are_sent_and_not_told():
    async with scripted(INFO, api_key="pdk_1_secret", namespace="acme") as (script, store):
        info = await store.describe()
        assert "authorization: bearer pdk_1_secret\r\n" in script.heads[-1].lower()
        assert "perdure-namespace: acme\r\n" in script.heads[-1].lower()
        assert "secret" not in repr(info)
        assert info.url == script.url


EVERY = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PerdureError)]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_an_error_of_the_server_is_raised_as_what_it_was(kind):
    told = problem_of(kind("it is so"))
    answer = httpx.Response(told.status, content=msgspec.json.encode(told.document()))
    raised = translated(RefusedError(answer), "http://h")
    assert type(raised) is kind
    assert str(raised) == told.document()["detail"]


async def test_what_passes_is_asked_again():
    passing = [(503, "busy"), problem(503, "store-unavailable"), problem(503, "store-conflict"), (429, "often"), None]
    async with scripted(*passing, [None]) as (script, store):
        assert await store.get(["r"]) == [None]
        assert [name for name, _ in script.asked] == ["get"] * 6


async def test_what_does_not_pass_is_not():
    async with scripted(problem(503, "store-read-only")) as (script, store):
        with pytest.raises(StoreReadOnlyError):
            await store.create([])
        assert len(script.asked) == 1


async def test_patience_ends():
    async with scripted((503, "busy"), patience=0.2) as (script, store):
        with pytest.raises(StoreUnavailableError, match="status 503"):
            await store.get(["r"])
        assert 1 < len(script.asked) < 9


@pytest.mark.parametrize("lost", [None, (503, "busy")])
async def test_a_restart_that_may_have_happened_is_not_repeated(lost):
    async with scripted(lost, []) as (script, store):
        with pytest.raises(StoreUnavailableError):
            await store.control([Control("r", Action.RESTART)], 1)
        assert len(script.asked) == 1
    async with scripted(lost, []) as (script, store):
        await store.control([Control("r", Action.PAUSE)], 1)
        assert len(script.asked) == 2
    async with scripted((429, "often"), []) as (script, store):
        await store.control([Control("r", Action.RESTART)], 1)
        assert len(script.asked) == 2


async def test_it_waits_no_longer_than_its_timeout():
    async def never(body: Any) -> None:
        await asyncio.sleep(30)

    async with scripted(never, timeout=0.1, patience=0) as (_, store):
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            await store.get(["r"])


async def test_long_lists_are_cut():
    def echo(body: Any) -> Any:
        return [None] * len(body["run_ids"])

    async with scripted(echo) as (script, store):
        assert await store.get(["r"] * 2_500) == [None] * 2_500
        assert [len(body["run_ids"]) for _, body in script.asked] == [1_000, 1_000, 500]
        script.asked.clear()
        await store.get(["r" * 500_000] * 3)
        assert [len(body["run_ids"]) for _, body in script.asked] == [1, 1, 1]


async def test_what_is_too_much_for_a_server_is_halved():
    def few(body: Any) -> Any:
        items = body["run_ids"]
        return [None] * len(items) if len(items) < 3 else problem(413, "body-too-large")

    async with scripted(few) as (script, store):
        assert await store.get(["r"] * 5) == [None] * 5
        assert [len(body["run_ids"]) for _, body in script.asked] == [5, 2, 3, 1, 2]
    async with scripted(problem(413, "body-too-large")) as (_, store):
        with pytest.raises(RequestTooLargeError, match="it is so; send less"):
            await store.get(["r"])


async def test_pages_are_put_together():
    def journal(body: Any) -> Any:
        first = body["after"] + 1
        records = [Record(first + n, "k", "step", "ok", 1) for n in range(min(body["limit"], 1_200 - first))]
        return Records(records, is_last=len(records) < body["limit"])

    def found(body: Any) -> Any:
        page = [Run("r", "w", RunStatus.QUEUED, 1, 1)] * body["limit"]
        return RunPage(page, "more" if body["cursor"] is None else None)

    def listed(body: Any) -> Any:
        first = int(body["after"] or 0)
        return [Document("c", f"{first + n + 1}", "t", 1) for n in range(min(body["limit"], 250 - first))]

    async with scripted(journal) as (script, store):
        assert [record.position for record in await store.journal("r")] == list(range(1_200))
        assert len(script.asked) == 3
        assert len(await store.journal("r", 99, 600)) == 600
    async with scripted(found) as (_, store):
        page = await store.find(RunFilter(), 1_500)
        assert (len(page.runs), page.cursor) == (1_500, None)
    async with scripted(listed) as (_, store):
        assert len(await store.documents("c", 1_000)) == 250
        assert len(await store.documents("c", 120)) == 120


async def test_documents_behind_one_that_is_refused_are_not_sent():
    async with scripted([True, False]) as (script, store):
        texts = [Document("app.c", str(n), "x" * 260_000) for n in range(8)]
        assert await store.put(texts) == [True, False] + [False] * 6
        assert len(script.asked) == 1
        with pytest.raises(UsageError, match="is there twice"):
            await store.put([texts[0], texts[0]])


async def test_a_hint_comes_once():
    async with scripted({"last": "a.1"}, {"last": "a.1"}, {"last": "a.2"}) as (script, store):
        assert await store.wait(5)
        assert await store.wait(5)
        assert [body["last"] for _, body in script.asked] == ["", "a.1", "a.1"]
        assert not await store.wait(0)


async def test_a_server_that_fails_gives_no_hint():
    async with scripted((503, "busy")) as (_, store):
        assert not await store.wait(0.01)


async def test_closing_lets_what_was_asked_finish_and_nobody_wait():
    gate = asyncio.Event()

    async def slowly(body: Any) -> Any:
        await gate.wait()
        return [None] if "run_ids" in body else {"last": "a.1"}

    async with scripted(slowly) as (script, store):
        asked = asyncio.create_task(store.get(["r"]))
        waiting = asyncio.create_task(store.wait(20))
        while len(script.asked) < 2:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(store.close())
        with pytest.raises(StoreUnavailableError, match="closed meanwhile"):
            await waiting
        gate.set()
        assert await asked == [None]
        await closing
        with pytest.raises(StoreUnavailableError, match="is not open"):
            await store.get(["r"])


async def test_a_server_proves_who_it_is():
    async with scripted(INFO, tls=server_context(), ca=str(CERTIFICATE)) as (script, store):
        assert (await store.describe()).url == script.url
        stranger = open_store(script.url)
        with pytest.raises(StoreUnavailableError, match="no secure connection .*: check the server's certificate"):
            await stranger.open()


REFUSED: list[Callable[[Any], Any]] = [
    lambda store: store.claim(["default"], 1, "w", 1, 2),
    lambda store: store.commit([]),
    lambda store: store.extend([], 1),
    lambda store: store.admit(None, "w", 1, 2),
    lambda store: store.next_due(["default"]),
    lambda store: store.begin(),
    lambda store: store.create_in(None, []),
    lambda store: store.dump(1),
    lambda store: store.load([]),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
async def test_what_workers_do_is_refused(number):
    async with scripted(INFO) as (script, store):
        with pytest.raises(UsageError):
            await REFUSED[number](store)
        assert script.asked == []


async def test_a_key_that_can_be_read_on_its_way_is_warned_of():
    store = open_store("http://shop.example", api_key="k")
    assert store._settings.is_open
    assert not open_store("https://shop.example", api_key="k")._settings.is_open
    assert issubclass(RequestTooLargeError, PerdureError)
