"""What options become, and how those are told of that cannot be."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pytest

from perdure import UsageError
from perdure.dispatch.messages.options import read
from perdure.model.errors import SerializationError
from perdure.publisher import Callback, FlowControl, Message
from perdure.publisher.options import destination
from perdure.publisher.values import segment

URL = "https://a.example"


def headers(**options):
    return dict(Message(URL, **options).headers)


@dataclass
class Order:
    id: int
    at: dt.datetime


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"method": "put"}, {"Upstash-Method": "PUT"}),
        ({"delay": "1h 30m"}, {"Upstash-Delay": "5400s"}),
        ({"delay": dt.timedelta(milliseconds=250)}, {"Upstash-Delay": "0.25s"}),
        ({"delay": 0}, {"Upstash-Delay": "0s"}),
        ({"delay": 10}, {"Upstash-Delay": "10s"}),
        ({"not_before": 1_700_000_000}, {"Upstash-Not-Before": "1700000000"}),
        ({"not_before": 1_700_000_000.2}, {"Upstash-Not-Before": "1700000001"}),
        ({"not_before": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)}, {"Upstash-Not-Before": "1893456000"}),
        ({"retries": 0}, {"Upstash-Retries": "0"}),
        ({"retries": None}, {}),
        ({"retry_delay": "pow(2, retried) * 1000"}, {"Upstash-Retry-Delay": "pow(2, retried) * 1000"}),
        ({"retry_delay": "2000"}, {"Upstash-Retry-Delay": "2000"}),
        ({"retry_delay": "30s"}, {"Upstash-Retry-Delay": "30000"}),
        ({"retry_delay": 1.5}, {"Upstash-Retry-Delay": "1500"}),
        ({"timeout": "1m"}, {"Upstash-Timeout": "60s"}),
        ({"dedup_id": "x"}, {"Upstash-Deduplication-Id": "x"}),
        ({"dedup_id": "order 1042/é"[:10]}, {"Upstash-Deduplication-Id": "order 1042"}),
        ({"dedup_id": "run:step"}, {"Upstash-Deduplication-Id": "#f69ac9175115461394ffc3add3fee90eca4aba58"}),
        ({"dedup_by_content": True}, {"Upstash-Content-Based-Deduplication": "true"}),
        ({"labels": "a"}, {"Upstash-Label": "a"}),
        ({"labels": ["a", "b"]}, {"Upstash-Label": "a,b"}),
        ({"redact": ["body", "header[X]"]}, {"Upstash-Redact-Fields": "body,header[X]"}),
        ({"headers": {"X-A": "1", "content-type": "text/x"}}, {"Upstash-Forward-X-A": "1", "content-type": "text/x"}),
        ({"json": [1]}, {"Content-Type": "application/json"}),
        ({"json": [1], "headers": {"Content-Type": "text/x"}}, {"Content-Type": "text/x"}),
        ({"body": "x"}, {"Content-Type": "text/plain; charset=utf-8"}),
        ({"body": b"x"}, {}),
        (
            {"flow_control": FlowControl("k", rate=5, per="1m", parallelism=3)},
            {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=3, rate=5, period=60s"},
        ),
        (
            {"flow_control": FlowControl("k", parallelism=3)},
            {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=3"},
        ),
        ({"callback": "https://b.example/../x"}, {"Upstash-Callback": "https://b.example/x"}),
        (
            {
                "failure_callback": Callback(
                    "https://b.example", retries=2, headers={"X": "1"}, callback="https://c.example"
                )
            },
            {
                "Upstash-Failure-Callback": "https://b.example",
                "Upstash-Failure-Callback-Retries": "2",
                "Upstash-Failure-Callback-Forward-X": "1",
                "Upstash-Failure-Callback-Callback": "https://c.example",
            },
        ),
    ],
)
def test_options_become_headers(options, expected):
    found = headers(**options)
    assert found == expected
    read(list(found.items()))  # and a server takes them


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({}, b""),
        ({"json": None}, b"null"),
        ({"json": {"a": "ü"}}, '{"a":"ü"}'.encode()),
        ({"json": Order(1, dt.datetime(2030, 1, 1, tzinfo=dt.UTC))}, b'{"id":1,"at":"2030-01-01T00:00:00Z"}'),
        ({"body": "ü"}, "ü".encode()),
        ({"body": b"\xff"}, b"\xff"),
    ],
)
def test_what_a_message_carries(options, content):
    assert Message(URL, **options).content == content


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dely": 1}, "dely: publish has no such option; there are body, callback, dedup_by_content"),
        ({"delay": "soon"}, "delay: 'soon' is no duration"),
        ({"delay": -1}, "delay: "),
        ({"timeout": "1"}, "timeout: "),
        ({"not_before": dt.datetime(2030, 1, 1)}, "not_before: .*no time zone"),  # noqa: DTZ001  # that is the point
        ({"retries": -1}, "retries: -1 must be a whole number, at least 0"),
        ({"retries": True}, "retries: "),
        ({"retries": "3"}, "retries: "),
        ({"retry_delay": ""}, "retry_delay: "),
        ({"retry_delay": "a\nb"}, "retry_delay: .*line break"),
        ({"method": "BREW"}, "method: 'BREW' must be one of GET, POST"),
        ({"method": 1}, "method: "),
        ({"labels": ["a,b"]}, "labels: a comma"),
        ({"labels": 1}, "labels: "),
        ({"labels": [1]}, "labels: "),
        ({"labels": [""]}, "labels: "),
        ({"dedup_id": ""}, "dedup_id: '' must be text"),
        ({"dedup_id": 1}, "dedup_id: 1 must be text"),
        ({"dedup_by_content": 1}, "dedup_by_content: "),
        ({"headers": {"X Y": "1"}}, "headers: 'X Y' is no name"),
        ({"headers": {"X": 1}}, "headers.X: 1 must be text"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers.X: .*line break"),
        ({"headers": {"X": "日"}}, "headers.X: .*no header can carry"),
        ({"json": 1, "body": "x"}, "json: give json or body"),
        ({"body": 1}, "body: an object of type int"),
        ({"callback": "no"}, "callback: 'no' must begin with http"),
        ({"failure_callback": 1}, "failure_callback: "),
        ({"flow_control": "k"}, "flow_control: "),
        ({"queue": ""}, "queue: "),
    ],
)
def test_what_cannot_be_is_told_by_its_name(options, told):
    with pytest.raises(UsageError, match=f"^{told}"):
        Message(URL, **options)


def test_what_has_no_json_form_is_told():
    with pytest.raises(SerializationError, match="^json cannot be stored"):
        Message(URL, json=object())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FlowControl("k"), "flow_control: give rate, parallelism or both"),
        (lambda: FlowControl("", rate=1), "flow_control.key: "),
        (lambda: FlowControl("k", rate=0), "flow_control.rate: "),
        (lambda: FlowControl("k", parallelism=0), "flow_control.parallelism: "),
        (lambda: FlowControl("k", rate=1, per=0.5), "flow_control.per: 0.5 must be whole seconds"),
        (lambda: Callback("https://b.example", body="x"), "body: Callback has no such option"),
        (lambda: Callback("https://b.example", headers={"Content-Type": "x"}), "headers: Content-Type: "),
        (lambda: Message(), "url: give url"),
        (lambda: Message(URL, group="g"), "url: give url"),
        (lambda: Message(group=URL), "group: .* is a URL"),
        (lambda: Message("hooks"), "url: 'hooks' must begin with http.* a URL group is published to by groups.publish"),
        (lambda: Message("http://a b/"), "url: 'http://a b/' names no host"),
    ],
)
def test_what_makes_no_sense_is_told(make, told):
    with pytest.raises(UsageError, match=f"^{told}"):
        make()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", "https://a.example"),
        ("https://a.example/x?b=c&d=https://e.example/?f", "https://a.example/x?b=c&d=https://e.example/?f"),
        ("https://a.example/../../x/./y", "https://a.example/x/y"),
        ("https://a.example/x//y#part", "https://a.example/x//y"),
        ("https://exämple.com/ü?q=ü", "https://xn--exmple-cua.com/%C3%BC?q=%C3%BC"),
        ("https://a.example/a b", "https://a.example/a%20b"),
        ("HTTP://A.example:80/%2F", "http://a.example/%2F"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
    ],
)
def test_a_destination_can_stand_in_a_path(url, expected):
    assert destination(url) == expected
    assert destination(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "ftp://a.example",
        "https://",
        "https:///x",
        "https://u:p@a.example",
        "https://a\n",
        "http://a:99999",
        "http://a:0",
        "https://[::1",
        None,
        1,
    ],
)
def test_what_is_no_destination_is_told(url):
    with pytest.raises(UsageError, match="^url: "):
        destination(url)


@pytest.mark.parametrize(
    ("text", "expected"), [("a/b?c", "a%2Fb%3Fc"), ("..", "%2E%2E"), (".a", ".a"), ("é", "%C3%A9")]
)
def test_a_name_stands_in_a_path_as_one_part(text, expected):
    assert segment(text, "name") == expected


def test_what_may_be_secret_is_not_shown():
    shown = repr([Message(URL, headers={"X": "secret"}), Callback(URL, headers={"X": "secret"}), FlowControl("k", 1)])
    assert shown == f"[Message({URL!r}), Callback({URL!r}), FlowControl('k', rate=1, period=1s)]"
