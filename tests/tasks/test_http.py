# ruff: noqa: SIM117  # a server around what is expected of it reads better than both in one line
"""`http.request` against a real server: what it sends, what it makes of answers, what it tries again and what not."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib

import pytest

from perdure import Perdure, RetryAfterError, RunFailedError, UsageError, testing
from perdure.tasks import (
    HttpAnswer,
    HttpError,
    HttpRequestError,
    HttpStatusError,
    HttpTimeouts,
    http_request_task,
)
from tests.tasks.serving import Asked, Reply, in_turn, web

JSON = {"Content-Type": "application/json; charset=utf-8"}

request = http_request_task(guard=False)


async def test_a_request_goes_out_as_it_was_given():
    with web(in_turn(Reply(body=b'{"total": 3}', headers=JSON))) as server:
        answer = await request(
            f"{server.url}/orders?a=1", "POST", headers={"X-Key": "k"}, params={"b": "2 3"}, json={"id": 7}
        )
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["X-Key"]) == ("POST", "/orders?a=1&b=2+3", "k")
    assert json.loads(asked.body) == {"id": 7}
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Host"] == f"127.0.0.1:{server.port}"
    assert (answer.status, answer.json, answer.text, answer.base64) == (200, {"total": 3}, None, None)
    assert answer.headers["content-type"] == JSON["Content-Type"]


async def test_params_are_added_to_the_query_of_the_url():
    with web(in_turn(Reply())) as server:
        await request(f"{server.url}/?a=1", params={"b": 2, "c": True})
    assert server.paths == ["/?a=1&b=2&c=true"]


async def test_a_body_is_sent_as_it_is():
    with web(in_turn(Reply(204))) as server:
        answer = await request(server.url, "PUT", body="zwölf", headers={"content-type": "text/plain"})
    assert server.asked[0].body == "zwölf".encode()
    assert server.asked[0].headers["Content-Type"] == "text/plain"
    assert (answer.status, answer.text) == (204, "")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body="grün".encode(), headers={"Content-Type": "text/plain"}), {"text": "grün"}),
        (
            Reply(body="grün".encode("latin-1"), headers={"Content-Type": "text/plain; charset=latin-1"}),
            {"text": "grün"},
        ),
        (Reply(body=b"x", headers={"Content-Type": "text/plain; charset=klingon"}), {"base64": "eA=="}),
        (Reply(body=b"\x89PNG\xff", headers={"Content-Type": "image/png"}), {"base64": "iVBOR/8="}),
        (Reply(body=b"[1]", headers={"Content-Type": "application/problem+json"}), {"json": [1]}),
        (Reply(body=b"null", headers=JSON), {"json": None}),
        (Reply(body=b"", headers=JSON), {"text": ""}),
    ],
)
async def test_an_answer_is_json_or_text_or_bytes(reply, said):
    with web(in_turn(reply)) as server:
        answer = await request(server.url)
    assert {"json": answer.json, "text": answer.text, "base64": answer.base64} == {
        "json": None,
        "text": None,
        "base64": None,
        **said,
    }


async def test_json_that_is_none_is_not_taken_for_text():
    with web(in_turn(Reply(body=b'{"a":', headers=JSON))) as server:
        with pytest.raises(HttpRequestError, match="the answer is no JSON"):
            await request(server.url)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_packed_answer_is_unpacked(pack):
    encoding = "gzip" if pack is gzip.compress else "deflate"
    with web(in_turn(Reply(body=pack(b"hello" * 100), headers={"Content-Encoding": encoding}))) as server:
        assert (await request(server.url)).text == "hello" * 100
    assert server.asked[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("cut", [1, 8, 30])
async def test_a_packed_answer_that_is_cut_short_is_not_taken_for_a_whole_one(cut):
    body = gzip.compress(b"line one\n" * 100)[:-cut]
    with web(in_turn(Reply(body=body, headers={"Content-Encoding": "gzip"}))) as server:
        with pytest.raises(HttpError, match="the answer is cut short"):
            await request(server.url)


async def test_a_charset_that_takes_long_over_a_text_is_not_used():
    slow = b"9" * 250_000 + b"-" + b"a" * 240_000
    for charset in ("punycode", "PunyCode", "idna", "utf-7", "unicode_escape"):
        reply = Reply(body=slow, headers={"Content-Type": f"text/plain; charset={charset}"})
        with web(in_turn(reply)) as server:
            began = time.monotonic()
            assert (await request(server.url)).base64 is not None
        assert time.monotonic() - began < 1


async def test_an_answer_that_is_too_long_is_refused_and_not_read_to_its_end():
    small = http_request_task(guard=False, max_bytes=1_000)
    with web(in_turn(Reply(body=b"x" * 1_000))) as server:
        assert len((await small(server.url)).text) == 1_000
    with web(in_turn(Reply(body=b"x" * 100_000, parts=10_000))) as server:
        with pytest.raises(HttpRequestError, match="more than 1,000 bytes; ask for less, or make the task with"):
            await small(server.url)


async def test_a_small_answer_that_unpacks_to_a_long_one_is_refused_before_it_is_there():
    bomb = gzip.compress(b"\0" * 100_000_000)
    with web(in_turn(Reply(body=bomb, headers={"Content-Encoding": "gzip"}))) as server:
        tracemalloc.start()
        try:
            with pytest.raises(HttpRequestError, match="more than 500,000 bytes"):
                await request(server.url)
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


async def test_an_encoding_that_was_not_asked_for_is_refused():
    with web(in_turn(Reply(body=b"?", headers={"Content-Encoding": "br"}))) as server:
        with pytest.raises(HttpRequestError, match="in the encoding 'br', not in gzip"):
            await request(server.url)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 451])
async def test_a_refusal_is_final_and_says_what_the_server_said(status):
    with web(in_turn(Reply(status, b'{"error": "no such customer"}', JSON))) as server:
        with pytest.raises(HttpStatusError) as caught:
            await request(f"{server.url}/customers/7?token=secret")
    assert str(caught.value) == (f'GET {server.url}/customers/7 answered {status}: {{"error":"no such customer"}}'), (
        "without the query, which may hold a secret"
    )


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_what_may_pass_is_worth_another_attempt(status):
    with web(in_turn(Reply(status))) as server:
        with pytest.raises(HttpError, match=f"answered {status}"):
            await request(server.url)


async def test_which_statuses_are_tried_again_and_which_are_answers_can_be_said():
    with web(in_turn(Reply(404), Reply(500), Reply(404))) as server:
        assert (await request(server.url, accept=[404])).status == 404
        with pytest.raises(HttpStatusError):
            await request(server.url, retry_on=[404])
        with pytest.raises(HttpError):
            await request(server.url, retry_on=[404])
    with web(in_turn(Reply(202), Reply(200))) as server:
        with pytest.raises(HttpError, match="answered 202"):
            await request(server.url, retry_on=[202])
        assert (await request(server.url, retry_on=[202])).status == 200


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "999999"}, 3_600),
        ({"Date": "Fri, 20 Nov 2026 10:00:00 GMT", "Retry-After": "Fri, 20 Nov 2026 10:01:30 GMT"}, 90),
        ({"Date": "Fri, 20 Nov 2026 10:00:00 GMT", "Retry-After": "Fri, 20 Nov 2026 09:00:00 GMT"}, 0),
    ],
)
async def test_a_server_may_say_when_to_come_again(headers, after):
    with web(in_turn(Reply(429, headers=headers))) as server:
        with pytest.raises(RetryAfterError) as caught:
            await request(server.url)
    assert caught.value.after == after


@pytest.mark.parametrize("text", ["soon", "-3", "1.5", ""])
async def test_a_wish_that_nobody_can_read_is_none(text):
    with web(in_turn(Reply(503, headers={"Retry-After": text}))) as server:
        with pytest.raises(HttpError):
            await request(server.url)


async def test_an_answer_that_does_not_come_in_time_is_given_up():
    with web(in_turn(Reply(body=b"x", hangs=True))) as server:
        with pytest.raises(HttpError, match=r"no whole answer within 0\.05 s"):
            await request(server.url, timeout="50ms")
        with pytest.raises(HttpError, match="ReadTimeout"):
            await request(server.url, timeout=HttpTimeouts(read=0.05))


@pytest.mark.parametrize(
    "timeout", ["soon", -1, 0, HttpTimeouts(read=-1), HttpTimeouts(connect=0), "2 hours", HttpTimeouts(total=3_601)]
)
async def test_a_timeout_out_of_its_range_is_refused(timeout):
    with pytest.raises((UsageError, HttpRequestError), match="^timeout"):
        await request("http://127.0.0.1:1", timeout=timeout)


async def test_a_server_that_is_not_there_is_an_error_worth_another_attempt():
    with web(in_turn(Reply())) as server:
        gone = server.url
    with pytest.raises(HttpError, match=f"GET {gone}/x: "):
        await request(f"{gone}/x")
    with pytest.raises(HttpError, match=r"GET http://nowhere\.invalid/: "):
        await request("http://nowhere.invalid/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://example.org/"}, "must begin with http:// or https://"),
        ({"url": "file:/etc/passwd"}, "must begin with http:// or https://"),
        ({"url": "orders"}, "must begin with http:// or https://"),
        ({"url": "http://"}, "http://"),
        ({"url": "http://user:secret@127.0.0.1/"}, "url: http://127.0.0.1/ holds a user or a password"),
        ({"url": "http://[::1"}, r"GET http://\[::1: "),
        ({"url": "http://127.0.0.1:99999/"}, "url: http://127.0.0.1:99999/ has a port that is none"),
        ({"url": "http://127.0.0.1:0/"}, "url: http://127.0.0.1:0/ has a port that is none"),
        ({"url": "http://xn--/"}, "GET http://xn--/: "),
        ({"url": "http://127.0.0.1:1", "headers": {"X-Größe": "1"}}, "headers: 'x-größe' has a name or a value that"),
        (
            {"url": "http://127.0.0.1:1", "headers": {"X-Size": "größer"}},
            "headers: 'x-size' has a name or a value that",
        ),
        ({"url": "http://127.0.0.1:1", "headers": {"": "1"}}, "headers: '' has a name or a value that"),
        ({"url": "http://127.0.0.1:1", "headers": {"Host": "other"}}, "headers: host cannot be given"),
        ({"url": "http://127.0.0.1:1", "headers": {"Content-Length": "1"}}, "headers: content-length cannot be given"),
        ({"url": "http://127.0.0.1:1", "json": 1, "body": "2"}, "json, body: a request has one body"),
    ],
)
async def test_a_request_that_cannot_be_made_says_why(options, message):
    with pytest.raises(HttpRequestError, match=message) as caught:
        await request(**options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\0b"])
async def test_a_header_cannot_become_two(value):
    with web(in_turn(Reply())) as server:
        with pytest.raises(HttpRequestError):
            await request(server.url, headers={"X-Key": value})
        assert server.asked == []


async def test_redirects_are_followed_and_counted():
    def answers(asked: Asked) -> Reply:
        number = int(asked.path.rpartition("/")[2])
        return Reply(302, headers={"Location": f"/{number - 1}"}) if number else Reply(body=b"there")

    with web(answers) as server:
        answer = await request(f"{server.url}/5")
        assert (answer.text, answer.url) == ("there", f"{server.url}/0")
        with pytest.raises(HttpRequestError, match="more than 5 redirects"):
            await request(f"{server.url}/6")
        with pytest.raises(HttpRequestError, match="more than 0 redirects"):
            await http_request_task(guard=False, max_redirects=0)(f"{server.url}/1")


async def test_the_body_of_a_redirect_is_not_read():
    def answers(asked: Asked) -> Reply:
        if asked.path == "/there":
            return Reply(body=b"there")
        return Reply(302, b"x" * 100_000, {"Location": "/there", "Content-Encoding": "gzip"}, parts=1_000_000)

    with web(answers) as server:
        assert (await request(server.url, timeout=5)).text == "there"


@pytest.mark.parametrize(("status", "method", "body"), [(303, "GET", b""), (302, "GET", b""), (307, "POST", b"x")])
async def test_a_redirect_says_whether_the_body_goes_on(status, method, body):
    with web(in_turn(Reply(status, headers={"Location": "/in"}), Reply())) as server:
        await request(server.url, "POST", body="x")
    assert (server.asked[1].method, server.asked[1].path, server.asked[1].body) == (method, "/in", body)


async def test_what_the_caller_gave_goes_to_nobody_else():
    with web(in_turn(Reply())) as other:
        with web(in_turn(Reply(307, headers={"Location": f"{other.url}/in"}))) as server:
            await request(
                server.url, headers={"Authorization": "Bearer t", "X-Api-Key": "k", "Accept": "a/b", "Cookie": "c=1"}
            )
    (asked,) = other.asked
    assert [asked.headers[name] for name in ("Authorization", "X-Api-Key", "Cookie")] == [None, None, None]
    assert asked.headers["Accept"] == "a/b"


async def test_a_redirect_to_another_scheme_is_refused():
    with web(in_turn(Reply(302, headers={"Location": "file:/etc/passwd"}))) as server:
        with pytest.raises(HttpRequestError, match="must begin with http:// or https://|Unsupported"):
            await request(server.url)


async def test_a_task_for_one_server_takes_paths_and_carries_what_no_journal_shows():
    with web(in_turn(Reply())) as other:
        with web(in_turn(Reply(), Reply(), Reply(307, headers={"Location": other.url}))) as server:
            task = http_request_task(base_url=f"{server.url}/api/", headers={"Authorization": "Bearer t", "X-A": "1"})
            await task("/orders?a=1", headers={"X-A": "2"}, params={"b": 2})
            await task("//other.example/@third.example")
            for path in ("orders", other.url, "", "@other.example/"):
                with pytest.raises(HttpRequestError, match="must be a path, such as /orders"):
                    await task(path)
            for path in ("/..", "/a/../../admin", "/%2e%2E/admin", "/..%2fadmin", "/a/..\\admin"):
                with pytest.raises(HttpRequestError, match=r"leads upwards \(\.\.\), out of the path"):
                    await task(path)
            await task("/away")
    assert server.paths == ["/api/orders?a=1&b=2", "/api//other.example/@third.example", "/api/away"]
    assert [server.asked[0].headers[name] for name in ("Authorization", "X-A")] == ["Bearer t", "2"]
    assert [other.asked[0].headers[name] for name in ("Authorization", "X-A")] == [None, None]


async def test_no_proxy_of_the_environment_stands_between(monkeypatch):
    with web(in_turn(Reply(body=b"proxy"))) as proxy, web(in_turn(Reply(body=b"server"))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (await request(server.url)).text == "server"
        assert proxy.asked == []


# In an engine.


async def test_a_task_that_fails_twice_is_tried_again_under_one_key():
    app = Perdure("memory://")
    app.add(request)
    with web(
        in_turn(Reply(503), Reply(429, headers={"Retry-After": "60"}), Reply(body=b"[7]", headers=JSON))
    ) as server:
        async with testing.engine(app) as engine:
            began = engine.now
            run = await app.start(request, input={"url": server.url, "method": "POST", "json": {}})
            answer = await engine.result(run)
            took = (engine.now - began).total_seconds()
    assert isinstance(answer, HttpAnswer)
    assert answer.json == [7]
    keys = [asked.headers["Idempotency-Key"] for asked in server.asked]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert run.id in keys[0]
    assert took >= 60.9, "a backoff of a second, and the wait that the server asked for"


async def test_a_refusal_ends_the_run_at_once():
    app = Perdure("memory://")
    app.add(request)
    with web(in_turn(Reply(404, b"no such thing"))) as server:
        async with testing.engine(app) as engine:
            run = await app.start(request, server.url)
            with pytest.raises(RunFailedError) as caught:
                await engine.result(run)
    assert len(server.asked) == 1
    assert isinstance(caught.value.__cause__, HttpStatusError)
    assert "Idempotency-Key" not in server.asked[0].headers, "asking changes nothing"


async def test_a_key_of_the_callers_own_is_kept_and_any_run_id_fits_a_header():
    app = Perdure("memory://")
    app.add(request)
    with web(in_turn(Reply())) as server:
        async with testing.engine(app) as engine:
            own = {"url": server.url, "method": "DELETE", "headers": {"Idempotency-Key": "mine"}}
            await engine.result(await app.start(request, input=own))
            await engine.result(await app.start(request, server.url, "PATCH", id="größe 1"))
    keys = [asked.headers["Idempotency-Key"] for asked in server.asked]
    assert keys[0] == "mine"
    assert keys[1].startswith("gr%C3%B6%C3%9Fe%201:")


def test_the_input_is_described_for_whoever_writes_definitions():
    schema = json.dumps(request.parameters.schema())
    for name in ("url", "method", "headers", "params", "json", "body", "timeout", "retry_on", "accept"):
        assert f'"{name}"' in schema


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_redirects": -1}, "max_redirects=-1"),
        ({"guard": False, "allow": ["localhost"]}, "allow=.* is what a guard lets pass"),
        ({"headers": {"X-A": "b"}}, "headers: say by base_url which server they are for"),
        ({"base_url": "orders.example"}, "base_url: .* must be http"),
        ({"base_url": "http://u:secret@orders.example"}, "base_url: http://orders.example must be http"),
        ({"base_url": "http://orders.example/?a=1"}, "base_url: .* must be http"),
        ({"allow": "localhost"}, "allow: 'localhost' is one text"),
        ({"allow": ["http://localhost/"]}, "allow: 'http://localhost/' is no address"),
        ({"allow": ["10.0.0.1/8"]}, "allow: '10.0.0.1/8' is no address"),
        ({"allow": ["300.1.1.1"]}, "allow: '300.1.1.1' is no address"),
        ({"allow": ["*.*.example.org"]}, r"allow: '\*\.\*"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(options, message):
    with pytest.raises(UsageError, match=message):
        http_request_task(**options)
