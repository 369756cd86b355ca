"""What a run has come to: pure, and the same from its journal as while it goes on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from perdure.dispatch.messages.message import Message
from perdure.dispatch.upstash.ledger import SAVED, Ledger
from perdure.dispatch.upstash.submission import (
    CONCURRENT_MOST,
    STEP_MOST,
    Call,
    Finish,
    Invoke,
    Notice,
    Step,
    Trigger,
    Wait,
    fields_of,
    merged,
)
from perdure.model.errors import UsageError

MESSAGE = Message("http://x/w", body='{"n":1}')
TRIGGER = Trigger("http://x/w", "msg_0", MESSAGE)


def step(step_id: int, target: int | None = None, concurrent: int = 1, **more: Any) -> Step:
    body = {"stepId": step_id, "stepName": "s", "stepType": "Run", "concurrent": concurrent, **more}
    if target is not None:
        body["targetStep"] = target
    return Step(f"msg_{step_id}_{target}", Message("http://x/w", body=json.dumps(body)))


def wait(step_id: int, event: str = "e") -> Wait:
    text = json.dumps({"stepId": step_id, "stepName": "w", "stepType": "Wait", "concurrent": 1})
    return Wait(f"msg_{step_id}", step_id, text, event, "7d", 10, MESSAGE, MESSAGE)


def entries(ledger: Ledger) -> list[Any]:
    return [json.loads(noted.entry.content) for noted in ledger.entries]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(TRIGGER)


def test_it_begins_with_the_initial_body(ledger):
    assert json.loads(ledger.body_of(0)) == [{"messageId": "msg_0", "body": "eyJuIjoxfQ==", "callType": "step"}]
    assert ledger.unfinished() == [0]


def test_a_body_that_is_no_text_is_kept(ledger):
    ledger = Ledger(Trigger("http://x", "m", Message("http://x", body_base64=base64.b64encode(b"\xff").decode())))
    assert ledger.entries[0].entry.content == b"\xff"


def test_a_delivery_carries_what_was_accepted_up_to_it(ledger):
    assert [ledger.take(step(number)) for number in (1, 2, 3)] == [[1], [2], [3]]
    assert len(json.loads(ledger.body_of(2))) == 3


def test_the_first_of_a_step_is_kept(ledger):
    assert ledger.take(step(1, out="1")) == [1]
    assert ledger.take(step(1, out="2")) == []
    assert entries(ledger)[1]["out"] == "1"


def test_plans_and_results_of_one_number_are_two(ledger):
    assert [ledger.take(each) for each in (step(0, 1, 2), step(0, 2, 2), step(1, None, 2))] == [[1], [2], [3]]
    assert ledger.unfinished() == [2]


@pytest.mark.parametrize(
    ("given", "index", "behind"),
    [
        ([], 0, False),
        ([step(1)], 0, True),
        ([step(0, 1, 2)], 0, True),
        ([wait(1)], 0, True),
        ([Call("m", 1, "c", MESSAGE)], 0, True),
        ([Invoke("m", 1, "{}", "wfr", TRIGGER, MESSAGE)], 0, True),
        ([step(1)], 1, False),
        ([step(1), wait(2)], 1, True),
        ([step(0, 1, 2), step(0, 2, 2)], 1, False),
        ([step(0, 1, 2), step(0, 2, 2), step(1, None, 2)], 1, True),
        ([step(0, 1, 2), step(0, 2, 2), step(1, None, 2)], 3, False),
        ([step(0, 1, 2), step(0, 2, 2), step(1, None, 2), step(2, None, 2), step(3)], 3, True),
        ([step(0, 1, 2), step(0, 2, 2), step(2, None, 2), step(1, None, 2)], 4, False),
        ([Finish()], 0, True),
    ],
)
def test_what_is_behind(ledger, given, index, behind):
    for each in given:
        ledger.take(each)
    assert ledger.is_behind(index) is behind


def test_a_wait_ends_once(ledger):
    ledger.take(wait(1))
    assert ledger.is_waiting(1)
    assert ledger.take(Notice("other", "eA==")) == []
    assert ledger.take(Notice("e", "eA==", 2)) == []
    assert ledger.take(Notice("e", "eA==", 1)) == [1]
    assert ledger.expire(1) == []
    assert ledger.take(wait(1)) == []
    assert entries(ledger)[1] == {
        "stepId": 1,
        "stepName": "w",
        "stepType": "Wait",
        "concurrent": 1,
        "waitEventId": "e",
        "timeout": "7d",
        "waitTimeout": False,
        "out": "eA==",
    }


def test_a_wait_that_expired_says_so(ledger):
    ledger.take(wait(1))
    assert ledger.expire(1) == [1]
    assert (entries(ledger)[1]["waitTimeout"], "out" in entries(ledger)[1]) == (True, False)
    assert ledger.take(Notice("e", "eA==", 1)) == []


def test_what_is_kept_is_taken_once_in_order_and_within_a_bound(ledger):
    for number in range(SAVED + 1):
        ledger.take(Notice("e", base64.b64encode(str(number).encode()).decode(), None, is_kept=True))
    made = [ledger.take(wait(number))[0] for number in range(1, SAVED + 1)]
    taken = [entries(ledger)[index]["out"] for index in (made[0], made[-1])]
    assert base64.b64decode(taken[0]) == b"0"
    assert base64.b64decode(taken[-1]) == str(SAVED - 1).encode()
    assert ledger.take(wait(SAVED + 1)) == []


def test_what_is_kept_for_another_wait_resumes_the_one_that_is_there(ledger):
    ledger.take(wait(2))
    assert ledger.take(Notice("e", "eA==", 1, is_kept=True)) == [1]


def test_the_end_of_an_invoked_run(ledger):
    text = json.dumps({"stepId": 1, "stepName": "i", "stepType": "Invoke", "concurrent": 1})
    assert ledger.child_ended(1, None, None) == []
    ledger.take(Invoke("m", 1, text, "wfr_c", TRIGGER, MESSAGE))
    assert ledger.child_ended(1, '{"response":"é"}', None) == [1]
    assert json.loads(entries(ledger)[1]["out"]) == {"body": "é", "isFailed": False, "isCanceled": False}


def test_the_name_of_a_call_is_put_back(ledger):
    ledger.take(Call("m", 1, "näme ぉ", MESSAGE))
    ledger.take(step(1, stepType="Call", out="{}"))
    assert entries(ledger)[1]["stepName"] == "näme ぉ"


def test_a_run_that_takes_up_another(ledger):
    for each in (step(1), step(0, 2, 2), step(0, 3, 2), step(3, None, 2)):
        ledger.take(each)
    again = Ledger(Trigger("http://x", "m", MESSAGE, entries=[noted.entry for noted in ledger.entries]))
    assert again.unfinished() == [2]
    assert again.body_of(4) == ledger.body_of(4)
    assert again.take(step(1)) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "step"),
        (b"[]", "step"),
        (b"\xff", "step"),
        (b'{"stepId":"1"}', "stepId"),
        (b'{"stepId":-1}', "stepId"),
        (b'{"stepId":%d}' % (STEP_MOST + 1), "STEP_MOST"),
        (b'{"stepId":1,"targetStep":-1}', "targetStep"),
        (b'{"stepId":1,"concurrent":0}', "concurrent"),
        (b'{"stepId":1,"concurrent":%d}' % (CONCURRENT_MOST + 1), "concurrent"),
    ],
)
def test_what_is_no_step_is_refused(body, field):
    with pytest.raises(UsageError, match=field):
        fields_of(body, "step")


def test_which_headers_go_with_a_delivery():
    under = [("X-User", "bob"), ("Content-Type", "text/plain"), ("Upstash-Workflow-Sdk-Version", "1")]
    over = [("content-type", "application/json"), ("Upstash-Signature", "old"), ("upstash-message-id", "old")]
    found = [("X-User", "bob"), ("content-type", "application/json"), ("Upstash-Workflow-Sdk-Version", "1")]
    assert merged(under, over) == found
    assert merged(under, over, is_list=False) == found[:2]


def test_a_notification_that_is_ahead_of_the_wait_that_it_is_for_ends_it(ledger):
    assert ledger.take(Notice("e", "eA==", 2)) == []
    assert ledger.take(wait(1)) == []
    assert ledger.take(wait(2)) == [1]
    assert (entries(ledger)[1:] or [None])[0]["out"] == "eA=="
    assert ledger.take(Notice("e", "eA==", 2)) == []
    assert ledger.is_waiting(1)


def test_what_is_delivered_has_a_name_for_those_who_read_the_journal(ledger):
    ledger.take(step(1, stepName="charge #1/2\n" + "x" * 300))
    assert ledger.name_of(0) == "deliver 0"
    assert ledger.name_of(1) == "deliver 1: charge  1 2 " + "x" * 88
    assert ledger.length_of(1) == sum(len(noted.entry.body) + 80 for noted in ledger.entries)


def test_a_step_that_is_nested_without_end_is_refused():
    with pytest.raises(UsageError, match="step"):
        fields_of('{"stepId":1,"out":' + "[" * 100_000, "step")
