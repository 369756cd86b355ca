"""What is kept beside messages, each thing a document: URL groups, queues, and what is pinned of flow control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from perdure.engine.env import Env
from perdure.model.document import Document
from perdure.model.errors import StoreConflictError
from perdure.store.contract import Store

T = TypeVar("T")

PAGE = 100
TRIES = 20


class Kept(Generic[T]):
    """The documents of a collection, as values of a type.

    Args:
        store: where they are.
        env: for the present.
        collection: which.
        type: of the values.
    """

    def __init__(self, store: Store, env: Env, collection: str, type: type[T]) -> None:
        self._store = store
        self._env = env
        self._collection = collection
        self._type = type

    async def read(self, *keys: str) -> list[T | None]:
        """Return what is kept under keys; None for nothing."""
        found = await self._store.read(self._collection, list(keys))
        return [None if each is None or each.text is None else self._value(each.text) for each in found]

    async def all(self) -> dict[str, T]:
        """Return everything, by its key."""
        found: dict[str, T] = {}
        after: str | None = None
        while page := await self._store.documents(self._collection, PAGE, after):
            found |= {each.key: self._value(each.text or "") for each in page}
            after = page[-1].key
        return found

    async def change(self, key: str, change: Callable[[T | None], T | None]) -> tuple[T | None, T | None]:
        """Change what is kept under a key, whoever else does so; return what was there, and what is.

        Args:
            key: which.
            change: from what is there (None for nothing) to what is to be; asked again if others were faster.

        Raises:
            StoreConflictError: others changed it all the time.
        """
        for _ in range(TRIES):
            (kept,) = await self._store.read(self._collection, [key])
            before = None if kept is None or kept.text is None else self._value(kept.text)
            after = change(before)
            if after == before:
                return before, after
            text = None if after is None else msgspec.json.encode(after).decode()
            revision = 0 if kept is None else kept.revision
            if await self._store.put([Document(self._collection, key, text, revision, self._env.now())]) == [True]:
                return before, after
        raise StoreConflictError(f"{key!r} is being changed by others; try again")

    def _value(self, text: str) -> T:
        return msgspec.json.decode(text, type=self._type)
