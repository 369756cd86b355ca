"""Texts that are kept in a store beside its runs: what a server knows of its users, and what was done by whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from perdure.model.errors import DocumentTooLargeError, UsageError
from perdure.model.limits import DOCUMENT_BYTES, NAME_LENGTH


class Document(msgspec.Struct, frozen=True, gc=False):
    """A text under a key of a collection, which is changed only by whoever knows its revision.

    Attributes:
        collection, key: which; unique together. Each is 1 to 200 printable characters.
        text: what it says, at most `DOCUMENT_BYTES` in UTF-8, without U+0000; None, in a `put`, removes it.
        revision: 1, 2, 3, … with each change since it was put first; in a `put`, the one that is to be changed, 0 for
            none.
        at: when it was changed, in milliseconds since the epoch.
    """

    collection: str
    key: str
    text: str | None
    revision: int = 0
    at: int = 0

    most_bytes: ClassVar[int] = DOCUMENT_BYTES

    def require_fitting(self) -> None:
        """Refuse what no store keeps.

        Raises:
            UsageError: the collection or the key is no name, the revision is negative, or the text cannot be kept.
            DocumentTooLargeError: the text is too long.
        """
        for field, name in (("collection", self.collection), ("key", self.key)):
            if not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
                raise UsageError(f"document.{field}: {name!r} must be 1 to {NAME_LENGTH} printable characters")
        if self.revision < 0:
            raise UsageError(
                f"document.revision: {self.revision} must be 0 for a new one, or that of the one to change"
            )
        if self.text is not None:
            self._require_fitting_text(self.text)

    def _require_fitting_text(self, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            size = -1
        if size < 0 or "\0" in text:
            raise UsageError(f"document.text: {self.key!r} of {self.collection!r} holds U+0000 or half a character")
        if size > self.most_bytes:
            raise DocumentTooLargeError(
                f"document.text: {self.key!r} of {self.collection!r} has {size:,} bytes, and at most "
                f"{self.most_bytes:,} are kept (DOCUMENT_BYTES): put less into one, or several"
            )

    @property
    def kept(self) -> Document | None:
        """What is kept once it was written: the next revision, or nothing if it has no text."""
        if self.text is None:
            return None
        return Document(self.collection, self.key, self.text, self.revision + 1, self.at)


def require_puttable(documents: Sequence[Document]) -> None:
    """Refuse documents that cannot be put in one call.

    Raises:
        UsageError: one is there twice, or see `Document.require_fitting`.
    """
    seen: set[tuple[str, str]] = set()
    for document in documents:
        document.require_fitting()
        if (place := (document.collection, document.key)) in seen:
            raise UsageError(
                f"documents: {document.key!r} of {document.collection!r} is there twice: put one after the other"
            )
        seen.add(place)
