"""API keys: `pdk_<id>_<secret>`, shown once, of which the store keeps a hash; good until they expire or are revoked."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from perdure.engine.env import Env
from perdure.model.document import Document
from perdure.model.duration import Duration, milliseconds
from perdure.model.errors import StoreConflictError, StoreError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.server.principal import ALL, Role
from perdure.server.security.remembered import Remembered
from perdure.store.contract import Store

COLLECTION = "keys"
"""Where they are, in the store of the default namespace."""

USED = "keys.used"
"""Where it is noted when each was last used."""

USED_EVERY = 600_000
"""Milliseconds between two notes that a key is in use."""

OVERLAP: Duration = "1 day"
"""For how long a key goes on after another has taken its place."""

ROLES = tuple(str(role) for role in Role)

KEY = "pdk_"
"""What every key begins with."""

_TOKEN = re.compile(rf"{KEY}([0-9a-f]{{20}})_([0-9a-f]{{48}})")
_SECRET_BYTES = 24
_TRIES = 20


class ApiKey(msgspec.Struct, frozen=True):
    """A key as it is kept: all but its secret.

    Attributes:
        id: the part of it that is no secret.
        name: whose it is, or what for.
        role: what it may do: metrics, viewer, operator or admin.
        namespaces: where; `*` stands for all.
        digest: the SHA-256 of its secret.
        created_at, expires_at, revoked_at: in milliseconds since the epoch; None for never.
        replaces: the key in whose place it was made; None for none.
    """

    id: str
    name: str
    role: str
    namespaces: tuple[str, ...]
    digest: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    replaces: str | None = None

    def state(self, now: int) -> Literal["active", "expired", "revoked"]:
        """Return whether it can be used at a time, or why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class NewKey(msgspec.Struct, frozen=True):
    """A key that was just made, with the one text of it that is ever shown."""

    key: ApiKey
    token: str

    def __repr__(self) -> str:
        return f"NewKey({self.key!r})"


