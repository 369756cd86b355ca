"""What is asked of a server, how often, and what its answers mean: pure, so that both clients ask alike.

What the publisher can do is written once, as *plans*: generators that yield requests and are sent the answers. The two
clients (`links.py`) differ in nothing but how they send a request and how they wait.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from perdure.model.errors import PublishError, PublishRefusedError

T = TypeVar("T")

PASSING = (429, 502, 503, 504)
"""Statuses of what may be asked for again."""

_MAY_PASS = (408, 425, 429)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_TOLD = 500
_ITEM = re.compile(r"(?:batch)?\[(\d+)\]: ")
_OPTIONS = {
    "method": "method",
    "delay": "delay",
    "not-before": "not_before",
    "retries": "retries",
    "retry-delay": "retry_delay",
    "timeout": "timeout",
    "deduplication-id": "dedup_id",
    "content-based-deduplication": "dedup_by_content",
    "callback": "callback",
    "failure-callback": "failure_callback",
    "label": "labels",
    "flow-control-key": "flow_control",
    "flow-control-value": "flow_control",
    "queue-name": "queue",
    "redact-fields": "redact",
    "forward-": "headers",
    "cron": "cron",
    "schedule-id": "id",
}
_HEADER = re.compile(r"Upstash-([A-Za-z-]+)", re.IGNORECASE)
_SAID = {
    "invalid destination url": "url",
    "deduplicationid": "dedup_id",
    "retry delay": "retry_delay",
    "tz:": "tz",
    "queue:": "queue",
}


class Request(NamedTuple):
    """What is asked.

    Attributes:
        method, path: of the request; the path is quoted already, and holds the query of a destination in it.
        query: of the request.
        headers: besides those that every request has.
        content: the body.
        may_repeat: whether a second time has no second effect.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    may_repeat: bool = True


class Answer(NamedTuple):
    """What a server said.

    Attributes:
        status: the status code.
        content: the body.
        after: for how many seconds it is not to be asked again.
        at: when it came, in seconds of a clock that never goes back.
    """

    status: int
    content: bytes
    after: float = 0.0
    at: float = 0.0

    @property
    def is_passing(self) -> bool:
        """Whether asking again may bring another answer."""
        return self.status in PASSING

    @property
    def has_done_nothing(self) -> bool:
        """Whether what was asked for certainly did not happen."""
        return self.status == 429

    @property
    def is_final(self) -> bool:
        """Whether the same is refused at any other time too."""
        return (self.status < 500 and self.status not in _MAY_PASS) or self.status == 501

    def read(self, kind: Any) -> Any:
        """Return what it says, as a value of a type.

        Raises:
            PublishError: it says something else.
        """
        try:
            return msgspec.json.decode(self.content, type=kind)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise PublishError(f"the server's answer is none of the message API: {error}", self.status) from None

    def read_each(self, kind: Any, number: int) -> Any:
        """Return what it says of so many things, as a list of values of a type.

        Raises:
            PublishError: it says something else.
        """
        found: list[Any] = self.read(list[kind])
        if len(found) != number:
            told = f"the server's answer is none of the message API: it speaks of {len(found)} messages, not {number}"
            raise PublishError(told, self.status)
        return found


class Lost(NamedTuple):
    """No answer came.

    Attributes:
        reason: why, as it is told.
        at: when that was known, in seconds of a clock that never goes back.
        is_passing: asking again may bring an answer.
        has_done_nothing: what was asked for certainly did not happen.
        after: as an answer has it: 0.
    """

    reason: str
    at: float = 0.0
    is_passing: bool = True
    has_done_nothing: bool = False
    after: float = 0.0


class Rest(NamedTuple):
    """Wait for so many seconds."""

    seconds: float


Plan = Generator[Request, Answer, T]
"""What is asked, one after the other, and what comes of it."""

Steps = Generator[Request | Rest, Answer | Lost | None, T]
"""The same, with what has to be asked again."""


