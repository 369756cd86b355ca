"""Sessions of the dashboard: made of an API key at the login, kept in the store by a hash of what the cookie holds."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from msgspec.structs import replace

from perdure.engine.env import Env
from perdure.model.document import Document
from perdure.server.security.remembered import Remembered
from perdure.store.contract import Store

COLLECTION = "sessions"
"""Where they are, in the store of the default namespace."""

IDLE = 3_600_000
"""Milliseconds after which a session ends that nobody uses."""

LONGEST = 12 * 3_600_000
"""Milliseconds after which every session ends."""

SEEN_EVERY = 60_000
"""Milliseconds between two notes that a session is in use."""

SWEPT = 200
"""How many sessions each login looks at, to remove those that are over."""

_TOKEN_BYTES = 32
_TOKEN_LENGTH = 2 * _TOKEN_BYTES


class Session(msgspec.Struct, frozen=True):
    """A session as it is kept.

    Attributes:
        key: the id of the API key that it was made of, which says what it may do, and ends it when it ends.
        created_at, seen_at: in milliseconds since the epoch.
        namespace: the one that was chosen; None for none.
    """

    key: str
    created_at: int
    seen_at: int
    namespace: str | None = None

    def is_over(self, now: int) -> bool:
        """Return whether its time is over."""
        return now >= min(self.created_at + LONGEST, self.seen_at + IDLE)


class Sessions:
    """The sessions of a server.

    Args:
        store: of the default namespace, open when it is asked for anything.
        world: the clock and chance.
    """

    def __init__(self, store: Store, world: Env) -> None:
        self._store = store
        self._world = world
        self._remembered = Remembered(self._read, world)
        self._swept: str | None = None

    async def begin(self, key: str) -> str:
        """Make a session of an API key and return what its cookie is to hold: new with every login."""
        token = self._world.entropy(_TOKEN_BYTES).hex()
        now = self._world.now()
        await self._put(_name(token), Session(key, now, now), 0)
        await self._sweep()
        return token

    async def find(self, token: str) -> Session | None:
        """Return a session that is not over, and note that it is in use."""
        if len(token) != _TOKEN_LENGTH:
            return None
        name, now = _name(token), self._world.now()
        found = await self._remembered.get(name)
        if found is None:
            return None
        session, revision = found
        if session.is_over(now):
            return None
        if now - session.seen_at >= SEEN_EVERY:
            await self._put(name, replace(session, seen_at=now), revision)
            self._remembered.forget(name)
        return session

    async def choose(self, token: str, namespace: str) -> None:
        """Have a session be about a namespace from now on."""
        name = _name(token)
        while (found := await self._read(name)) is not None:
            session, revision = found
            if await self._put(name, replace(session, namespace=namespace), revision):
                break
        self._remembered.forget(name)

    async def end(self, token: str) -> None:
        """End a session; every server knows within two seconds."""
        name = _name(token)
        while (found := await self._read(name)) is not None:
            if (await self._store.put([Document(COLLECTION, name, None, found[1])]))[0]:
                break
        self._remembered.forget(name)

    async def _sweep(self) -> None:
        """Remove some of those that are over."""
        found = await self._store.documents(COLLECTION, SWEPT, self._swept)
        self._swept = found[-1].key if len(found) == SWEPT else None
        now = self._world.now()
        for document in found:
            if msgspec.json.decode(document.text or "", type=Session).is_over(now):
                await self._store.put([Document(COLLECTION, document.key, None, document.revision)])

    async def _read(self, name: str) -> tuple[Session, int] | None:
        (document,) = await self._store.read(COLLECTION, [name])
        if document is None:
            return None
        return msgspec.json.decode(document.text or "", type=Session), document.revision

    async def _put(self, name: str, session: Session, revision: int) -> bool:
        text = msgspec.json.encode(session).decode()
        (is_written,) = await self._store.put([Document(COLLECTION, name, text, revision, self._world.now())])
        return is_written


def csrf_token(token: str) -> str:
    """Return what a session's pages are given, to prove by it that they are ours."""
    return hmac.new(token.encode(), b"perdure csrf", hashlib.sha256).hexdigest()


def _name(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