class Keys:
    """The keys of a server.

    Args:
        store: of the default namespace, open when it is asked for anything.
        world: the clock and chance.
    """

    def __init__(self, store: Store, world: Env) -> None:
        self._store = store
        self._world = world
        self._remembered = Remembered(self.get, world)
        self._noted: dict[str, int] = {}
        self._notes: set[asyncio.Task[None]] = set()

    # Those who manage keys.

    async def create(
        self,
        name: str,
        role: str,
        namespaces: Sequence[str],
        expires_in: Duration | None = None,
        *,
        replaces: str | None = None,
    ) -> NewKey:
        """Make a key.

        Args:
            name: whose it is, or what for.
            role: metrics, viewer, operator or admin.
            namespaces: where it may be used; `*` for everywhere.
            expires_in: after what duration it ends; None for never.
            replaces: the id of the key in whose place it comes.

        Raises:
            UsageError: one of these is wrong.
        """
        if not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
            raise UsageError(f"name: {name[:50]!r} must be 1 to {NAME_LENGTH} printable characters")
        if role not in ROLES:
            raise UsageError(f"role: {role!r} must be one of {', '.join(ROLES)}")
        if not namespaces:
            raise UsageError("namespaces: name one at least, or * for all")
        for namespace in namespaces:
            if namespace != ALL:
                check_name(namespace, "namespaces")
        lasting = None if expires_in is None else milliseconds(expires_in, field="expires_in")
        if lasting == 0:
            raise UsageError("expires_in: a key has to last for a while")
        now = self._world.now()
        secret = self._world.entropy(_SECRET_BYTES).hex()
        key = ApiKey(
            f"{now:012x}{self._world.entropy(4).hex()}",  # so that they sort by age
            name,
            role,
            tuple(dict.fromkeys(namespaces)),
            _digest(secret),
            now,
            None if lasting is None else now + lasting,
            replaces=replaces,
        )
        if not await self._put(key, 0):
            raise StoreConflictError("a key of this id is there already; try again")
        return NewKey(key, f"{KEY}{key.id}_{secret}")

    async def get(self, id: str) -> ApiKey | None:
        """Return a key; None where there is none of that id."""
        return (await self._read(id))[0]

    async def page(self, limit: int, after: str | None = None) -> list[ApiKey]:
        """Return keys, oldest first, from behind the one with the id `after` on."""
        found = await self._store.documents(COLLECTION, limit, after)
        return [msgspec.json.decode(document.text or "", type=ApiKey) for document in found]

    async def last_used(self, ids: Sequence[str]) -> dict[str, int]:
        """Return when each key was last used, to ten minutes, in milliseconds since the epoch; none was left out."""
        found = await self._store.read(USED, ids) if ids else []
        return {document.key: document.at for document in found if document is not None}

    async def revoke(self, id: str) -> ApiKey | None:
        """Have a key end now; every server knows within two seconds. None where there is none of that id."""
        now = self._world.now()

        def revoked(key: ApiKey) -> ApiKey:
            return key if key.revoked_at is not None else replace(key, revoked_at=now)

        return await self._change(id, revoked)

    async def rotate(self, id: str, overlap: Duration = OVERLAP) -> NewKey | None:
        """Make a key that takes the place of another one, which ends after a while.

        Args:
            id: of the key that is to end.
            overlap: for how long (a duration) both can be used.

        Returns:
            The new one, which lasts as long as the old one would have; None where there is none of that id.

        Raises:
            UsageError: the old one has ended already.
        """
        until = self._world.now() + milliseconds(overlap, field="overlap")
        old = await self.get(id)
        if old is None:
            return None
        if (state := old.state(self._world.now())) != "active":
            raise UsageError(f"key: {id} is {state}: make a new one instead")
        lasting = None if old.expires_at is None else (old.expires_at - self._world.now()) / 1000
        new = await self.create(old.name, old.role, old.namespaces, lasting, replaces=old.id)
        await self._change(
            id, lambda key: replace(key, expires_at=until if key.expires_at is None else min(until, key.expires_at))
        )
        return new

    async def are_any(self) -> bool:
        """Return whether a key was ever made, though it may have ended."""
        return bool(await self._store.documents(COLLECTION, 1))

    # Those who use keys.

    def is_known(self, token: str) -> bool:
        """Return whether a token's key need not be looked up, or was in use here before: asking for it is no guess."""
        parts = _TOKEN.fullmatch(token)
        return parts is not None and (self._remembered.has(parts[1]) or parts[1] in self._noted)

    async def verify(self, token: str) -> ApiKey | None:
        """Return the key that a text is, if it can be used now.

        Raises:
            StoreError: that cannot be found out.
        """
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        key = await self._remembered.get(parts[1])
        if key is None or not hmac.compare_digest(key.digest, _digest(parts[2])):
            return None
        return self._in_use(key)

    async def usable(self, id: str) -> ApiKey | None:
        """Return a key, if it can be used now."""
        key = await self._remembered.get(id)
        return None if key is None else self._in_use(key)

    async def close(self) -> None:
        """Wait for what is being noted."""
        if self._notes:
            await asyncio.wait(self._notes)

    def _in_use(self, key: ApiKey) -> ApiKey | None:
        now = self._world.now()
        if key.state(now) != "active":
            return None
        if now - self._noted.get(key.id, 0) >= USED_EVERY:
            self._noted[key.id] = now
            note = asyncio.get_running_loop().create_task(self._note(key.id, now))
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)
        return key

    async def _note(self, id: str, now: int) -> None:
        try:
            (kept,) = await self._store.read(USED, [id])
            if kept is None or now - kept.at >= USED_EVERY:
                await self._store.put([Document(USED, id, "", 0 if kept is None else kept.revision, now)])
        except StoreError:
            self._noted.pop(id, None)

    # Documents.

    async def _read(self, id: str) -> tuple[ApiKey | None, int]:
        (document,) = await self._store.read(COLLECTION, [id])
        if document is None:
            return None, 0
        return msgspec.json.decode(document.text or "", type=ApiKey), document.revision

    async def _put(self, key: ApiKey, revision: int) -> bool:
        text = msgspec.json.encode(key).decode()
        (is_written,) = await self._store.put([Document(COLLECTION, key.id, text, revision, self._world.now())])
        return is_written

    async def _change(self, id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey | None:
        for _ in range(_TRIES):
            key, revision = await self._read(id)
            if key is None:
                return None
            changed = change(key)
            if changed == key or await self._put(changed, revision):
                self._remembered.forget(id)
                return changed
        raise StoreConflictError(f"key {id} is being changed by others; try again")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
