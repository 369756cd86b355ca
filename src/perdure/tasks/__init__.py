"""Tasks that come along: HTTP requests, e-mail, PDFs, data.

An application adds those that it uses: `app.add(http_request, data_transform)`. Each needs its own library, which is
loaded when the task is first named: `pip install 'perdure[http,email,pdf]'`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from perdure.model.errors import UsageError

if TYPE_CHECKING:
    from perdure.authoring.task import Task
    from perdure.tasks.addresses import AddressRefusedError
    from perdure.tasks.answers import HttpAnswer, HttpError, HttpRequestError, HttpStatusError
    from perdure.tasks.data import DataExpressionError, data_transform
    from perdure.tasks.door import HttpTimeouts
    from perdure.tasks.email import (
        Attachment,
        EmailError,
        EmailRefusedError,
        MailServer,
        SentEmail,
        email_send,
        email_send_task,
    )
    from perdure.tasks.http import http_request, http_request_task
    from perdure.tasks.pdf import PdfError, PdfTooLargeError, RenderedPdf, TemplateError, pdf_render, pdf_render_task

__all__ = [
    "AddressRefusedError",
    "Attachment",
    "DataExpressionError",
    "EmailError",
    "EmailRefusedError",
    "HttpAnswer",
    "HttpError",
    "HttpRequestError",
    "HttpStatusError",
    "HttpTimeouts",
    "MailServer",
    "PdfError",
    "PdfTooLargeError",
    "RenderedPdf",
    "SentEmail",
    "TemplateError",
    "data_transform",
    "email_send",
    "email_send_task",
    "everything",
    "http_request",
    "http_request_task",
    "pdf_render",
    "pdf_render_task",
]

_HOMES = {
    "addresses": ("AddressRefusedError",),
    "answers": ("HttpAnswer", "HttpError", "HttpRequestError", "HttpStatusError"),
    "data": ("DataExpressionError", "data_transform"),
    "door": ("HttpTimeouts",),
    "email": (
        "Attachment", "EmailError", "EmailRefusedError", "MailServer", "SentEmail", "email_send", "email_send_task",
    ),
    "http": ("http_request", "http_request_task"),
    "pdf": ("PdfError", "PdfTooLargeError", "RenderedPdf", "TemplateError", "pdf_render", "pdf_render_task"),
}  # fmt: skip
_EXTRAS = {"httpx": "http", "aiosmtplib": "email"}


def everything() -> list[Task[..., Any]]:
    """Return every task that comes along, as it is without settings: `app.add(*everything())`.

    Raises:
        UsageError: a library is not installed.
    """
    return [__getattr__(name) for name in ("http_request", "email_send", "pdf_render", "data_transform")]


def __getattr__(name: str) -> Any:
    """Load what is named, with its library."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{home}")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name]
        raise UsageError(f"perdure.tasks.{name} needs {error.name}: pip install 'perdure[{extra}]'") from error
    return getattr(module, name)
