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
import heapq
import hmac
import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
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

REPLAYS = 100_000
"""How many deliveries `Replays` remembers at once."""

_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")

GONE = 410
"""The status code by which a receiver says that it wants no more: the delivery is not tried again."""


class DeliveryError(StepError):
    """A delivery was not taken: there was no answer, or not one that says so."""


def signature(secrets: Sequence[bytes], delivery_id: str, timestamp: int | str, body: bytes) -> str:
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


class Replays:
    """Knows which deliveries were taken lately in this process, so that nobody can send one of them once more.

    A delivery that its sender tries again has the same id, and another timestamp: that is no replay, but who acts on
    deliveries should do so once for an id. From several threads at once.

    Args:
        most: how many are remembered at once, each for as long as its timestamp is within the tolerance.
    """

    def __init__(self, most: int = REPLAYS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._taken: set[tuple[str, int]] = set()
        self._ends: list[tuple[float, str, int]] = []

    def take(self, delivery_id: str, timestamp: int, until: float, present: float) -> None:
        """Remember a delivery until a time, in seconds since the epoch.

        Raises:
            WebhookVerificationError: it was taken before, or too many are remembered.
        """
        with self._lock:
            while self._ends and self._ends[0][0] < present:
                _, *gone = heapq.heappop(self._ends)
                self._taken.discard((gone[0], gone[1]))
            if (delivery_id, timestamp) in self._taken:
                raise WebhookVerificationError(f"{delivery_id!r} of {timestamp} was taken before: somebody repeats it")
            if len(self._ends) >= self._most:
                raise WebhookVerificationError(
                    f"more than {self._most:,} deliveries came within the tolerance: allow more, Replays(most=...)"
                )
            self._taken.add((delivery_id, timestamp))
            heapq.heappush(self._ends, (until, delivery_id, timestamp))


def verify(
    body: bytes | str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    secret: str | Sequence[str],
    *,
    tolerance: Duration = TOLERANCE,
    replays: Replays | None = None,
    now: float | None = None,
) -> Any:
    """Return what a delivery says, as plain JSON data, if it was signed with the secret, and lately.

    Args:
        body: as it arrived, byte for byte.
        headers: of the request, or pairs of their names and values; upper and lower case make no difference.
        secret: the secret, or several of which one is enough while they are changed.
        tolerance: how far the timestamp may be from the present, either way (a duration).
        replays: remembers what was taken, so that the same is not taken again within the tolerance; None takes it.
        now: the present, in seconds since the epoch; this machine's clock by default.

    Raises:
        WebhookVerificationError: it was not, a header is missing or there twice, or it was taken before.
        UsageError: a secret is none.
    """
    secrets = secrets_of(secret)
    delivery_id, stamp, signatures = _given(headers)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= STAMP_DIGITS):
        raise WebhookVerificationError(f"webhook-timestamp: {stamp!r} is no number of seconds")
    raw = body.encode() if isinstance(body, str) else body
    expected = signature(secrets, delivery_id, stamp, raw).split()
    if not any(hmac.compare_digest(_raw(one), _raw(other)) for one in signatures.split() for other in expected):
        raise WebhookVerificationError("no signature is one of this body, id and timestamp with this secret")
    present, near = SystemEnv().local() / 1000 if now is None else now, seconds(tolerance, field="tolerance")
    if abs(present - int(stamp)) > near:
        raise WebhookVerificationError(
            f"webhook-timestamp: {stamp} is more than {near:g} s from {present:.0f}: an old delivery "
            "that is sent again, or a clock that is off"
        )
    said = codec.decode_any(raw.decode(errors="replace"))
    if replays is not None:
        replays.take(delivery_id, int(stamp), int(stamp) + near, present)
    return said


def _given(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[str]:
    """Return the values of the three headers, each of which is there once."""
    values: dict[str, list[str]] = {name: [] for name in _HEADERS}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if (lower := name.lower()) in values:
            values[lower].append(value)
    for name, found in values.items():
        if not any(found):
            raise WebhookVerificationError(f"the header {name} is missing")
        if len(found) > 1:
            raise WebhookVerificationError(f"the header {name} is there {len(found)} times")
    return [found[0] for found in values.values()]


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