class Pages(Generic[T]):
    """What is on pages, and how to get the next one.

    Args:
        request: for the first page, or, with `cursor` in its query, for that place.
        read: takes what is on a page, and where the next one begins, from an answer.

    Attributes:
        found: what was got and not taken yet.
        cursor: where the next page begins; empty at the end.
    """

    def __init__(self, request: Request, read: Callable[[Answer], tuple[list[T], str]]) -> None:
        self.found: deque[T] = deque()
        self.cursor = ""
        self._request = request
        self._read = read
        self._is_over = False

    @property
    def are_more_asked_for(self) -> bool:
        """Whether nothing is at hand, and there may be more."""
        return not self.found and not self._is_over

    def take(self) -> list[T]:
        """Return what is at hand, and have it no more."""
        taken = list(self.found)
        self.found.clear()
        return taken

    def ask(self) -> Plan[None]:
        """Get the next page. A page may be empty, and another one follow."""
        asked = self.cursor
        query = [(name, value) for name, value in self._request.query if name != "cursor" or not asked]
        if asked:
            query.append(("cursor", asked))
        answer = yield self._request._replace(query=tuple(query))
        found, self.cursor = self._read(answer)
        self.found.extend(found)
        self._is_over = not self.cursor or self.cursor == asked


def patiently(plan: Plan[T], server: str, patience: float, roll: Callable[[], float]) -> Steps[T]:
    """Return a plan with each request repeated where it failed for a reason that passes.

    Args:
        plan: what is asked.
        server: which one, as it is told.
        patience: for how many seconds after its first failure a request is begun again.
        roll: gives a random number from 0 to 1.

    Raises:
        PublishError: the server refuses something, or did not answer in time.
    """
    answer: Answer | None = None
    refused: PublishError | None = None
    while True:
        try:
            if refused is not None:
                request = plan.throw(refused)
            else:
                request = next(plan) if answer is None else plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's end has no type
        try:
            answer, refused = (yield from _asked(request, server, patience, roll)), None
        except PublishError as error:
            refused = error


def _asked(request: Request, server: str, patience: float, roll: Callable[[], float]) -> Steps[Answer]:
    failures, first_at, is_in_doubt = 0, 0.0, False
    while True:
        came = yield request
        assert came is not None
        if isinstance(came, Answer):
            if 200 <= came.status < 300:
                return came
            if came.status == 404 and request.method == "DELETE" and is_in_doubt:
                return came._replace(content=b"{}")  # it was there, and the answer that said so was lost
        failures += 1
        first_at = first_at if failures > 1 else came.at
        rest = max(_pause_after(failures, roll()), came.after)
        may_again = came.is_passing and (request.may_repeat or came.has_done_nothing)
        if not may_again or came.at + rest - first_at > patience:
            raise _error_of(came, server)
        is_in_doubt = is_in_doubt or not came.has_done_nothing
        yield Rest(rest)


def _pause_after(failures: int, roll: float) -> float:
    """Return how many seconds to wait after so many failures: longer and longer, and never in step with others."""
    return min(_FIRST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE) * (0.25 + roll)


def _error_of(came: Answer | Lost, server: str) -> PublishError:
    if isinstance(came, Lost):
        return PublishError(f"{server}: {came.reason}")
    said = _said(came.content)
    item = _ITEM.match(said)
    said = said[item.end() :] if item else said
    option = _option_of(said)
    field = f"messages[{item[1]}]{option and '.'}{option}" if item else option
    advice = {
        401: "; give token, or set QSTASH_TOKEN or PERDURE_API_KEY",
        404: "" if said else "; see that the URL is that of a server that takes messages",
    }.get(came.status, "")
    told = said or f"it answers with status {came.status}"
    kind = PublishRefusedError if came.is_final else PublishError
    named = f"{field}: " if field and not told.startswith(f"{field}:") else ""
    return kind(f"{server}: {named}{told}{advice}", came.status, field)


def _said(content: bytes) -> str:
    """Return what the body of a refusal says: QStash's form, a problem document, or text."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeError):
        text = content.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text[:_TOLD]
    if isinstance(found, dict):
        for name in ("error", "detail", "message", "title"):
            if isinstance(found.get(name), str) and found[name]:
                return str(found[name])[:_TOLD]
    return ""


def _option_of(said: str) -> str:
    """Return the option that the text of a refusal begins with; empty where it begins with none."""
    header = _HEADER.match(said)
    if header is not None:
        return _OPTIONS.get(header[1].lower(), "")
    return next((option for beginning, option in _SAID.items() if said.lower().startswith(beginning)), "")
