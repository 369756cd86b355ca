"""Reads what a message is to be from the headers that it is published with: those of QStash's API, version 2.

The same headers stand in requests, in the items of a batch, and, behind `Upstash-Callback-`, in what a message says of
its callback.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from perdure.dispatch.messages.message import RETRIES, Callback, FlowControl, Headers, Message, text_or_base64
from perdure.dispatch.messages.retry_delay import RetryDelay
from perdure.model.errors import UsageError

RETRIES_MOST = 100
"""How often a message may be tried again."""

TIMEOUT_MOST = 7_200.0
"""The longest timeout of an attempt, in seconds; one without a timeout of its own has it, too."""

DELAY_MOST = 3_650 * 86_400
"""How long a message may be put off, in seconds."""

PERIOD_MOST = 7 * 86_400
"""The longest period of a rate, in seconds."""

LIMIT_MOST = 1_000_000
"""The greatest parallelism, and the greatest rate."""

URL_LENGTH = 4_096
"""How many characters a destination may have."""

FORWARDED = 100
"""How many headers may be forwarded."""

HEADERS_LENGTH = 65_536
"""How many characters all publishing headers of a message may have together, names and values."""

CALLBACKS = 4
"""How deep callbacks of callbacks may stand."""

LABELS = 20
"""How many labels a message may carry."""

NAME = re.compile(r"[A-Za-z0-9_.-]{1,150}")
"""What names and keys of URL groups, queues, schedules, labels and flow control may be."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

