"""Who sent a request, found out from its body and headers as the service that sends it documents.

Each function here returns a verifier: what is called with the body, byte for byte, and the headers, and returns what it
says as a `Received`, or raises a `WebhookVerificationError`. Several secrets are for the time while one is changed: a
signature by any of them will do. Digests are compared in constant time, and before anything of the body is read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from perdure.authoring.hooks import Verifier
from perdure.authoring.triggers import secrets_of
from perdure.engine.env import SystemEnv
from perdure.engine.triggers import webhooks
from perdure.model.codec import read_json
from perdure.model.duration import Duration, seconds
from perdure.model.errors import SerializationError, UsageError, WebhookVerificationError

TOLERANCE: Duration = webhooks.TOLERANCE
"""How far the time in a signature may be from the present, either way."""

FORM_FIELDS = 1_000
"""How many fields a form has at most."""

Clock = Callable[[], float]
"""Returns the present, in seconds since the epoch."""


@dataclass(frozen=True)
class Received:
    """What a verifier has found in a request.

    Attributes:
        event: what it says, as plain JSON data.
        id: by which the sender's retries are known, unless the webhook has a `key`; None for nothing of that kind.
        type: the type of the event, for `only`; None for none.
        reply: a text to be answered, with which the request is done, so that nothing is started; None for a real event.
    """

    event: Any
    id: str | None = None
    type: str | None = None
    reply: str | None = None


def _this_clock() -> float:
    return SystemEnv().local() / 1000


def stripe(secret: str | Sequence[str], *, tolerance: Duration = TOLERANCE, clock: Clock = _this_clock) -> Verifier:
    """Return a verifier of what Stripe sends (`Stripe-Signature`).

    The event is Stripe's, with its `id` and its `type`.

    Args:
        secret: the endpoint's secret, `whsec_…` as Stripe shows it; or several.
        tolerance: how far the time in a signature may be from the present, either way (a duration).
        clock: the present; this machine's clock by default.

    Raises:
        UsageError: a secret or the tolerance is none.
    """
    keys, bound = _keys(secret), seconds(tolerance, field="tolerance")

    def verify(body: bytes, headers: Mapping[str, str]) -> Received:
        parts = [part.strip().partition("=") for part in _header(headers, "Stripe-Signature").split(",")]
        stamps = [value for name, _, value in parts if name == "t"]
        if len(stamps) != 1:
            raise WebhookVerificationError(f"Stripe-Signature: it has {len(stamps)} times (t=), and must have one")
        content = _raw(f"{stamps[0]}.") + body
        _require(_digests(keys, content), [value for name, _, value in parts if name == "v1"], "Stripe-Signature")
        _require_lately(stamps[0], clock(), bound, "Stripe-Signature")
        event = read_json(body.decode())
        return Received(event, _text(event, "id"), _text(event, "type"))

    return verify


def github(secret: str | Sequence[str]) -> Verifier:
    """Return a verifier of what GitHub sends (`X-Hub-Signature-256`), as JSON or as a form.

    The event is the payload; its type is the header `X-GitHub-Event`, and its id `X-GitHub-Delivery`. GitHub signs the
    body alone, and no time: so whoever gets hold of a whole request could send it again under another id. A `ping`,
    which GitHub sends when a webhook is made, is answered and starts nothing.

    Args:
        secret: the webhook's secret, or several.

    Raises:
        UsageError: a secret is none.
    """
    keys = _keys(secret)

    def verify(body: bytes, headers: Mapping[str, str]) -> Received:
        given = _header(headers, "X-Hub-Signature-256")
        expected = [f"sha256={digest}" for digest in _digests(keys, body)]
        _require(expected, [given], "X-Hub-Signature-256")
        kind = _header(headers, "X-GitHub-Event")
        reply = "pong" if kind == "ping" else None
        return Received(_payload(body, headers), _header(headers, "X-GitHub-Delivery"), kind, reply)

    return verify


def slack(secret: str | Sequence[str], *, tolerance: Duration = TOLERANCE, clock: Clock = _this_clock) -> Verifier:
    """Return a verifier of what Slack sends (`X-Slack-Signature`): events, commands and interactions.

    The type is that of the event inside an `event_callback`, else that of the whole; the id is `event_id`, or
    `trigger_id` where there is no event. Slack's challenge, by which it looks whether a URL is ours, is answered.

    Args:
        secret: the app's signing secret, or several.
        tolerance: how far the time of a request may be from the present, either way (a duration).
        clock: the present; this machine's clock by default.

    Raises:
        UsageError: a secret or the tolerance is none.
    """
    keys, bound = _keys(secret), seconds(tolerance, field="tolerance")

    def verify(body: bytes, headers: Mapping[str, str]) -> Received:
        stamp = _header(headers, "X-Slack-Request-Timestamp")
        expected = [f"v0={digest}" for digest in _digests(keys, _raw(f"v0:{stamp}:") + body)]
        _require(expected, [_header(headers, "X-Slack-Signature")], "X-Slack-Signature")
        _require_lately(stamp, clock(), bound, "X-Slack-Request-Timestamp")
        event = _payload(body, headers)
        kind = _text(event, "type")
        if kind == "url_verification":
            if (challenge := _text(event, "challenge")) is None:
                raise SerializationError("challenge: it is no text")
            return Received(event, None, kind, challenge)
        inner = _text(event.get("event"), "type") if kind == "event_callback" else None
        return Received(event, _text(event, "event_id") or _text(event, "trigger_id"), inner or kind)

    return verify


def standard(secret: str | Sequence[str], *, tolerance: Duration = TOLERANCE, clock: Clock = _this_clock) -> Verifier:
    """Return a verifier of what is signed after the Standard Webhooks specification, as our own deliveries are.

    The id is the header `webhook-id`, the type the field `type`.

    Args:
        secret: `whsec_` and 24 to 64 bytes in base64, or several such.
        tolerance: how far the time of a request may be from the present, either way (a duration).
        clock: the present; this machine's clock by default.

    Raises:
        UsageError: a secret or the tolerance is none.
    """
    secrets_of(secret)
    bound = seconds(tolerance, field="tolerance")

    def verify(body: bytes, headers: Mapping[str, str]) -> Received:
        event = webhooks.verify(body, headers, secret, tolerance=bound, now=clock())
        return Received(event, _header(headers, "webhook-id"), _text(event, "type"))

    return verify


def _keys(secret: str | Sequence[str]) -> list[bytes]:
    given: list[Any] = list(secret) if isinstance(secret, list | tuple) else [secret]
    if not given or not all(isinstance(each, str) and each.strip() == each != "" for each in given):
        raise UsageError("secret: give a text, or a list of texts, none of them empty or with space around it")
    return [each.encode() for each in given]


def _header(headers: Mapping[str, str], name: str) -> str:
    """Return a header, whose name may be written in upper or lower case.

    Raises:
        WebhookVerificationError: it is missing.
    """
    found = next((value for each, value in headers.items() if each.lower() == name.lower()), "")
    if not found:
        raise WebhookVerificationError(f"the header {name} is missing")
    return found


def _digests(keys: Sequence[bytes], content: bytes) -> list[str]:
    return [hmac.new(key, content, hashlib.sha256).hexdigest() for key in keys]


def _require(expected: Sequence[str], given: Sequence[str], header: str) -> None:
    """Refuse a request of whose signatures none is one that we expect."""
    if not any(hmac.compare_digest(_raw(one), _raw(other)) for one in given for other in expected):
        raise WebhookVerificationError(f"{header}: no signature is one of this body with this secret")


def _require_lately(stamp: str, present: float, bound: float, header: str) -> None:
    """Refuse a request that was signed long ago, or in the future."""
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= webhooks.STAMP_DIGITS):
        raise WebhookVerificationError(f"{header}: {stamp!r} is no number of seconds")
    if abs(present - int(stamp)) > bound:
        raise WebhookVerificationError(
            f"{header}: {stamp} is more than {bound:g} s from {present:.0f}: an old request that is sent again, or a "
            "clock that is off"
        )


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _payload(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the object in a body that is JSON, or a form; where that has a field `payload`, the one in it.

    Raises:
        ValueError: it is neither. SerializationError: what it holds is no object.
    """
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if kind.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        text = body.decode("ascii")
        form = dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FORM_FIELDS))
        event = read_json(form["payload"]) if "payload" in form else form
    else:
        event = read_json(body.decode())
    if not isinstance(event, dict):
        raise SerializationError("it is no object")
    return event


def _text(event: object, name: str) -> str | None:
    value = event.get(name) if isinstance(event, Mapping) else None
    return value if isinstance(value, str) and value else None
