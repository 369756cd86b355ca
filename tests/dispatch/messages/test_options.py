"""What headers say of a message: every one of QStash's, in each of its spellings, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure import UsageError
from perdure.dispatch.messages import options
from perdure.dispatch.messages.message import Callback, FlowControl, Message
from perdure.dispatch.messages.options import Options, destination, duration, flow_control, read, with_body

NOW = 1_700_000_000_000


def of(**headers: str) -> Options:
    """Read headers that are written as names in Python."""
    return read([(name.replace("_", "-"), value) for name, value in headers.items()])


def test_nothing_said():
    assert of() == Options(Message(url=""))


def test_everything_said():
    found = read(
        [
            ("Content-Type", "text/plain"),
            ("Upstash-Method", "put"),
            ("Upstash-Forward-X-A", " 1 "),
            ("upstash-forward-x-b", "2"),
            ("Upstash-Forward-Content-Type", "text/x"),
            ("Upstash-Retries", "2"),
            ("Upstash-Retry-Delay", "pow(2, retried)"),
            ("Upstash-Timeout", "90s"),
            ("Upstash-Callback", "https://cb.example"),
            ("Upstash-Callback-Retries", "4"),
            ("Upstash-Callback-Forward-X-Cb", "3"),
            ("Upstash-Failure-Callback", "https://f.example"),
            ("upstash-failure-callback-method", "PUT"),
            ("Upstash-Delay", "10s"),
            ("Upstash-Not-Before", "1700000000"),
            ("Upstash-Deduplication-Id", "d"),
            ("Upstash-Content-Based-Deduplication", "True"),
            ("Upstash-Flow-Control-Key", "k"),
            ("Upstash-Flow-Control-Value", "parallelism=3, rate=5, period=60s"),
            ("Upstash-Label", "a, b,a"),
            ("Upstash-Redact-Fields", "body,header[Authorization]"),
            ("Upstash-Queue-Name", "q"),
            ("Upstash-Workflow-RunId", "wfr"),
            ("Upstash-Feature-Set", "x"),
            ("Upstash-Telemetry-Sdk", "py"),
            ("Upstash-Cron", " * * * * * "),
            ("Upstash-Schedule-Id", "s"),
            ("Accept", "nothing"),
        ]
    )
    assert found == Options(
        Message(
            url="",
            method="PUT",
            headers=[("Content-Type", "text/plain"), ("X-A", "1"), ("x-b", "2")],
            retries=2,
            retry_delay="pow(2, retried)",
            timeout=90.0,
            callback=Callback("https://cb.example", [("Upstash-Retries", "4"), ("Upstash-Forward-X-Cb", "3")]),
            failure_callback=Callback("https://f.example", [("Upstash-method", "PUT")]),
            labels=("a", "b"),
            flow_control=FlowControl("k", 3, 5, 60),
            queue="q",
            redacted=("body", "header[Authorization]"),
            extra=[("Upstash-Workflow-RunId", "wfr"), ("Upstash-Feature-Set", "x")],
        ),
        delay=10.0,
        not_before=1_700_000_000,
        deduplication_id="d",
        is_deduplicated_by_content=True,
        cron="* * * * *",
        schedule_id="s",
    )


def test_when_it_is_due():
    assert of().due_at(NOW) == NOW
    assert of(Upstash_Delay="1.5m").due_at(NOW) == NOW + 90_000
    assert of(Upstash_Delay="1m", Upstash_Not_Before="1700000009").due_at(NOW) == NOW + 9_000
    assert of(Upstash_Not_Before="5").due_at(NOW) == NOW


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Connection",
        "Keep-Alive",
        "Transfer-Encoding",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Accept-Encoding",
        "Content-Encoding",
        "Proxy-Authorization",
        "proxy-x",
    ],
)
def test_what_belongs_to_one_connection_is_not_forwarded(name):
    assert of(**{f"Upstash_Forward_{name}": "1"}).message.headers == []


def test_a_later_spelling_of_a_forwarded_header_wins():
    found = read([("Upstash-Forward-x-global", "1"), ("upstash-forward-X-Global", "2")])
    assert found.message.headers == [("X-Global", "2")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("1d10h30m", 124_200), ("3d5h12m", 277_920), ("50", 50), (" 5M ", 300), ("1.5h", 5_400), ("0", 0)],
)
def test_durations(text, seconds):
    assert duration(text, "it", 1e9) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1w", "1 d", "1e3", "10ms", "٣s", "٣", "1s ,", "9" * 16, "1.s", "nan", "inf"]
)
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="it: .* is no duration"):
        duration(text, "it", 1e9)


def test_a_duration_beyond_its_bound():
    with pytest.raises(UsageError, match="Upstash-Delay: .* is longer than"):
        of(Upstash_Delay="3651d")
    with pytest.raises(UsageError, match="Upstash-Timeout"):
        of(Upstash_Timeout="121m")
    assert of(Upstash_Timeout="30").message.timeout == 30
    assert of(Upstash_Timeout="0").message.timeout is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("parallelism=3, rate=5, period=1m", FlowControl("k", 3, 5, 60)),
        ("Rate=10", FlowControl("k", 0, 10, 1)),
        ("period=60 ,rate=1", FlowControl("k", 0, 1, 60)),
        ("parallelism=2,rate=0", FlowControl("k", 2)),
        ("rate = 2, period = 7d", FlowControl("k", 0, 2, 604_800)),
        ("rate=2,period=0", FlowControl("k", 0, 2, 1)),
    ],
)
def test_flow_control(value, found):
    assert flow_control("k", value) == found


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("", "rate=1", "no Upstash-Flow-Control-Key"),
        ("k", "", "at least 1"),
        ("k", None, "at least 1"),
        ("k", "parallelism=0", "at least 1"),
        ("k", "period=1m", "at least 1"),
        ("k", "rate=x", "whole number"),
        ("k", "rate=-1", "whole number"),
        ("k", "rate=1.5", "whole number"),
        ("k", "rate=1000001", "over 1,000,000"),
        ("k", "speed=1", "unknown"),
        ("k", "rate=1,period=8d", "longer"),
        ("k", "rate=1,period=x", "no duration"),
        ("a/b", "rate=1", "A-Z"),
        ("k" * 151, "rate=1", "1 to 150"),
    ],
)
def test_flow_control_that_is_refused(key, value, told):
    with pytest.raises(UsageError, match=rf"Upstash-Flow-Control-(Key|Value).*{told}"):
        flow_control(key, value)


def test_no_flow_control():
    assert flow_control(None, None) is flow_control("", "") is None


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("Upstash-Method", "TRACE", "one of GET"),
        ("Upstash-Retries", "-1", "whole number"),
        ("Upstash-Retries", "٣", "whole number"),
        ("Upstash-Retries", "101", "quota maxRetries exceeded"),
        ("Upstash-Retry-Delay", "retries", "retry delay"),
        ("Upstash-Not-Before", "tomorrow", "whole number"),
        ("Upstash-Delay", "soon", "no duration"),
        ("Upstash-Timeout", "x", "no duration"),
        ("Upstash-Deduplication-Id", "a:b", "DeduplicationId cannot contain ':'"),
        ("Upstash-Deduplication-Id", "a" * 501, "500"),
        ("Upstash-Deduplication-Id", "a\x01", "printable"),
        ("Upstash-Label", "a b", "Upstash-Label"),
        ("Upstash-Label", ",".join(map(str, range(21))), "over 20"),
        ("Upstash-Callback", "ftp://x", "Upstash-Callback: invalid destination url"),
        ("Upstash-Failure-Callback", "http://", "Upstash-Failure-Callback: invalid destination url"),
        ("Upstash-Queue-Name", "a/b", "Upstash-Queue-Name"),
        ("Upstash-Schedule-Id", "a b", "Upstash-Schedule-Id"),
        ("Upstash-Redact-Fields", "everything", "Upstash-Redact-Fields"),
        ("Upstash-Forward-X", "a\r\nEvil: 1", "X: .*line break"),
        ("Upstash-Forward-X", "a\0", "control"),
        ("Upstash-Forward-X Y", "a", "no name"),
        ("Upstash-Forward-", "a", "no name"),
        ("Content-Type", "a\nb", "Content-Type"),
        ("Upstash-Workflow-X", "a\nb", "line break"),
        ("Upstash-Workflow-X\n", "a", "no name"),
    ],
)
def test_what_is_refused(name, value, told):
    with pytest.raises(UsageError, match=told):
        read([(name, value)])


def test_what_callbacks_say_is_looked_at_too():
    with pytest.raises(UsageError, match="Upstash-Callback: Upstash-Retries"):
        of(Upstash_Callback="http://a", Upstash_Callback_Retries="x")
    with pytest.raises(UsageError, match="Upstash-Callback: Upstash-Failure-Callback: Upstash-Delay"):
        of(
            Upstash_Callback="http://a",
            Upstash_Callback_Failure_Callback="http://b",
            Upstash_Callback_Failure_Callback_Delay="x",
        )
    assert of(Upstash_Callback_Retries="x").message.callback is None


def test_callbacks_do_not_stand_too_deep():
    def deep(levels: int) -> Options:
        return read([("Upstash" + "-Callback" * level, "http://a") for level in range(1, levels + 1)])

    assert deep(options.CALLBACKS).message.callback is not None
    with pytest.raises(UsageError, match="deep"):
        deep(options.CALLBACKS + 1)
    with pytest.raises(UsageError, match="deep"):
        deep(60)


def test_there_are_not_too_many_headers():
    with pytest.raises(UsageError, match="101 headers, over 100"):
        read([(f"Upstash-Forward-{number}", "") for number in range(101)])
    with pytest.raises(UsageError, match="HEADERS_LENGTH"):
        of(Upstash_Forward_X="a" * options.HEADERS_LENGTH)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a?b=c",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "HTTP://x",
        "http://a_b.c/%20",
        "http://x//y#z",
    ],
)
def test_destinations(url):
    assert destination(url).hostname


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "//x",
        "ftp://x",
        "gopher://x",
        "http://",
        "http:///x",
        "http://:80/",
        "http://x:0/",
        "http://x:65536/",
        "http://x:y/",
        "http://[::1",
        "http://a@b/",
        "http://a:b@c/",
        "http://x y/",
        "http://x\n",
        "http://ä/",
        "javascript:1",
        "http://" + "x" * 4_096,
    ],
)
def test_what_is_no_destination(url):
    with pytest.raises(UsageError, match="invalid destination url"):
        destination(url)


def test_bodies():
    assert with_body(Message("u"), b"") == Message("u")
    assert with_body(Message("u"), "ä".encode()) == Message("u", body="ä")
    assert with_body(Message("u"), b"\xff") == Message("u", body_base64="/w==")
    for body in (b"", "ä".encode(), b"\xff\0"):
        assert with_body(Message("u"), body).content == body


def test_fingerprints():
    plain = of(Upstash_Forward_A="1", Upstash_Forward_B="2")
    message = replace(plain.message, url="http://x", body="b")
    same = replace(message, headers=message.headers[::-1], retries=9)
    assert plain.fingerprint(message) == plain.fingerprint(same)
    for other in ({"url": "http://y"}, {"body": "c"}, {"headers": []}, {"group": "g"}, {"body": None}):
        assert plain.fingerprint(message) != plain.fingerprint(replace(message, **other))


_NAMES = st.sampled_from(
    [
        "Upstash-Delay",
        "Upstash-Timeout",
        "Upstash-Retries",
        "Upstash-Label",
        "Upstash-Flow-Control-Key",
        "Upstash-Flow-Control-Value",
        "Upstash-Not-Before",
        "Upstash-Forward-X",
        "Upstash-Callback-Retries",
        "Upstash-Callback",
        "Content-Type",
        "Upstash-Retry-Delay",
        "Upstash-Redact-Fields",
        "Upstash-Deduplication-Id",
        "Upstash-Callback-Callback",
    ]
)


@given(st.lists(st.tuples(_NAMES, st.text(max_size=30))))
def test_whatever_is_said_is_taken_or_refused(headers):
    try:
        read(headers)
    except UsageError:
        pass
