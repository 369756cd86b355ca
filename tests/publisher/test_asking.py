"""How often something is asked, and what is told in the end: without a clock and without a network."""

from __future__ import annotations

import pytest

from perdure import PublishError, PublishRefusedError
from perdure.publisher.asking import Answer, Lost, Pages, Request, Rest, patiently

ASKED = Request("POST", "/v2/publish/https://a.example")
ONCE = ASKED._replace(may_repeat=False)
GONE = Request("DELETE", "/v2/messages/msg_1")
OK = Answer(200, b'{"messageId": "msg_1"}')
BUSY = Answer(503, b"")
UNANSWERED = Lost("hung up")
UNREACHED = Lost("nobody there", has_done_nothing=True)


def plan(request):
    answer = yield request
    return answer.content


def drive(request, *came, patience=10.0, roll=0.75):
    """Return what comes of a request whose answers these are, and how long it waited ahead of each."""
    steps = patiently(plan(request), "the server", patience, lambda: roll)
    rests = []
    step = next(steps)
    for each in came:
        assert step == request
        try:
            step = steps.send(each)
            assert isinstance(step, Rest)
            rests.append(step.seconds)
            step = steps.send(None)
        except StopIteration as end:
            return end.value, rests
    raise AssertionError("it asks for more")


def refused(request, *came, **options):
    with pytest.raises(PublishError) as caught:
        drive(request, *came, **options)
    return caught.value


def test_an_answer_ends_it():
    assert drive(ASKED, OK) == (OK.content, [])


@pytest.mark.parametrize("failed", [BUSY, Answer(429, b""), Answer(502, b""), Answer(504, b""), UNANSWERED, UNREACHED])
def test_what_passes_is_asked_again_with_longer_and_longer_rests(failed):
    content, rests = drive(ASKED, failed, failed, failed, failed, OK)
    assert content == OK.content
    assert rests == [0.1, 0.2, 0.4, 0.8]


def test_rests_have_an_end_and_are_never_in_step():
    assert drive(ASKED, *[BUSY] * 9, OK, patience=100)[1][-3:] == [2.0, 2.0, 2.0]
    assert drive(ASKED, BUSY, OK, roll=0.0)[1] == [0.025]
    assert drive(ASKED, BUSY, OK, roll=1.0)[1] == [0.125]


def test_the_server_says_how_long_to_wait():
    assert drive(ASKED, Answer(429, b"", after=3.0), OK)[1] == [3.0]


def test_patience_counts_from_the_first_failure():
    late = [BUSY._replace(at=at) for at in (100.0, 105.0, 109.5)]
    assert len(drive(ASKED, *late, OK, patience=10)[1]) == 3
    error = refused(ASKED, *late, BUSY._replace(at=109.9), patience=10)
    assert (error.status, str(error)) == (503, "the server: it answers with status 503")


def test_who_is_told_to_wait_beyond_patience_is_told_at_once():
    assert refused(ASKED, Answer(429, b'{"error": "Exceeded burst rate limit"}', after=60.0)).status == 429


@pytest.mark.parametrize(
    "failed", [Answer(400, b""), Answer(401, b""), Answer(404, b""), Answer(500, b""), Answer(302, b"")]
)
def test_what_does_not_pass_is_told(failed):
    assert refused(ASKED, failed).status == failed.status


def test_what_must_not_be_repeated_is_asked_again_only_where_it_came_to_nothing():
    assert drive(ONCE, UNREACHED, Answer(429, b""), OK)[0] == OK.content
    for failed in (UNANSWERED, BUSY):
        assert str(refused(ONCE, failed)).startswith("the server: ")
    assert refused(ASKED, Lost("wrong certificate", is_passing=False)).status == 0


def test_what_is_gone_at_the_second_time_was_removed_by_the_first():
    assert drive(GONE, UNANSWERED, Answer(404, b""))[0] == b"{}"
    assert drive(GONE, BUSY, Answer(404, b""))[0] == b"{}"
    assert refused(GONE, Answer(404, b"")).status == 404
    assert refused(GONE, UNREACHED, Answer(404, b"")).status == 404
    assert refused(ASKED, UNANSWERED, Answer(404, b"")).status == 404