FORWARD = "upstash-forward-"
"""What the names of headers begin with that are forwarded."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}

# What belongs to one connection, or says how a body travels: for the next connection, others hold.
_HOP = {
    "host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect",
    "accept-encoding", "content-encoding",
}  # fmt: skip
_PREFIX = "upstash-"
_CALLBACKS = (("failure-callback", "upstash-failure-callback"), ("callback", "upstash-callback"))
_EXTRA = ("upstash-workflow-", "upstash-feature-set")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([smhd])")
_NUMBER = re.compile(r"[0-9]{1,15}")
_REDACTED = re.compile(r"body|headers?|header\[[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}\]", re.IGNORECASE)


class Options(msgspec.Struct, frozen=True):
    """What headers say of a message.

    Attributes:
        message: it, without where it goes and what it carries.
        delay: by how many seconds it is put off.
        not_before: when it is due at the earliest, in seconds since the epoch; None for now. It wins over `delay`.
        deduplication_id: what it must not be published twice as; empty for nothing.
        is_deduplicated_by_content: what it says is what it must not be published twice as.
        cron, schedule_id: of the schedule that it is published by; empty for none.
    """

    message: Message
    delay: float = 0.0
    not_before: int | None = None
    deduplication_id: str = ""
    is_deduplicated_by_content: bool = False
    cron: str = ""
    schedule_id: str = ""

    def due_at(self, now: int) -> int:
        """Return when it is due, in milliseconds since the epoch, published at `now`."""
        return now + round(self.delay * 1000) if self.not_before is None else max(now, self.not_before * 1000)

    def fingerprint(self, message: Message) -> str:
        """Return what a message of these options says, hashed; QStash takes the same parts."""
        parts = [message.url, message.group, message.body, message.body_base64, sorted(message.headers)]
        return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def read(headers: Iterable[tuple[str, str]], depth: int = 0) -> Options:
    """Return what headers say of a message; names in upper and lower case are the same.

    Args:
        headers: names and values.
        depth: how many callbacks stand above the message.

    Raises:
        UsageError: one of them says what cannot be; it is named.
    """
    headers = list(headers)
    if (length := sum(len(name) + len(value) for name, value in headers)) > HEADERS_LENGTH:
        raise UsageError(f"headers: {length:,} characters, over {HEADERS_LENGTH:,} (HEADERS_LENGTH)")
    given: dict[str, str] = {}
    forwarded: dict[str, tuple[str, str]] = {}
    extra: Headers = []
    callbacks: dict[str, Headers] = {"callback": [], "failure-callback": []}
    for name, value in headers:
        lower = name.lower()
        if not lower.startswith(_PREFIX):
            if lower == "content-type":
                forwarded.setdefault(lower, (name, _value(name, value)))
        elif lower.startswith(FORWARD):
            _forward(name[len(FORWARD) :], value, forwarded)
        elif lower.startswith(_EXTRA):
            extra.append((_name(name, ""), _value(name, value)))
        elif (callback := _callback_of(lower)) is not None:
            what, length = callback
            callbacks[what].append((f"Upstash-{name[length:]}", value))
        else:
            given[lower] = value
    if len(forwarded) > FORWARDED:
        raise UsageError(f"Upstash-Forward-: {len(forwarded)} headers, over {FORWARDED}")
    return _options(given, list(forwarded.values()), extra, callbacks, depth)


def destination(url: str) -> SplitResult:
    """Return the parts of a destination.

    Raises:
        UsageError: it is no URL that a message can go to.
    """
    told = f"invalid destination url: {url[:200]!r}"
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > URL_LENGTH:
        raise UsageError(f"{told} must be ASCII without spaces, of at most {URL_LENGTH:,} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{told}: {error}") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise UsageError(f"{told} must begin with http:// or https://")
    if not parts.hostname or port == 0:
        raise UsageError(f"{told} names no host, or no port that can be")
    if "@" in parts.netloc:
        raise UsageError(
            "invalid destination url: it holds a user or a password; forward an Authorization header instead"
        )
    return parts


def with_body(message: Message, body: bytes) -> Message:
    """Return a message that carries a body."""
    text, encoded = text_or_base64(body)
    return msgspec.structs.replace(message, body=text, body_base64=encoded)


def duration(value: str, field: str, most: float) -> float:
    """Return how many seconds a text says, as in `1d10h30m`, `50s` or `50`.

    Raises:
        UsageError: it is none, or longer than `most`.
    """
    text = value.strip().lower()
    if _NUMBER.fullmatch(text):
        seconds = float(text)
    else:
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise UsageError(f"{field}: {value[:80]!r} is no duration, as in 10s, 5m, 2h or 1d12h")
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds > most:
        raise UsageError(f"{field}: {value[:80]!r} is longer than {most:,.0f} seconds")
    return seconds


def name(value: str, field: str) -> str:
    """Return a name, or a key.

    Raises:
        UsageError: it is none.
    """
    if not NAME.fullmatch(value):
        raise UsageError(f"{field}: {value[:80]!r} must be 1 to 150 of A-Z a-z 0-9 _ . -")
    return value


def _options(
    given: dict[str, str], forwarded: Headers, extra: Headers, callbacks: dict[str, Headers], depth: int
) -> Options:
    retries = _whole(given.get("upstash-retries", str(RETRIES)), "Upstash-Retries")
    if retries > RETRIES_MOST:
        raise UsageError(f"Upstash-Retries: quota maxRetries exceeded: {retries} is over {RETRIES_MOST}")
    retry_delay = given.get("upstash-retry-delay", "").strip()
    if retry_delay:
        RetryDelay(retry_delay)
    method = given.get("upstash-method", "POST").strip().upper()
    if method not in METHODS:
        raise UsageError(f"Upstash-Method: {method[:20]!r} must be one of {', '.join(METHODS)}")
    timeout = given.get("upstash-timeout")
    message = Message(
        url="",
        method=method,
        headers=forwarded,
        retries=retries,
        retry_delay=retry_delay,
        timeout=None if timeout is None else duration(timeout, "Upstash-Timeout", TIMEOUT_MOST) or None,
        callback=_callback(given, "callback", callbacks, depth),
        failure_callback=_callback(given, "failure-callback", callbacks, depth),
        labels=_labels(given.get("upstash-label", "")),
        flow_control=flow_control(given.get("upstash-flow-control-key"), given.get("upstash-flow-control-value")),
        queue=name(given["upstash-queue-name"], "Upstash-Queue-Name") if given.get("upstash-queue-name") else "",
        redacted=_redacted(given.get("upstash-redact-fields", "")),
        extra=extra,
    )
    not_before = given.get("upstash-not-before")
    id_ = given.get("upstash-deduplication-id", "")
    if ":" in id_:
        raise UsageError("DeduplicationId cannot contain ':'")
    if len(id_) > 500 or not id_.isprintable():
        raise UsageError("Upstash-Deduplication-Id: it must be printable text of at most 500 characters")
    schedule = given.get("upstash-schedule-id", "")
    return Options(
        message,
        delay=duration(given["upstash-delay"], "Upstash-Delay", DELAY_MOST) if given.get("upstash-delay") else 0.0,
        not_before=_whole(not_before, "Upstash-Not-Before") if not_before else None,
        deduplication_id=id_,
        is_deduplicated_by_content=given.get("upstash-content-based-deduplication", "").strip().lower() == "true",
        cron=given.get("upstash-cron", "").strip(),
        schedule_id=name(schedule, "Upstash-Schedule-Id") if schedule else "",
    )


def flow_control(key: str | None, value: str | None) -> FlowControl | None:
    """Return what `Upstash-Flow-Control-Key` and `-Value` say; None without a key.

    Raises:
        UsageError: one of them is none, or a value stands without a key.
    """
    field = "Upstash-Flow-Control-Value"
    if not key:
        if value:
            raise UsageError(f"{field}: there is no Upstash-Flow-Control-Key that it could be of")
        return None
    name(key, "Upstash-Flow-Control-Key")
    found: dict[str, Any] = {}
    for part in (value or "").split(","):
        what, _, number = (each.strip().lower() for each in part.partition("="))
        if what == "period":
            found["period"] = round(duration(number, f"{field}, period", PERIOD_MOST)) or 1
        elif what in ("parallelism", "rate"):
            found[what] = _whole(number, f"{field}, {what}")
            if found[what] > LIMIT_MOST:
                raise UsageError(f"{field}, {what}: {number} is over {LIMIT_MOST:,}")
        elif part.strip():
            raise UsageError(f"{field}: {part.strip()[:80]!r} is unknown; there are parallelism, rate and period")
    if not found.get("parallelism") and not found.get("rate"):
        raise UsageError(f"{field}: give parallelism=N, rate=N or both, each at least 1")
    return FlowControl(key, **found)


def _callback_of(lower: str) -> tuple[str, int] | None:
    """Return which callback a header is about, and how long its beginning is that says so."""
    for what, header in _CALLBACKS:
        if lower.startswith(f"{header}-"):
            return what, len(header) + 1
    return None


def _callback(given: dict[str, str], what: str, callbacks: dict[str, Headers], depth: int) -> Callback | None:
    url = given.get(f"upstash-{what}", "").strip()
    if not url:
        return None
    field = "Upstash-Callback" if what == "callback" else "Upstash-Failure-Callback"
    if depth == CALLBACKS:
        raise UsageError(f"{field}: callbacks of callbacks may stand {CALLBACKS} deep (CALLBACKS)")
    try:
        destination(url)
        read(callbacks[what], depth + 1)
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from None
    return Callback(url, callbacks[what])


def _forward(header: str, value: str, forwarded: dict[str, tuple[str, str]]) -> None:
    lower = header.lower()
    if lower in _HOP or lower.startswith("proxy-") or lower == "content-type":
        return
    forwarded[lower] = (_name(header, "Upstash-Forward-"), _value(header, value))


def _name(header: str, before: str) -> str:
    if not _HEADER_NAME.fullmatch(header):
        raise UsageError(f"{before}{header[:80]!r}: that is no name of a header")
    return header


def _value(header: str, value: str) -> str:
    """Return a header's value as it can be sent."""
    if any(sign < " " and sign != "\t" for sign in value) or "\x7f" in value:
        raise UsageError(f"{header[:80]}: its value holds a line break or another control character")
    return value.strip()


def _redacted(value: str) -> tuple[str, ...]:
    fields = tuple(dict.fromkeys(each.strip() for each in value.split(",") if each.strip()))
    for field in fields:
        if not _REDACTED.fullmatch(field):
            raise UsageError(f"Upstash-Redact-Fields: {field[:80]!r} is unknown; there are body, header, header[Name]")
    return fields


def _labels(value: str) -> tuple[str, ...]:
    labels = tuple(dict.fromkeys(each.strip() for each in value.split(",") if each.strip()))
    if len(labels) > LABELS:
        raise UsageError(f"Upstash-Label: {len(labels)} labels, over {LABELS}")
    return tuple(name(label, "Upstash-Label") for label in labels)


def _whole(value: str, field: str) -> int:
    text = value.strip()
    if not text.isascii() or not _NUMBER.fullmatch(text):
        raise UsageError(f"{field}: {value[:80]!r} must be a whole number, at least 0")
    return int(text)
