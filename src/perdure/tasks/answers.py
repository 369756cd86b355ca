"""What becomes of a request over HTTP: an answer, or one of the errors that say whether to try again."""

from __future__ import annotations

import base64
import codecs
import email.message
import email.utils
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from perdure.model.errors import NonRetryableError, RetryAfterError, StepError

HTTP_RETRY_AFTER = 3_600.0
"""The longest `Retry-After`, in seconds, that is honoured; a longer one counts as this."""

_NO_CHARSETS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"}
_RETRIED = {408, 425, 429}
_TOLD = 500


class HttpAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a server answered.

    Attributes:
        status, headers: the status code, and the headers, their names in lower case.
        url: where it came from, after redirects.
        json: the body, if it is JSON.
        text: the body, if it is another text.
        base64: the body, if it is neither.
    """

    status: int
    url: str
    headers: dict[str, str]
    json: Any = None
    text: str | None = None
    base64: str | None = None


class HttpError(StepError):
    """A request came to nothing: no connection, no answer in time, or an answer worth another attempt."""


class HttpStatusError(NonRetryableError):
    """A server refused a request, and would refuse it again."""


class HttpRequestError(NonRetryableError):
    """A request cannot be made as it is given, or its answer cannot be used."""


def answer_of(status: int, url: str, headers: Mapping[str, str], raw: bytes) -> HttpAnswer:
    """Return an answer, its body as what it is.

    Raises:
        HttpRequestError: it is said to be JSON, and is none.
    """
    about = email.message.Message()
    about["content-type"] = headers.get("content-type", "")
    kind = about.get_content_type()
    json, text, encoded = None, None, None
    if raw and (kind == "application/json" or kind.endswith("+json")):
        try:
            json = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            if status < 400:
                raise HttpRequestError(f"{shown(url)}: the answer is no JSON: {error}") from None
            text = raw.decode(errors="replace")
    else:
        try:
            text = raw.decode(_charset(about.get_content_charset()))
        except (UnicodeDecodeError, LookupError):
            encoded = base64.b64encode(raw).decode()
    return HttpAnswer(status, url, dict(headers), json, text, encoded)


def _charset(named: str | None) -> str:
    """Return Python's name of a character set that texts are written in.

    Raises:
        LookupError: it is unknown, or one of Python's own, some of which take minutes over a text made for that.
    """
    name = codecs.lookup(named or "utf-8").name
    if name in _NO_CHARSETS:
        raise LookupError(name)
    return name


def refusal_of(method: str, answer: HttpAnswer, retry_on: Sequence[int] | None) -> StepError:
    """Return the error of an answer that is none."""
    told = answer.text or ("" if answer.json is None else msgspec.json.encode(answer.json).decode())
    message = f"{method} {shown(answer.url)} answered {answer.status}" + (f": {told[:_TOLD]}" if told else "")
    is_retried = answer.status in _RETRIED or answer.status >= 500 if retry_on is None else answer.status in retry_on
    if not is_retried:
        return HttpStatusError(message)
    after = retry_after(answer.headers)
    return HttpError(message) if after is None else RetryAfterError(message, min(after, HTTP_RETRY_AFTER))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait; a date counts from the answer's own. None where it asks nothing.

    Args:
        headers: of the answer, their names in lower case.
    """
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text[:10])
    try:
        until = email.utils.parsedate_to_datetime(text)
        return max(0.0, (until - email.utils.parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, TypeError, KeyError):
        return None


def shown(url: str) -> str:
    """Return a URL as errors may tell it: without query and password, which hold secrets."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"[:_TOLD]