@pytest.mark.parametrize(
    ("content", "field", "told"),
    [
        (b'{"error": "Upstash-Retries: too many"}', "retries", "retries: Upstash-Retries: too many"),
        (b'{"error": "Upstash-Flow-Control-Value, rate: none"}', "flow_control", "flow_control: Upstash-Flow"),
        (b'{"error": "batch[3]: Upstash-Delay: no"}', "messages[3].delay", "messages[3].delay: Upstash-Delay: no"),
        (b'{"error": "batch[3]: what?"}', "messages[3]", "messages[3]: what?"),
        (b'{"error": "invalid destination url: no"}', "url", "url: invalid destination url: no"),
        (b'{"error": "DeduplicationId cannot contain \':\'"}', "dedup_id", "dedup_id: "),
        (b'{"detail": "a problem"}', "", "a problem"),
        (b'{"error": "tz: \'Europe/Pari\' is none"}', "tz", "tz: 'Europe/Pari' is none"),
        (b'{"error": {"no": "text"}}', "", "it answers with status 400"),
        (b"plain", "", "plain"),
        (b"<html>a proxy's page</html>", "", "it answers with status 400"),
        (b"\xff", "", "\ufffd"),
        (b"[1]", "", "it answers with status 400"),
        (b'{"error": "Upstash-Unheard-Of: no"}', "", "Upstash-Unheard-Of: no"),
    ],
)
def test_an_error_names_the_option(content, field, told):
    error = refused(ASKED, Answer(400, content))
    assert error.field == field
    assert str(error).startswith(f"the server: {told}")


@pytest.mark.parametrize(
    ("status", "is_final"),
    [(302, True), (400, True), (404, True), (408, False), (425, False), (429, False), (500, False), (501, True)],
)
def test_what_would_be_refused_again_is_told_apart(status, is_final):
    assert isinstance(refused(ASKED, Answer(status, b""), patience=-1), PublishRefusedError) == is_final
    assert not isinstance(refused(ASKED, UNREACHED, patience=-1), PublishRefusedError)


def test_errors_say_what_to_do():
    assert "set QSTASH_TOKEN" in str(refused(ASKED, Answer(401, b"")))
    assert "see that the URL" in str(refused(ASKED, Answer(404, b"")))
    assert str(refused(ASKED, Answer(400, b'{"error": "%s"}' % (b"x" * 9_000)))).count("x") == 500


def test_an_answer_that_is_none_is_told():
    with pytest.raises(PublishError, match="none of the message API"):
        Answer(200, b"<html>").read(dict)
    with pytest.raises(PublishError, match="none of the message API"):
        Answer(200, b"[]").read(dict)
    with pytest.raises(PublishError, match="none of the message API: it speaks of 1 messages, not 2"):
        Answer(200, b"[{}]").read_each(dict, 2)


def test_a_plan_hears_of_a_refusal():
    def careful():
        try:
            yield ASKED
        except PublishError as error:
            return error.status

    steps = patiently(careful(), "the server", 10, lambda: 0.5)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(Answer(400, b""))
    assert end.value.value == 400


def read(answer):
    found = answer.read(dict)
    return found["found"], found["cursor"]


def test_pages_follow_each_other():
    pages = Pages(Request("GET", "/v2/logs", (("cursor", "a"), ("state", "ERROR"))), read)
    asked = pages.ask()
    assert next(asked).query == (("cursor", "a"), ("state", "ERROR"))
    with pytest.raises(StopIteration):
        asked.send(Answer(200, b'{"found": [], "cursor": "b"}'))
    assert pages.are_more_asked_for
    asked = pages.ask()
    assert next(asked).query == (("state", "ERROR"), ("cursor", "b"))
    with pytest.raises(StopIteration):
        asked.send(Answer(200, b'{"found": [1], "cursor": ""}'))
    assert (pages.take(), pages.cursor, pages.are_more_asked_for) == ([1], "", False)


def test_a_list_that_goes_nowhere_ends():
    pages = Pages(Request("GET", "/v2/logs"), read)
    for _ in range(2):
        asked = pages.ask()
        next(asked)
        with pytest.raises(StopIteration):
            asked.send(Answer(200, b'{"found": [], "cursor": "b"}'))
    assert not pages.are_more_asked_for
