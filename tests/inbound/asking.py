"""Requests to the webhooks of an application, without a socket."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterable
from typing import Any

import httpx

from perdure import Perdure, inbound
from tests.inbound.vectors import NOW, present

SECRET = "whsec_shop"


def verifier() -> inbound.Verifier:
    return inbound.stripe(SECRET, clock=present)


def signed(event: object, secret: str = SECRET) -> tuple[bytes, dict[str, str]]:
    """A body as Stripe would send it, and its headers."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    digest = hmac.new(secret.encode(), f"{NOW}.".encode() + body, hashlib.sha256).hexdigest()
    return body, {"Stripe-Signature": f"t={NOW},v1={digest}"}


def client(served: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="https://shop.example")


async def post(app: Perdure, path: str, event: object, **bounds: Any) -> httpx.Response:
    body, headers = signed(event)
    async with client(inbound.asgi(app, **bounds)) as http:
        return await http.post(path, content=body, headers=headers)


async def raw(
    served: Any, parts: Iterable[bytes], *, path: str = "/hooks/stripe", ends: bool = True, **scope: Any
) -> tuple[int, int]:
    """Send a body in parts; return the status of the answer, 0 for none, and how many parts were taken."""
    taken, status, more = 0, 0, iter(parts)

    async def receive() -> dict[str, Any]:
        nonlocal taken
        part = next(more, None)
        if part is None:
            if not ends:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        taken += 1
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    given = {"type": "http", "method": "POST", "path": path, "headers": [], **scope}
    await served(given, receive, send)
    return status, taken
