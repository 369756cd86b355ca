"""What is asked of a server, how often, and what its answers mean: pure, so that both clients ask alike.

What the publisher can do is written once, as *plans*: generators that yield requests and are sent the answers. The two
clients (`links.py`) differ in nothing but how they send a request and how they wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

import msgspec

from perdure.model.errors import PublishError
from perdure.publisher.naming import option_of

T = TypeVar("T")

PASSING = (429, 502, 503, 504)
"""Statuses of what may be asked for again."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_TOLD = 500
_ITEM = re.compile(r"(?:batch)?\[(\d+)\]: ")


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

    def read(self, kind: Any) -> Any:
        """Return what it says, as a value of a type.

        Raises:
            PublishError: it says something else.
        """
        try:
            return msgspec.json.decode(self.content, type=kind)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise PublishError(f"the server's answer is none of the message API: {error}", self.status) from None


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
    option = option_of(said)
    field = f"messages[{item[1]}]{option and '.'}{option}" if item else option
    advice = {
        401: "; give token, or set QSTASH_TOKEN or PERDURE_API_KEY",
        404: "" if said else "; see that the URL is that of a server that takes messages",
    }.get(came.status, "")
    told = said or f"it answers with status {came.status}"
    return PublishError(f"{server}: {f'{field}: ' if field else ''}{told}{advice}", came.status, field)


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
