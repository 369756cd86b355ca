"""The headers that every response has, so that browsers do less with it than they could."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'"
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Origin-Agent-Cluster": "?1",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",
    "X-Download-Options": "noopen",
    "X-Frame-Options": "DENY",
    "X-Permitted-Cross-Domain-Policies": "none",
    "X-XSS-Protection": "0",
}
"""What every response has, and no route changes."""

NO_STORE = "no-store"
"""`Cache-Control` of every response that says nothing else of itself."""

HSTS = "max-age=31536000; includeSubDomains"
"""`Strict-Transport-Security`, where the server itself speaks TLS."""


class Headers:
    """Puts the headers on every response (ASGI middleware).

    Args:
        app: what answers.
        is_tls: whether the server speaks TLS.
    """

    def __init__(self, app: ASGIApp, *, is_tls: bool) -> None:
        self._app = app
        table = {**HEADERS, **({"Strict-Transport-Security": HSTS} if is_tls else {})}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in table.items()]
        self._names = frozenset(name for name, _ in self._headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [each for each in message.get("headers", ()) if each[0].lower() not in self._names]
                if all(name.lower() != b"cache-control" for name, _ in own):
                    own.append((b"cache-control", NO_STORE.encode()))
                message = {**message, "headers": [*own, *self._headers]}
            await send(message)

        await self._app(scope, receive, with_headers)
