"""Gives what is encrypted in a store the newest key, in place, while others use the store.

A text is opened with the key that it names and sealed for the same place with the first one; the store puts the new one
in the place of the old one if that is still there. So whatever is written meanwhile stays, and who reads finds one or
the other. What is done is known by the key that a text names: a pass that was cut off is begun again, and goes over
what it did without writing. The last pass is one that finds nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from perdure.model.encryption import SEALED, Encryption
from perdure.model.errors import DecryptionError, StoreCorruptError
from perdure.model.rewording import Rewording
from perdure.store.contract import Store
from perdure.store.marked import MARK
from perdure.store.sealed import Values
from perdure.store.sealing import Owner, Sealer, is_shared, key_of

RUNS_AT_ONCE = 100
DOCUMENTS_AT_ONCE = 30
"""How many runs and documents are read at once."""

TEXTS_AT_ONCE = 500
BYTES_AT_ONCE = 1 << 20
"""About how much is written in one transaction, which others wait for."""

PASSES = 5
"""How often a store is gone through, while programs go on writing with older keys."""

NAMED = 5
"""How many of the texts that cannot be opened are told of."""

Told = Callable[[int, int], object]
"""Is told how far a pass is: its number, from 1, and how many texts it has seen."""


class Resealed(msgspec.Struct, frozen=True):
    """What became of the texts of a store.

    Attributes:
        key: the id of the first key, with which texts are sealed.
        resealed: how many texts were given it.
        texts: how many texts there are of each key, as they were found by the last pass.
        unreadable: how many of them cannot be opened: their key is missing, or they were changed.
        reasons: why the first of those cannot be.
    """

    key: str
    resealed: int
    texts: dict[str, int]
    unreadable: int
    reasons: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every text has the first key, so that the other keys may go."""
        return self.texts.keys() <= {self.key} and not self.unreadable


class _Opener(Sealer):
    """A sealer that notes, as it opens texts, what they are to become.

    Attributes:
        keys: how many texts there were of each key.
        words: the texts that are to be replaced, each with the new one; to be emptied by who has taken them.
        unreadable: how many could not be opened.
        reasons: why the first ones could not.
    """

    def __init__(self, encryption: Encryption) -> None:
        super().__init__(encryption)
        self.keys: Counter[str] = Counter()
        self.words: dict[str, str] = {}
        self.unreadable = 0
        self.reasons: list[str] = []

    def open(self, sealed: str, owner: Owner, *place: object) -> str:
        """Note a text; what it says is nobody's business here, and it returns nothing of it."""
        if sealed.startswith(SEALED):
            self.keys[key_of(sealed)] += 1
            if key_of(sealed) == self.first:
                return ""
        try:
            text = super().open(sealed, owner, *place)
        except DecryptionError as error:
            self.unreadable += 1
            self.reasons += [str(error)] if len(self.reasons) < NAMED else []
        else:
            self.words[sealed] = self.seal(text, Owner(owner.id, is_shared(sealed)), *place)
        return ""


async def reseal(
    store: Store, encryption: Encryption, *, dry_run: bool = False, told: Told = lambda number, texts: None
) -> Resealed:
    """Give every text of a store the first key.

    Args:
        store: open, as it is: not one that encrypts.
        encryption: all keys that texts may have, the new one first.
        dry_run: only count the texts of each key.
        told: is told how far it is.

    Raises:
        StoreCorruptError: the store is not encrypted. DecryptionError: it is encrypted with other keys.
        StoreError: the store failed; a second call goes on.
    """
    await _require_ours(store, encryption)
    resealed = 0
    for number in range(1, (1 if dry_run else PASSES) + 1):
        opener = _Opener(encryption)
        done, is_clean = 0, True
        async for rewordings in _found(store, opener):
            is_clean &= not rewordings
            if rewordings and not dry_run:
                done += await store.reword(rewordings)
            told(number, opener.keys.total())
        resealed += done
        if is_clean:
            break
    return Resealed(opener.first, resealed, dict(opener.keys), opener.unreadable, tuple(opener.reasons))


async def _require_ours(store: Store, encryption: Encryption) -> None:
    (mark,) = await store.read(MARK.collection, [MARK.key])
    if mark is None or not (mark.text or "").startswith(SEALED):
        raise StoreCorruptError(
            f"{(await store.describe()).url} is not encrypted: move it with perdure migrate to a store that is"
        )
    Values(Sealer(encryption)).opened_document(mark)


async def _found(store: Store, opener: _Opener) -> AsyncIterator[list[Rewording]]:
    """Yield what is to be replaced, in pieces for one transaction each; an empty one where a page has nothing."""
    values = Values(opener)
    for definition in await store.definitions():
        values.opened_definition(definition)
        yield list(_pieces(opener, Rewording("definition", definition.name, {}, definition.version)))
    for collection in await store.collections():
        after = None
        while page := await store.documents(collection, DOCUMENTS_AT_ONCE, after):
            after = page[-1].key
            for document in page:
                values.opened_document(document)
                yield list(_pieces(opener, Rewording("document", collection, {}, document.key)))
    cursor = None
    while True:
        runs = await store.dump(RUNS_AT_ONCE, cursor)
        for archive in runs.archives:
            values.opened_archive(archive)
            yield list(_pieces(opener, Rewording("run", archive.run.id, {})))
        cursor = runs.cursor
        if cursor is None:
            return


def _pieces(opener: _Opener, whose: Rewording) -> Iterator[Rewording]:
    """Take what was found of one run, definition or document, in pieces of a bounded length."""
    part: dict[str, str] = {}
    size = 0
    for old, new in opener.words.items():
        part[old] = new
        size += len(old) + len(new)
        if size >= BYTES_AT_ONCE or len(part) == TEXTS_AT_ONCE:
            yield msgspec.structs.replace(whose, texts=part)
            part, size = {}, 0
    if part:
        yield msgspec.structs.replace(whose, texts=part)
    opener.words = {}
