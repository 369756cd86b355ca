"""What services sign, as their own libraries do it, is believed; whatever differs from it is not."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from perdure import SerializationError, UsageError, WebhookVerificationError
from perdure.inbound import Received, github, slack, standard, stripe
from tests.inbound import vectors
from tests.inbound.vectors import NOW, present

STRIPE = stripe(vectors.STRIPE_SECRET, clock=present)
GITHUB = github(vectors.GITHUB_SECRET)
SLACK = slack(vectors.SLACK_SECRET, clock=present)
STANDARD = standard(vectors.STANDARD_SECRET, clock=present)

SIGNED = [
    pytest.param(STRIPE, vectors.STRIPE, vectors.STRIPE_HEADERS, id="stripe"),
    pytest.param(SLACK, vectors.SLACK, vectors.SLACK_HEADERS, id="slack"),
    pytest.param(STANDARD, vectors.STANDARD, vectors.STANDARD_HEADERS, id="standard"),
]
MADE_BY = {
    "stripe": lambda clock, **more: stripe(vectors.STRIPE_SECRET, clock=clock, **more),
    "slack": lambda clock, **more: slack(vectors.SLACK_SECRET, clock=clock, **more),
    "standard": lambda clock, **more: standard(vectors.STANDARD_SECRET, clock=clock, **more),
}


def of_github(body: bytes, **headers: str) -> dict[str, str]:
    digest = hmac.new(vectors.GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {**vectors.GITHUB_HEADERS, "X-Hub-Signature-256": f"sha256={digest}", **headers}


def test_stripe_as_its_library_signs():
    received = STRIPE(vectors.STRIPE, vectors.STRIPE_HEADERS)
    assert received == Received(json.loads(vectors.STRIPE), "evt_1", "invoice.paid")
    both = {"stripe-signature": f"t={NOW}, v1={'0' * 64}, v1={vectors.STRIPE_SIGNATURE}, v0=abc"}
    assert STRIPE(vectors.STRIPE, both) == received


def test_github_as_its_documentation_signs():
    with pytest.raises(ValueError, match="malformed"):  # the signature holds; the body of the example is no JSON
        GITHUB(vectors.GITHUB, vectors.GITHUB_HEADERS)
    with pytest.raises(WebhookVerificationError):
        GITHUB(vectors.GITHUB + b" ", vectors.GITHUB_HEADERS)


def test_slack_as_its_library_signs():
    assert SLACK(vectors.SLACK, vectors.SLACK_HEADERS) == Received(json.loads(vectors.SLACK), "Ev01", "app_mention")
    headers = vectors.SLACK_HEADERS | {"Content-Type": f"{vectors.FORM}; charset=utf-8"}
    command = SLACK(vectors.COMMAND, headers | {"X-Slack-Signature": vectors.COMMAND_SIGNATURE})
    assert command.event["command"] == "/weather"
    assert (command.id, command.type) == ("13345224609.738474920.8088930838d88f008e0", None)
    button = SLACK(vectors.BUTTON, headers | {"X-Slack-Signature": vectors.BUTTON_SIGNATURE})
    assert button == Received({"type": "block_actions", "trigger_id": "12.34"}, "12.34", "block_actions")


def test_slacks_challenge_is_answered_only_if_it_is_signed():
    headers = vectors.SLACK_HEADERS | {"X-Slack-Signature": vectors.CHALLENGE_SIGNATURE}
    assert SLACK(vectors.CHALLENGE, headers).reply == "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"
    with pytest.raises(WebhookVerificationError):
        SLACK(vectors.CHALLENGE, vectors.SLACK_HEADERS)


def test_standard_webhooks_as_their_library_signs():
    received = STANDARD(vectors.STANDARD, vectors.STANDARD_HEADERS)
    assert received == Received(json.loads(vectors.STANDARD), vectors.STANDARD_ID, "invoice.paid")


def test_what_github_says():
    body = b'{"action":"opened"}'
    assert GITHUB(body, of_github(body)) == Received({"action": "opened"}, "d-1", "push")
    form = b"payload=%7B%22action%22%3A%22opened%22%7D"
    assert GITHUB(form, of_github(form, **{"content-type": vectors.FORM})).event == {"action": "opened"}
    assert GITHUB(body, of_github(body, **{"X-GitHub-Event": "ping"})).reply == "pong"
    with pytest.raises(SerializationError, match="no object"):
        GITHUB(b"[]", of_github(b"[]"))


@pytest.mark.parametrize(("verify", "body", "headers"), SIGNED)
def test_one_bit_that_differs_is_refused(verify, body, headers):
    for index in range(len(body)):
        for bit in (0, 7):
            flipped = body[:index] + bytes([body[index] ^ 1 << bit]) + body[index + 1 :]
            with pytest.raises(WebhookVerificationError):
                verify(flipped, headers)
    for changed in (body[:-1], body + b" ", b"", body + body, b"\xef\xbb\xbf" + body):
        with pytest.raises(WebhookVerificationError):
            verify(changed, headers)


@pytest.mark.parametrize(("verify", "body", "headers"), [*SIGNED, (GITHUB, vectors.GITHUB, vectors.GITHUB_HEADERS)])
def test_headers_that_differ_are_refused(verify, body, headers):
    signed = [name for name in headers if not name.startswith("X-GitHub")]
    for name in signed:
        value = headers[name]
        for wrong in (
            *("", " ", "\x00", "\udcff", "é", "v1,", "v1=", "t=", "sha256=", "v0=", "{}", "0" * 5_000, "," * 5_000),
            *(value[:-1], value + "0", value[1:], f"{value}, {value}x", value.swapcase(), value.replace("=", "", 1)),
        ):
            if wrong == value or (name == "webhook-signature" and value in wrong.split()):
                continue
            with pytest.raises(WebhookVerificationError):
                verify(body, {**headers, name: wrong})
        with pytest.raises(WebhookVerificationError, match=f"(?i)the header {name} is missing"):
            verify(body, {each: text for each, text in headers.items() if each != name})


@pytest.mark.parametrize(("verify", "body", "headers"), SIGNED)
def test_what_is_there_twice_is_refused(verify, body, headers):
    stamp = next(name for name, value in headers.items() if str(NOW) in value)
    with pytest.raises(WebhookVerificationError):
        verify(body, {**headers, stamp: f"{headers[stamp]}, {headers[stamp]}"})


@pytest.mark.parametrize("name", MADE_BY)
def test_only_what_was_signed_lately_is_believed(name, request):
    body, headers = {each.id: each.values[1:] for each in SIGNED}[name]
    for off in (-300, 0, 299.5, 300):
        MADE_BY[name](lambda off=off: NOW + off)(body, headers)
    for off in (-301, 300.5, 86_400, 1e12):
        with pytest.raises(WebhookVerificationError, match="an old"):
            MADE_BY[name](lambda off=off: NOW + off)(body, headers)
    MADE_BY[name](lambda: NOW + 3_000, tolerance="1 hour")(body, headers)
    with pytest.raises(WebhookVerificationError):
        MADE_BY[name](lambda: NOW + 2, tolerance=1)(body, headers)


def test_a_stamp_that_is_no_number_is_refused_although_it_is_signed():
    for stamp in ("1e9", "-1", "", "٣", "9" * 16):
        digest = hmac.new(b"s", f"{stamp}.{{}}".encode(), hashlib.sha256).hexdigest()
        with pytest.raises(WebhookVerificationError, match="Stripe-Signature"):
            stripe("s", clock=present)(b"{}", {"Stripe-Signature": f"t={stamp},v1={digest}"})


def test_while_secrets_are_changed_either_will_do():
    new = {"Stripe-Signature": f"t={NOW},v1={vectors.STRIPE_OTHERS}"}
    both = stripe([vectors.STRIPE_OTHER, vectors.STRIPE_SECRET], clock=present)
    assert both(vectors.STRIPE, new) == both(vectors.STRIPE, vectors.STRIPE_HEADERS)
    with pytest.raises(WebhookVerificationError):
        STRIPE(vectors.STRIPE, new)
    github(["x", vectors.GITHUB_SECRET])(b"{}", of_github(b"{}"))
    slack(["x", vectors.SLACK_SECRET], clock=present)(vectors.SLACK, vectors.SLACK_HEADERS)
    others = vectors.STANDARD_HEADERS | {"webhook-signature": vectors.STANDARD_OTHERS}
    changing = standard([vectors.STANDARD_SECRET, vectors.STANDARD_OTHER], clock=present)
    assert changing(vectors.STANDARD, others) == changing(vectors.STANDARD, vectors.STANDARD_HEADERS)


@pytest.mark.parametrize("make", [stripe, github, slack])
def test_secrets_that_are_none(make):
    for wrong in ("", [], [""], " s", "s\n", ["s", None], 7):
        with pytest.raises(UsageError, match="secret"):
            make(wrong)


def test_settings_that_are_none():
    with pytest.raises(UsageError, match="secret"):
        standard("whsec_short")
    with pytest.raises(UsageError, match="tolerance"):
        stripe("s", tolerance="soon")


def test_this_machines_clock_counts():
    with pytest.raises(WebhookVerificationError, match="an old request"):
        stripe(vectors.STRIPE_SECRET)(vectors.STRIPE, vectors.STRIPE_HEADERS)
