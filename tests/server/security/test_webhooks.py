"""Signed deliveries: every change is noticed, and one that comes again starts nothing again."""

from __future__ import annotations

import base64

import pytest

from perdure import Perdure, WebhookVerificationError, webhooks
from perdure.authoring.triggers import secrets_of
from perdure.engine.triggers.webhooks import signature
from tests.server.conftest import memory

NOW = 1_700_000_000
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
BODY = b'{"order": 1042, "paid": true}'


def delivered(secret=SECRET, body=BODY, number="msg_1042", at=NOW):
    signed = signature(secrets_of(secret), number, at, body)
    return {"webhook-id": number, "webhook-timestamp": str(at), "webhook-signature": signed}


def test_every_change_of_a_byte_is_noticed():
    headers = delivered()
    assert webhooks.verify(BODY, headers, SECRET, now=NOW) == {"order": 1042, "paid": True}
    tried = 0
    for place in range(len(BODY)):
        with pytest.raises(WebhookVerificationError):
            webhooks.verify(BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :], headers, SECRET, now=NOW)
        tried += 1
    for name, value in headers.items():
        for place in range(len(value)):
            changed = value[:place] + ("1" if value[place] != "1" else "2") + value[place + 1 :]
            with pytest.raises(WebhookVerificationError):
                webhooks.verify(BODY, {**headers, name: changed}, SECRET, now=NOW)
            tried += 1
    assert tried > 90


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1a," + "A" * 44},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-id": "msg_1042."},
    ],
)
def test_what_is_no_signature_is_none(headers):
    given = {**delivered(), **headers} if headers else {}
    with pytest.raises(WebhookVerificationError):
        webhooks.verify(BODY, given, SECRET, now=NOW)


def test_an_old_delivery_is_refused_though_its_signature_is_right():
    headers = delivered()
    for off in (-300, 0, 300):
        webhooks.verify(BODY, headers, SECRET, now=NOW + off)
    for off in (-301, 301, 10**9):
        with pytest.raises(WebhookVerificationError, match="webhook-timestamp"):
            webhooks.verify(BODY, headers, SECRET, now=NOW + off)


def test_a_change_of_the_secret_loses_no_delivery():
    """The sender signs with both, then with the new one; receivers change in between, one after the other."""
    for sender, receivers in (
        ([SECRET], ([SECRET], [SECRET, OTHER])),
        ([OTHER, SECRET], ([SECRET], [SECRET, OTHER], [OTHER])),
        ([OTHER], ([SECRET, OTHER], [OTHER])),
    ):
        for receiver in receivers:
            webhooks.verify(BODY, delivered(sender), receiver, now=NOW)
    with pytest.raises(WebhookVerificationError):
        webhooks.verify(BODY, delivered([SECRET]), [OTHER], now=NOW)


async def test_a_delivery_that_comes_again_within_the_window_starts_nothing_again():
    app = Perdure(memory())

    @app.on("paid")
    @app.workflow
    async def ship(event: object) -> None:
        pass

    async def receive(headers, body):
        event = webhooks.verify(body, headers, SECRET, now=NOW)
        return await app.emit("paid", event, id=headers["webhook-id"])

    async with app:
        (first,) = await receive(delivered(), BODY)
        (again,) = await receive(delivered(at=NOW + 5), BODY)
        assert first.id == again.id
        assert len((await app.runs(workflow="ship")).runs) == 1
