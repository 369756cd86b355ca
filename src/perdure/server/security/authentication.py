"""Finds out who sends a request: by an API key, a signed token, a session's cookie, or by being on this machine.

Nothing of a request but its headers is looked at for it, and what is there and wrong is never taken for absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from starlette.types import Scope

from perdure.engine.env import Env
from perdure.model.queue import Rate
from perdure.server.errors import Problem
from perdure.server.namespaces import Namespaces
from perdure.server.principal import ALL, Principal, Role
from perdure.server.security.keys import KEY, ApiKey, Keys
from perdure.server.security.rates import Rates, too_often
from perdure.server.security.sent import host_of, is_from_here, is_proxied, require_our_origin, require_our_page, sent
from perdure.server.security.sessions import Sessions, csrf_token
from perdure.server.security.tokens import Tokens
from perdure.server.settings import ServerSettings, is_loopback, network_of

COOKIE = "__Host-perdure"
"""The cookie of a session; without the prefix where a browser speaks plain HTTP to its own machine."""

FAILURES = Rate(30, 60_000)
"""How often an address may fail to prove who it is."""

LOGINS = Rate(10, 60_000)
"""How often an address may try to log in."""

LOGINS_ALL = Rate(600, 60_000)
"""How often all of them together may, with keys that are not in use."""

LOGINS_OF_KEY = Rate(100, 3_600_000)
"""How many sessions may be made of one key: each is a document, and an entry of the audit log."""

CONFIGURED_EVERY = 2_000
"""Milliseconds between two looks whether there are keys by now."""

TOKEN_LENGTH = 16_384
"""How long the credentials of a request may be."""

_BEARER = "Bearer "


class Authenticator:
    """The authenticator of a server.

    Args:
        settings: see there.
        namespaces: the server's, whose default store has the keys and sessions.
    """

    def __init__(self, settings: ServerSettings, namespaces: Namespaces) -> None:
        self._settings = settings
        self._names = namespaces.names
        self._world: Env = namespaces.default.world
        self.keys = Keys(namespaces.default.store, self._world)
        self.sessions = Sessions(namespaces.default.store, self._world)
        self._tokens = Tokens(settings.issuers, namespaces.names, self._world)
        self._failures = Rates(FAILURES, self._world)
        self._logins = Rates(LOGINS, self._world)
        self._logins_all = Rates(LOGINS_ALL, self._world, 1)
        self._logins_of_key = Rates(LOGINS_OF_KEY, self._world)
        self._local = Principal(
            "local", Role.ADMIN, "local", self._names, csrf=self._world.entropy(32).hex(), is_everywhere=True
        )
        self._is_configured = bool(settings.issuers)
        self._looked_at: int | None = None

    async def is_configured(self) -> bool:
        """Return whether anybody could prove who they are. Once that is so, it stays so."""
        if not self._is_configured:
            now = self._world.now()
            if self._looked_at is None or not 0 <= now - self._looked_at < CONFIGURED_EVERY:
                self._is_configured = await self.keys.are_any()
                self._looked_at = now
        return self._is_configured

    async def authenticate(self, scope: Scope) -> Principal | None:
        """Return who sends a request; None where nobody proves to be anybody.

        Raises:
            Problem: it is refused whoever sent it.
            StoreError: that cannot be found out.
        """
        headers = sent(scope)
        self._require_our_host(headers)
        if "authorization" in headers:
            return await self._by_token(scope, headers["authorization"])
        if not await self.is_configured():
            return self._by_place(scope, headers)
        token = cookie_of(scope, headers)
        found = None if token is None else await self._by_session(token)
        if found is not None:
            require_our_page(scope, headers, found.csrf, is_cookie=True)
        return found

    async def log_in(self, scope: Scope, token: str) -> tuple[Principal, str] | None:
        """Return whose key a text is, and what the cookie of a new session is to hold; None for no key to do that with.

        A session that the request had is ended, so that nobody can be given one that somebody else knows.

        Raises:
            Problem: it was tried too often, or no page of ours asks.
            StoreError: that cannot be found out.
        """
        headers = sent(scope)
        self._require_our_host(headers)
        require_our_origin(headers)
        wait = self._logins.count(self.address_of(scope))
        if not wait and not self.keys.is_known(token):
            wait = self._logins_all.count("")
        if wait:
            raise too_often(wait)
        key = await self.keys.verify(token)
        if key is None or (principal := self._principal_of(key)).role < Role.VIEWER:
            return None
        if wait := self._logins_of_key.count(key.id):
            raise too_often(wait)
        if (before := cookie_of(scope, headers)) is not None:
            await self.sessions.end(before)
        return principal, await self.sessions.begin(key.id)

    def address_of(self, scope: Scope) -> str:
        """Return the address that a request comes from, or of IPv6 the network, which one host may fill.

        Behind proxies that the settings name it is the last one that they did not add themselves.
        """
        client = scope.get("client")
        if client is None:
            return "here"
        passed = [part.strip() for part in sent(scope).get("x-forwarded-for", "").split(",") if part.strip()]
        address = client[0]
        while passed and self._settings.is_proxy(address):
            address = passed.pop()
        return network_of(address)

    async def close(self) -> None:
        """Wait for what is being noted, and ask nobody any longer."""
        await self.keys.close()
        await self._tokens.close()

    async def _by_token(self, scope: Scope, text: str) -> Principal | None:
        token = text.removeprefix(_BEARER)
        found = None
        if token != text and 0 < len(token) <= TOKEN_LENGTH:
            found = await (self._by_key(scope, token) if token.startswith(KEY) else self._tokens.verify(token))
        if found is None and (wait := self._failures.count(self.address_of(scope))):
            raise too_often(wait)
        return found

    async def _by_key(self, scope: Scope, token: str) -> Principal | None:
        if not self.keys.is_known(token) and (wait := self._failures.wait(self.address_of(scope))):
            raise too_often(wait)  # ahead of asking the store
        key = await self.keys.verify(token)
        return None if key is None else self._principal_of(key)

    async def _by_session(self, token: str) -> Principal | None:
        session = await self.sessions.find(token)
        key = None if session is None else await self.keys.usable(session.key)
        if session is None or key is None:
            return None
        return replace(self._principal_of(key), kind="session", chosen=session.namespace, csrf=csrf_token(token))

    def _by_place(self, scope: Scope, headers: Mapping[str, str]) -> Principal:
        """Return the local admin.

        Raises:
            Problem: the request may come from elsewhere, or from a page of somebody else's.
        """
        if not is_from_here(scope) or is_proxied(headers):
            raise Problem(
                403,
                "Only for this machine",
                "this server has no keys, so it serves its own machine alone; make one with `perdure keys create`",
            )
        if not is_loopback(host_of(headers)) and not self._is_our_host(host_of(headers)):
            raise Problem(421, "Not this server's name", "without keys this server is asked as localhost alone")
        require_our_page(scope, headers, self._local.csrf, is_cookie=False)
        return self._local

    def _principal_of(self, key: ApiKey) -> Principal:
        is_everywhere = ALL in key.namespaces
        namespaces = self._names if is_everywhere else key.namespaces
        return Principal(key.name, Role[key.role.upper()], "key", namespaces, id=key.id, is_everywhere=is_everywhere)

    def _require_our_host(self, headers: Mapping[str, str]) -> None:
        if self._settings.hosts and not self._is_our_host(host_of(headers)):
            raise Problem(421, "Not this server's name", "the Host that is asked is none of this server's (hosts)")

    def _is_our_host(self, host: str) -> bool:
        return any(host == name.casefold() for name in self._settings.hosts)


def cookie_name(scope: Scope) -> str:
    """Return what the cookie of a session is called for whoever asks."""
    return COOKIE.removeprefix("__Host-") if is_plain_here(scope) else COOKIE


def is_plain_here(scope: Scope) -> bool:
    """Return whether a browser speaks plain HTTP to its own machine, where it keeps no secure cookies."""
    headers = sent(scope)
    is_here = is_loopback(host_of(headers)) and is_from_here(scope) and not is_proxied(headers)
    return scope["scheme"] == "http" and is_here


def cookie_of(scope: Scope, headers: Mapping[str, str]) -> str | None:
    """Return what the cookie of a session holds; None without one, or where there are several."""
    name = cookie_name(scope)
    pairs = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
    found = [value for key, _, value in pairs if key == name]
    return found[0] if len(found) == 1 else None
