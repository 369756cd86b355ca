"""Writes down, a second time, what was written down ahead of it and then did not happen; and what was refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.server.access import Access
from perdure.server.security.sent import SAFE

_log = logging.getLogger("perdure.server")


class Outcomes:
    """Tells the audit log of actions that failed or were refused, before the answer goes out (ASGI middleware).

    It stands behind the one that finds out who asks.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        access: Access | None = scope.get("state", {}).get("access")
        if access is None or scope["method"] in SAFE:
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await _tell(access, scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, told)
        except Exception:
            await _tell(access, scope, 500)
            raise


async def _tell(access: Access, scope: Mapping[str, Any], status: int) -> None:
    auditor, who = access.server.auditor, (access.principal, access.namespace)
    outcome = "refused (403)" if status == 403 else f"failed ({status})"
    try:
        for action, target in access.recorded:
            await auditor.record(*who, action, target, "", {}, outcome=outcome)
        if not access.recorded and status == 403:
            action = getattr(scope.get("route"), "operation_id", None) or "unknown"
            await auditor.refuse(*who, action, ", ".join(map(str, scope.get("path_params", {}).values())), outcome)
    except Exception:  # whatever it is, what became of the request is told as it is
        _log.exception("the audit log does not know of everything that %s", outcome)
