"""A real mail server for tests: it takes what comes, unless a test has it say something else, and keeps it."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult


@dataclass
class Mail:
    sender: str
    recipients: list[str]
    message: EmailMessage


class PostOffice:
    """See aiosmtpd's handlers.

    Attributes:
        mails: what it took.
        says: what it answers to a message, each once; then it takes it.
        unknown: addresses that it takes nothing for, each with what it says.
        logins: who logged in, with which password.
    """

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.says: list[str] = []
        self.refused: list[str] = []
        self.unknown: dict[str, str] = {}
        self.logins: list[tuple[str, str]] = []
        self.port = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address in self.unknown:
            return self.unknown[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = cast(EmailMessage, email.message_from_bytes(envelope.content, policy=email.policy.default))
        if self.says:
            self.refused.append(str(message["Message-ID"]))
            return self.says.pop(0)
        self.mails.append(Mail(envelope.mail_from, envelope.rcpt_tos, message))
        return "250 OK"

    def authenticator(self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        user, password = login.login.decode(), login.password.decode()
        self.logins.append((user, password))
        return AuthResult(success=password == "right", handled=False)


@asynccontextmanager
async def post_office(
    *, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[PostOffice]:
    office = PostOffice()

    def connect() -> SMTP:
        return SMTP(
            office,
            hostname="localhost",
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=office.authenticator,
            auth_require_tls=False,
            enable_SMTPUTF8=True,
            decode_data=False,
            loop=asyncio.get_running_loop(),
        )

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0, ssl=tls)
    office.port = server.sockets[0].getsockname()[1]
    try:
        yield office
    finally:
        server.close()
        await server.wait_closed()
