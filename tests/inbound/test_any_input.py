"""Whatever is sent, signed or not: no error of ours, and no run but of what can be read and was signed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import uuid

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdure import Perdure, WebhookVerificationError, inbound
from tests.inbound.asking import client
from tests.inbound.vectors import FORM, NOW, present

KEY = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
VERIFIERS = {
    "stripe": inbound.stripe(KEY, clock=present),
    "github": inbound.github(KEY),
    "slack": inbound.slack(KEY, clock=present),
    "standard": inbound.standard(KEY, clock=present),
}
NAMES = [
    *("Stripe-Signature", "X-Hub-Signature-256", "X-GitHub-Event", "X-GitHub-Delivery", "X-Slack-Signature"),
    *("X-Slack-Request-Timestamp", "webhook-id", "webhook-timestamp", "webhook-signature", "Content-Type"),
]
VALUES = st.one_of(st.text(st.characters(max_codepoint=255)), st.sampled_from([f"t={NOW},v1=", str(NOW), "v0=", FORM]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "type", "event", "x"]) | st.text(), inner),
)


def signed(name: str, body: bytes, **more: str) -> dict[str, str]:
    def hexed(content: bytes) -> str:
        return hmac.new(KEY.encode(), content, hashlib.sha256).hexdigest()

    if name == "stripe":
        return {"Stripe-Signature": f"t={NOW},v1={hexed(f'{NOW}.'.encode() + body)}", **more}
    if name == "github":
        names = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "d"}
        return {"X-Hub-Signature-256": f"sha256={hexed(body)}", **names, **more}
    return {
        "X-Slack-Request-Timestamp": str(NOW),
        "X-Slack-Signature": f"v0={hexed(f'v0:{NOW}:'.encode() + body)}",
        **more,
    }


@pytest.mark.parametrize("name", VERIFIERS)
@given(body=st.binary(max_size=200), headers=st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_what_is_not_signed_is_not_believed(name, body, headers):
    with pytest.raises(WebhookVerificationError):
        VERIFIERS[name](body, headers)


@pytest.mark.parametrize("name", ["stripe", "github", "slack"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    body=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/json", FORM, ""]),
)
@example(b'{"id":"\\ud800","type":"\\udfff"}', "")
@example(b'{"id":"e","n":' + b"9" * 400 + b"}", "")
@example(b'{"id":"e","n":1e999}', "")
@example(b'{"type":"event_callback","event":[]}', "application/json")
@example(b'{"type":"url_verification","challenge":7}', "application/json")
@example(b"payload=%ff", FORM)
@example(b"payload=7", FORM)
@example(b"&".join([b"a=1"] * 2_000), FORM)
def test_what_is_signed_is_taken_or_refused(name, caplog, body, kind):
    caplog.set_level(logging.ERROR, "perdure.inbound")
    app = Perdure(f"memory://{uuid.uuid4().hex}", mode="client")
    got = []

    @app.webhook("/hooks/x", verify=VERIFIERS[name])
    @app.workflow
    async def keep(event: object) -> None: ...

    async def asked() -> None:
        async with app, client(inbound.asgi(app)) as http:
            answer = await http.post("/hooks/x", content=body, headers=signed(name, body, **{"Content-Type": kind}))
            got.append(answer.status_code)
            is_taken = answer.status_code == 200 and not answer.content
            assert len((await app.runs()).runs) == is_taken

    asyncio.run(asked())
    assert got[0] in (200, 400, 422)
    assert not caplog.records
