"""Saved views: the filters of a list of runs, kept under a name for whoever saved them."""

from __future__ import annotations

import hashlib

import msgspec

from perdure.model.document import Document
from perdure.model.errors import StoreConflictError, UsageError
from perdure.server.access import Access

COLLECTION = "views"
"""Where they are, in the namespace's own store."""

MOST = 50
"""How many views one may save."""

NAME = 60
"""How long the name of a view may be."""

QUERY = 2_000
"""How long the filters of a view may be, as they stand in the address."""


class View(msgspec.Struct, frozen=True):
    """A saved view: its name, and its filters as they stand in the address."""

    name: str
    query: str


async def views_of(access: Access) -> list[View]:
    """Return the views of whoever asks, by name."""
    prefix = _prefix(access)
    found = await access.app.store.documents(COLLECTION, MOST, f"{prefix}/")
    mine = [document for document in found if document.key.startswith(f"{prefix}/")]
    return [View(document.key.removeprefix(f"{prefix}/"), document.text or "") for document in mine]


async def save_view(access: Access, name: str, query: str) -> None:
    """Keep a view; one of that name is replaced.

    Raises:
        UsageError: there are too many, or a part of it is wrong.
    """
    if not 1 <= len(name) <= NAME or not name.isprintable():
        raise UsageError(f"name: it must be 1 to {NAME} printable characters")
    if len(query) > QUERY or not query.isprintable():
        raise UsageError(f"query: it must be at most {QUERY:,} printable characters")
    key = f"{_prefix(access)}/{name}"
    store = access.app.store
    (kept,) = await store.read(COLLECTION, [key])
    if kept is None and len(await views_of(access)) >= MOST:
        raise UsageError(f"name: there are {MOST} views already; remove one first")
    revision = 0 if kept is None else kept.revision
    if not (await store.put([Document(COLLECTION, key, query, revision, access.app.world.now())]))[0]:
        raise StoreConflictError("this view was changed at the same time; try again")


async def remove_view(access: Access, name: str) -> None:
    """Remove a view; one that is not there is removed already."""
    key = f"{_prefix(access)}/{name}"[:200]
    (kept,) = await access.app.store.read(COLLECTION, [key])
    if kept is not None:
        await access.app.store.put([Document(COLLECTION, key, None, kept.revision)])


def _prefix(access: Access) -> str:
    """Return what the keys of somebody's views begin with, whatever they are called."""
    principal = access.principal
    who = f"{principal.id or principal.kind}/{principal.name}"
    return hashlib.blake2b(who.encode(), digest_size=16).hexdigest()
