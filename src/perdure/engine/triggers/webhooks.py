"""Signed deliveries to URLs, and their verification where they arrive, after the Standard Webhooks specification.

A delivery has three headers: `webhook-id`, the same for every attempt; `webhook-timestamp`, seconds since the epoch
when the attempt was made; and `webhook-signature`, `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`, once
for each secret, separated by spaces. So a secret is changed in two steps: the sender signs with both, then with the new
one.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import ssl
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from perdure.authoring import flow
from perdure.authoring.context import current_trace
from perdure.authoring.triggers import Webhook, secrets_of
from perdure.authoring.workflow import Workflow
from perdure.engine.env import SystemEnv
from perdure.engine.lifecycle import DELIVERY, LifecycleEvent
from perdure.engine.triggers.events import client_of_step
from perdure.model import codec
from perdure.model.duration import Duration, seconds
from perdure.model.errors import DefinitionError, NonRetryableError, StepError, UsageError, WebhookVerificationError
from perdure.tasks.addresses import AddressRefusedError, Guard
from perdure.tasks.answers import HttpError

if TYPE_CHECKING:
    from perdure.tasks.door import Door

TOLERANCE: Duration = "5 minutes"
"""How far a delivery's timestamp may be from the receiver's clock, either way."""

STAMP_DIGITS = 15
"""How long a timestamp is at most."""

GONE = 410
"""The status code by which a receiver says that it wants no more: the delivery is not tried again."""


class DeliveryError(StepError):
    """A delivery was not taken: there was no answer, or not one that says so."""


def signature(secrets: Sequence[bytes], delivery_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header of a delivery: one signature for each secret."""
    content = _raw(f"{delivery_id}.{timestamp}.") + body
    digests = (hmac.new(secret, content, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def signed_headers(secrets: Sequence[bytes], delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers by which a receiver knows a delivery: the one place that says how deliveries are signed."""
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secrets, delivery_id, timestamp, body),
    }


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: Duration = TOLERANCE,
    now: float | None = None,
) -> Any:
    """Return what a delivery says, as plain JSON data, if it was signed with the secret, and lately.

    Args:
        body: as it arrived, byte for byte.
        headers: of the request; upper and lower case make no difference.
        secret: the secret, or several of which one is enough while they are changed.
        tolerance: how far the timestamp may be from the present, either way (a duration).
        now: the present, in seconds since the epoch; this machine's clock by default.

    Raises:
        WebhookVerificationError: it was not, or a header is missing.
        UsageError: a secret is none.
    """
    secrets = secrets_of(secret)
    given = {name.lower(): value for name, value in headers.items()}
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    if missing := [name for name in names if not given.get(name)]:
        raise WebhookVerificationError(f"the header {missing[0]} is missing")
    delivery_id, stamp, signatures = (given[name] for name in names)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= STAMP_DIGITS):
        raise WebhookVerificationError(f"webhook-timestamp: {stamp!r} is no number of seconds")
    raw = body.encode() if isinstance(body, str) else body
    expected = signature(secrets, delivery_id, int(stamp), raw).split()
    if not any(hmac.compare_digest(_raw(one), _raw(other)) for one in signatures.split() for other in expected):
        raise WebhookVerificationError("no signature is one of this body, id and timestamp with this secret")
    present = SystemEnv().local() / 1000 if now is None else now
    if abs(present - int(stamp)) > seconds(tolerance, field="tolerance"):
        raise WebhookVerificationError(
            f"webhook-timestamp: {stamp} is more than {seconds(tolerance):g} s from {present:.0f}: an old delivery "
            "that is sent again, or a clock that is off"
        )
    return codec.decode_any(raw.decode(errors="replace"))


def _raw(text: str) -> bytes:
    """Return a header's bytes; servers give those that are no UTF-8 as surrogates."""
    return text.encode(errors="surrogatepass")


def require_http() -> None:
    """Refuse to promise deliveries without the library that makes them.

    Raises:
        DefinitionError: it is not installed.
    """
    if find_spec("httpx") is None:
        raise DefinitionError("webhooks are delivered with httpx, which is not installed; install perdure[http]")


def delivery_workflow(webhook: Webhook) -> Workflow[..., Any]:
    """Return the workflow whose runs are a webhook's deliveries.

    Raises:
        UsageError: its URL names an address that is refused, or its `allow` is wrong.
    """
    guard = Guard(webhook.allow) if webhook.guard else None
    if guard is not None:
        _require_permitted(guard, webhook.url)

    @functools.cache
    def door() -> Door:
        return _door(guard)

    async def attempt(event: LifecycleEvent) -> int:
        return await _deliver(door(), webhook, event)

    async def deliver(event: LifecycleEvent) -> int:
        return await flow.do("deliver", attempt, event, retry=webhook.retry, timeout=webhook.timeout)

    return Workflow(deliver, name=f"{DELIVERY}{webhook.name}", local_names={"LifecycleEvent": LifecycleEvent})


def _require_permitted(guard: Guard, url: str) -> None:
    try:
        guard.check_number((urlsplit(url).hostname or "").strip("[]"))
    except AddressRefusedError as error:
        raise UsageError(f"url: {error}") from None


def _door(guard: Guard | None) -> Door:
    """Return the way out for deliveries: no redirects, and no bodies of answers."""
    from perdure.tasks.door import Door  # noqa: PLC0415  # it needs httpx, and only who has webhooks needs that

    return Door(guard, None, None, _certificates())


@functools.cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _deliver(door: Door, webhook: Webhook, event: LifecycleEvent) -> int:
    """Send an event to a webhook's URL and return the status code of the answer."""
    from perdure.tasks.door import HttpTimeouts, Request  # noqa: PLC0415  # see above

    body = msgspec.json.encode(event)
    headers = {"content-type": "application/json"} | signed_headers(
        webhook.secrets, flow.run_id(), client_of_step().env.now() // 1000, body
    )
    if (trace := current_trace.get()) is not None:
        headers["traceparent"] = trace
    request = Request("POST", webhook.url, headers, None, body)
    try:
        answer = await door.send(request, HttpTimeouts(webhook.timeout, webhook.timeout, webhook.timeout))
    except HttpError as error:
        raise DeliveryError(f"webhook {webhook.name!r}: {error}") from None
    if 200 <= answer.status < 300:
        return answer.status
    told = f"webhook {webhook.name!r} answered {answer.status}"
    if answer.status == GONE:
        raise NonRetryableError(f"{told}: it wants no more deliveries")
    raise DeliveryError(told)
