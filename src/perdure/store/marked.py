"""The mark by which a store tells that it is encrypted: a document that is sealed like all of them."""

from __future__ import annotations

from perdure.model.document import Document
from perdure.model.encryption import SEALED
from perdure.model.errors import DecryptionError
from perdure.store.contract import Store

MARK = Document("perdure", "encryption", "This store is encrypted.")


def is_mark(document: Document) -> bool:
    """Return whether a document is the mark of a store, and nothing of its users'."""
    return (document.collection, document.key) == (MARK.collection, MARK.key)


async def is_encrypted(store: Store) -> bool:
    """Return whether the data of an open store is encrypted, and comes out of it that way."""
    (mark,) = await store.read(MARK.collection, [MARK.key])
    return mark is not None and mark.text is not None and mark.text.startswith(SEALED)


async def require_plain(store: Store) -> None:
    """Refuse to go on without keys in a store that is encrypted.

    Raises:
        DecryptionError: it is.
    """
    if await is_encrypted(store):
        raise DecryptionError(
            f"{(await store.describe()).url} is encrypted: give this program the keys, PERDURE_ENCRYPTION_KEYS"
        )
