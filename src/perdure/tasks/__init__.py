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
    from perdure.tasks.data import DataExpressionError, data_transform
    from perdure.tasks.email import (
        Attachment,
        EmailError,
        EmailRefusedError,
        MailServer,
        SentEmail,
        email_send,
        email_send_task,
    )
    from perdure.tasks.http import (
        HttpAnswer,
        HttpError,
        HttpRequestError,
        HttpStatusError,
        HttpTimeouts,
        http_request,
        http_request_task,
    )
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

_HOMES = {"AddressRefusedError": "addresses", "Attachment": "email", "MailServer": "email", "SentEmail": "email"}
_HOMES |= {"RenderedPdf": "pdf", "TemplateError": "pdf"}
_LIBRARIES = {"http": "httpx", "email": "aiosmtplib", "pdf": "typst"}


def everything() -> list[Task[..., Any]]:
    """Return every task that comes along, as it is without settings: `app.add(*everything())`.

    Raises:
        UsageError: a library is not installed.
    """
    return [__getattr__(name) for name in ("http_request", "email_send", "pdf_render", "data_transform")]


def __getattr__(name: str) -> Any:
    """Load what is named, with its library."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name) or next(home for home in ("http", "email", "pdf", "data") if name.lower().startswith(home))
    try:
        module = importlib.import_module(f"{__name__}.{home}")
    except ModuleNotFoundError as error:
        if error.name != _LIBRARIES.get(home):
            raise
        raise UsageError(f"perdure.tasks.{name} needs {error.name}: pip install 'perdure[{home}]'") from error
    return getattr(module, name)
