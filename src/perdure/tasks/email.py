"""`email.send`: a message through a mail server."""

from __future__ import annotations

import base64
import binascii
import email.utils
import functools
import hashlib
import re
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, Literal

import aiosmtplib
import msgspec

from perdure.authoring import flow
from perdure.authoring.context import current_step
from perdure.authoring.task import Task
from perdure.model.duration import Duration, seconds
from perdure.model.errors import NonRetryableError, StepError, UsageError
from perdure.model.retry import Retry
from perdure.tasks.checking import raised

EMAIL_RECIPIENTS = 100
"""How many addresses one message may go to."""

EMAIL_RETRY = Retry(attempts=6, delay="2s")

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_KIND = re.compile(r"([A-Za-z0-9.+-]+)/([A-Za-z0-9.+-]+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Headers that the task writes itself, or that a server does.
_OURS = re.compile(
    r"(from|sender|to|cc|bcc|reply-to|subject|date|message-id|return-path|received|mime-version|content-.*|resent-.*)",
    re.IGNORECASE,
)


_SAYS_NOTHING = "text, html: the message says nothing; give one of them"
_FROM_NOBODY = "sender: nobody is named, here or in MailServer(sender=...)"


@dataclass(frozen=True, slots=True)
class MailServer:
    """A server that takes mail.

    Args:
        host, port: where; by default the port that `tls` is usually spoken on (587, 465 or 25).
        user, password: to log in with; None for none.
        tls: `"starttls"` (a plain connection, made secure or given up), `"tls"` (secure from the start) or `"none"`.
        timeout: for each exchange with the server (a duration).
        sender: who messages are from that name nobody.
        context: how certificates are checked; by default as Python does.

    Raises:
        UsageError: a value is out of its range.
    """

    host: str = "localhost"
    port: int | None = None
    user: str | None = None
    password: str | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    timeout: Duration = 30.0
    sender: str | None = None
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.tls not in _PORTS:
            raise UsageError(f"server.tls: {self.tls!r} must be 'starttls', 'tls' or 'none'")
        if (self.user is None) != (self.password is None):
            raise UsageError("server.user, server.password: give both, or none")
        if seconds(self.timeout, field="server.timeout") == 0:
            raise UsageError("server.timeout: 0 seconds are too few")
        if self.sender is not None:
            _addresses(self.sender, "server.sender", UsageError)

    def __repr__(self) -> str:
        return f"MailServer({self.host!r}, {self.port or _PORTS[self.tls]}, tls={self.tls!r})"


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that goes with a message.

    Attributes:
        name: the file's name.
        content: its content, in base64.
        type: its content type.
    """

    name: str
    content: str
    type: str = "application/octet-stream"


class SentEmail(msgspec.Struct, frozen=True):
    """A message that the server took.

    Attributes:
        message_id: the same for every attempt of this step, so that a message which came twice can be told.
        recipients: whom the server took it for.
        refused: whom it did not take it for, with what it said.
    """

    message_id: str
    recipients: list[str]
    refused: dict[str, str]


class EmailError(StepError):
    """A message was not sent, and may be on another attempt."""


class EmailRefusedError(NonRetryableError):
    """A message cannot be sent as it is given, or the server refused it for good."""


def email_send_task(
    server: MailServer, *, name: str = "email.send", queue: str = "default", retry: Retry = EMAIL_RETRY
) -> Task[..., SentEmail]:
    """Return a task that sends messages.

    Args:
        server: through which server.
        name: the task's name.
        queue, retry: of the task.
    """

    async def email_send(
        to: str | list[str],
        subject: str,
        text: str | None = None,
        html: str | None = None,
        cc: str | list[str] | None = None,
        bcc: str | list[str] | None = None,
        sender: str | None = None,
        reply_to: str | list[str] | None = None,
        attachments: list[Attachment] | None = None,
        headers: dict[str, str] | None = None,
    ) -> SentEmail:
        """Send a message.

        Args:
            to, cc, bcc: addresses: `"ada@example.org"`, `"Ada <ada@example.org>"`, several by commas or as a list.
            subject: its subject.
            text, html: what it says; of both, the reader's program shows what it can.
            sender: who it is from; by default the server's `sender`.
            reply_to: where answers go.
            attachments: files that go with it.
            headers: more headers.

        Raises:
            EmailError: it was not sent, and is tried again. EmailRefusedError: it cannot be sent.
        """
        if text is None and html is None:
            raise EmailRefusedError(_SAYS_NOTHING)
        from_ = sender or server.sender
        if not from_:
            raise EmailRefusedError(_FROM_NOBODY)
        senders = _addresses(from_, "sender")
        groups = {"To": _addresses(to, "to"), "Cc": _addresses(cc, "cc"), "Bcc": _addresses(bcc, "bcc")}
        recipients = list(dict.fromkeys(each.addr_spec for group in groups.values() for each in group))
        if len(senders) != 1 or not recipients or len(recipients) > EMAIL_RECIPIENTS:
            raise EmailRefusedError(f"sender, to: a message is from one and goes to 1 to {EMAIL_RECIPIENTS} addresses")
        message = EmailMessage(policy=SMTP)
        message["From"] = senders
        for title in ("To", "Cc"):
            if groups[title]:
                message[title] = groups[title]
        if reply_to:
            message["Reply-To"] = _addresses(reply_to, "reply_to")
        message["Subject"] = _line(subject, "subject")
        message["Date"] = email.utils.localtime()  # of this attempt: a step's body may look at the clock
        message["Message-ID"] = _message_id(senders[0].domain)
        for title, value in (headers or {}).items():
            message[title] = _header(title, value)
        _fill(message, text, html, attachments or [])
        return await _deliver(server, message, senders[0].addr_spec, recipients)

    return Task.of(email_send, name=name, queue=queue, retry=retry, check=functools.partial(_flaws, server))


def _flaws(server: MailServer, known: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with a message before it is sent; see `perdure.authoring.workflow.Check`."""
    if not {"text", "html"} & set(given):
        yield _SAYS_NOTHING
    if "sender" not in given and not server.sender:
        yield _FROM_NOBODY
    for field in ("to", "cc", "bcc", "sender", "reply_to"):
        yield from raised(_addresses, known.get(field), field)
    yield from raised(_line, known.get("subject", ""), "subject")
    for title, value in (known.get("headers") or {}).items():
        yield from raised(_header, title, value)
    for number, attachment in enumerate(known.get("attachments") or []):
        yield from raised(_file, attachment, f"attachments[{number}]")


def _fill(message: EmailMessage, text: str | None, html: str | None, attachments: Sequence[Attachment]) -> None:
    if text is not None:
        message.set_content(text)
    if html is not None and text is not None:
        message.add_alternative(html, subtype="html")
    elif html is not None:
        message.set_content(html, subtype="html")
    for number, attachment in enumerate(attachments):
        content, kind, subtype = _file(attachment, f"attachments[{number}]")
        message.add_attachment(content, maintype=kind, subtype=subtype, filename=attachment.name)


def _file(attachment: Attachment, where: str) -> tuple[bytes, str, str]:
    """Return the content of an attachment, and both parts of its type."""
    kind = _KIND.fullmatch(attachment.type)
    if kind is None or kind[1].lower() in ("message", "multipart"):
        raise EmailRefusedError(f"{where}.type: {attachment.type!r} is no type of a file, as application/pdf is")
    _line(attachment.name, f"{where}.name")
    try:
        return base64.b64decode(attachment.content, validate=True), kind[1], kind[2]
    except (binascii.Error, ValueError) as error:
        raise EmailRefusedError(f"{where}.content is no base64: {error}") from None


def _header(title: str, value: str) -> str:
    if not _NAME.fullmatch(title) or _OURS.fullmatch(title):
        raise EmailRefusedError(f"headers: {title!r} is no header that can be given")
    return _line(value, f"headers.{title}")


async def _deliver(server: MailServer, message: EmailMessage, sender: str, recipients: list[str]) -> SentEmail:
    try:
        refused, _ = await aiosmtplib.send(
            message,
            sender=sender,
            recipients=recipients,
            hostname=server.host,
            port=server.port or _PORTS[server.tls],
            username=server.user,
            password=server.password,
            use_tls=server.tls == "tls",
            start_tls=server.tls == "starttls",
            tls_context=server.context,
            timeout=seconds(server.timeout),
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        said = "; ".join(f"{each.recipient}: {each.code} {each.message}" for each in error.recipients)
        is_temporary = any(each.code < 500 for each in error.recipients)
        raise _failed(is_temporary, f"{server.host} took the message for nobody: {said}") from error
    except aiosmtplib.SMTPResponseException as error:
        raise _failed(error.code < 500, f"{server.host} answered {error.code} {error.message}") from error
    except aiosmtplib.SMTPNotSupported as error:
        raise EmailRefusedError(f"{server.host} cannot do what is needed: {error.message}") from error
    except (aiosmtplib.SMTPException, OSError) as error:
        raise EmailError(f"{server.host}: {str(error) or type(error).__name__}") from error
    said_no = {address: f"{answer.code} {answer.message}" for address, answer in refused.items()}
    taken = [address for address in recipients if address not in said_no]
    return SentEmail(str(message["Message-ID"]), taken, said_no)


def _failed(is_temporary: bool, message: str) -> StepError:
    return EmailError(message) if is_temporary else EmailRefusedError(message)


def _message_id(domain: str) -> str:
    if current_step.get() is None:
        return email.utils.make_msgid(domain=domain)
    return f"<{hashlib.sha256(flow.idempotency_key().encode()).hexdigest()[:32]}@{domain}>"


def _line(text: str, field: str) -> str:
    """Return a text that a header can hold.

    Raises:
        EmailRefusedError: it holds a line break, by which it could become two headers, or another control character.
    """
    if _CONTROL.search(text):
        raise EmailRefusedError(f"{field}: {text[:80]!r} holds a line break or another control character")
    return text


def _addresses(
    given: str | list[str] | None, field: str, refusal: type[NonRetryableError | UsageError] = EmailRefusedError
) -> list[Address]:
    """Return the addresses of a field.

    Raises:
        EmailRefusedError, or `refusal`: one of them is none.
    """
    found: list[Address] = []
    for text in [given] if isinstance(given, str) else given or []:
        try:
            parsed = None if _CONTROL.search(text) else SMTP.header_factory("to", text)
        except Exception:  # Python's own parser stumbles over some texts, such as "ada@"
            parsed = None
        if parsed is None or parsed.defects or not parsed.addresses:
            raise refusal(f"{field}: {text[:80]!r} is no address; write ada@example.org or Ada <ada@example.org>")
        for each in parsed.addresses:
            try:
                domain = each.domain.encode("idna").decode("ascii")
            except UnicodeError:
                raise refusal(f"{field}: {text[:80]!r} has a domain that is no name") from None
            found.append(Address(each.display_name, each.username, domain))
    return found


email_send = email_send_task(MailServer(tls="none"))
