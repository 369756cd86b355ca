"""A server with keys, and ways to move its clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest_asyncio

from perdure.server.security.keys import NewKey
from tests.server.conftest import Serve, Served

PAGE = {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}
"""What a browser says of a page of this server."""


@dataclass
class Keyed:
    """A server that has a key for each role, `metrics`, `viewer`, `operator` and `admin`, of the default namespace."""

    served: Served
    keys: dict[str, NewKey]

    @property
    def http(self) -> httpx.AsyncClient:
        return self.served.http

    def bearer(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role].token}"}

    async def ask(self, role: str, method: str, path: str, headers: dict[str, str] | None = None, **sent: Any) -> Any:
        return await self.http.request(method, path, headers={**self.bearer(role), **(headers or {})}, **sent)

    def advance(self, seconds: float) -> None:
        """Move the server's clock."""
        self.served.app.world.ahead += round(seconds * 1000)  # type: ignore[attr-defined]

    async def log_in(self, role: str = "operator") -> Browser:
        answer = await self.http.post("/login", json={"key": self.keys[role].token}, headers=PAGE)
        assert answer.status_code == 200, answer.text
        token = answer.cookies["perdure"]
        self.http.cookies.clear()
        return Browser(self, token)


@dataclass
class Browser:
    """A session of the dashboard, as a browser would keep it."""

    keyed: Keyed
    token: str

    @property
    def csrf(self) -> str:
        from perdure.server.security.sessions import csrf_token

        return csrf_token(self.token)

    @property
    def headers(self) -> dict[str, str]:
        """What a page of ours sends."""
        return {"Cookie": f"perdure={self.token}", "Perdure-CSRF": self.csrf, **PAGE}

    async def ask(self, method: str, path: str, headers: dict[str, str | None] | None = None, **sent: Any) -> Any:
        all_of = {**self.headers, **(headers or {})}
        return await self.keyed.http.request(
            method, path, headers={name: value for name, value in all_of.items() if value is not None}, **sent
        )


@pytest_asyncio.fixture
async def keyed(serve: Serve) -> Any:
    """`await keyed(worker=None, namespaces=…, **settings)`: a server with a key for each role."""

    async def keyed(worker: Any = None, **settings: Any) -> Keyed:
        served = await serve(worker, **settings)
        keys = served.server.authenticator.keys
        made = {role: await keys.create(role, role, ["default"]) for role in ("metrics", "viewer", "operator", "admin")}
        served.app.world.ahead += 2_001  # the server looks for keys every two seconds
        return Keyed(served, made)

    return keyed
