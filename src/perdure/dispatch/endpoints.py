"""Who serves which workflows over HTTP: documents in the store, and the keys that requests to them are signed with."""

from __future__ import annotations

import hashlib

import msgspec

from perdure.dispatch.protocol import Manifest, ServedWorkflow
from perdure.dispatch.signing import SigningKeys, made_key
from perdure.engine.env import Env
from perdure.engine.lifecycle import OURS
from perdure.model.decision import CatalogEntry
from perdure.model.document import Document
from perdure.model.errors import StoreConflictError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.store.contract import Store

COLLECTION = "endpoints"
"""The collection of the endpoints; the keys are the digests of their URLs."""

KEYS = "dispatch.keys"
"""The collection that holds the keys, in one document."""

ENDPOINTS = 500
"""How many endpoints one namespace has at most."""

WORKFLOWS = 500
"""How many workflows one endpoint serves at most."""

URL_LENGTH = 2_000
PAGE = 100
TRIES = 5


class Endpoint(msgspec.Struct, frozen=True):
    """Who serves workflows.

    Attributes:
        url: where.
        workflows: which.
        added_at: when it last said so, in milliseconds since the epoch.
    """

    url: str
    workflows: tuple[ServedWorkflow, ...]
    added_at: int


class Keys(msgspec.Struct, frozen=True):
    """The keys of a namespace.

    Attributes:
        signing: what requests are signed with; endpoints know them.
        tokens: what tokens are made with, the present one first; nobody else knows them.
    """

    signing: SigningKeys
    tokens: tuple[str, ...]


class Endpoints:
    """The endpoints of one namespace, as they are kept.

    Args:
        store: the namespace's.
        env: for the present, and for new keys.
    """

    def __init__(self, store: Store, env: Env) -> None:
        self._store = store
        self._env = env

    async def all(self) -> list[Endpoint]:
        """Return every endpoint, by its key."""
        found: list[Endpoint] = []
        after: str | None = None
        while page := await self._store.documents(COLLECTION, PAGE, after):
            found += [msgspec.json.decode(each.text or "", type=Endpoint) for each in page]
            after = page[-1].key
        return found

    async def add(self, url: str, manifest: Manifest) -> Endpoint:
        """Keep what an endpoint serves, in place of what it served before.

        Raises:
            UsageError: it serves what nobody can, or there are too many.
        """
        _require_fitting(url, manifest)
        endpoint = Endpoint(url, manifest.workflows, self._env.now())
        text = msgspec.json.encode(endpoint).decode()
        for _ in range(TRIES):
            (kept,) = await self._store.read(COLLECTION, [key_of(url)])
            if kept is None and len(await self.all()) >= ENDPOINTS:
                raise UsageError(f"url: {ENDPOINTS:,} endpoints are there already (ENDPOINTS): remove one")
            revision = 0 if kept is None else kept.revision
            if await self._store.put([Document(COLLECTION, key_of(url), text, revision, endpoint.added_at)]) == [True]:
                return endpoint
        raise StoreConflictError(f"{url} is being changed by others; try again")

    async def remove(self, key: str) -> bool:
        """Forget the endpoint of a key; return whether it was there."""
        (kept,) = await self._store.read(COLLECTION, [key])
        if kept is None:
            return False
        gone = Document(COLLECTION, kept.key, None, kept.revision, self._env.now())
        return await self._store.put([gone]) == [True]

    async def keys(self) -> Keys:
        """Return the keys, which are made when they are first asked for."""
        while True:
            (kept,) = await self._store.read(KEYS, ["keys"])
            if kept is not None:
                return msgspec.json.decode(kept.text or "", type=Keys)
            entropy = self._env.entropy
            made = Keys(SigningKeys.made(entropy), (made_key(entropy),))
            await self._store.put([Document(KEYS, "keys", msgspec.json.encode(made).decode(), 0, self._env.now())])

    async def rotate(self) -> Keys:
        """Put the next signing key, and a new secret for tokens, in the place of the present ones."""
        for _ in range(TRIES):
            before = await self.keys()
            (kept,) = await self._store.read(KEYS, ["keys"])
            entropy = self._env.entropy
            after = Keys(before.signing.rotated(entropy), (made_key(entropy), before.tokens[0]))
            text = msgspec.json.encode(after).decode()
            if kept is not None and await self._store.put(
                [Document(KEYS, "keys", text, kept.revision, self._env.now())]
            ) == [True]:
                return after
        raise StoreConflictError("the keys are being changed by others; try again")


def key_of(url: str) -> str:
    """Return the key of an endpoint's document."""
    return hashlib.blake2b(url.encode(), digest_size=16).hexdigest()


def entries_of(endpoint: Endpoint, worker: str, now: int) -> list[CatalogEntry]:
    """Return what is announced of the workflows of an endpoint."""
    return [
        CatalogEntry(each.name, each.version, each.queue, each.input_schema, now, worker, each.details)
        for each in endpoint.workflows
    ]


def _require_fitting(url: str, manifest: Manifest) -> None:
    if len(url) > URL_LENGTH:
        raise UsageError(f"url: it is longer than {URL_LENGTH:,} characters")
    if not manifest.workflows or len(manifest.workflows) > WORKFLOWS:
        raise UsageError(f"url: {url} serves {len(manifest.workflows):,} workflows; it must be 1 to {WORKFLOWS:,}")
    for number, each in enumerate(manifest.workflows):
        path = f"workflows[{number}]"
        check_name(each.name, f"{path}.name")
        check_name(each.queue, f"{path}.queue")
        if each.name.startswith(OURS):
            raise UsageError(f"{path}.name: {each.name!r} begins with {OURS!r}, which is Perdure's own")
        if len(each.version) > NAME_LENGTH:
            raise UsageError(f"{path}.version: it is longer than {NAME_LENGTH} characters")
        for field in ("input_schema", "details"):
            try:
                found = msgspec.json.decode(getattr(each, field))
            except msgspec.MsgspecError as error:
                raise UsageError(f"{path}.{field}: {error}") from None
            if not isinstance(found, dict):
                raise UsageError(f"{path}.{field}: it must be the text of a JSON object")
