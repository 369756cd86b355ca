"""The documents of the reference: who may change one, and the order in which they are told."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.model.document import Document, require_puttable


class Documents:
    """The documents of all collections, by collection and key."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Document] = {}

    def put(self, documents: Sequence[Document]) -> list[bool]:
        """Write documents until one is refused; say of each whether it was written."""
        require_puttable(documents)
        answers: list[bool] = []
        for document in documents:
            answers.append(all(answers[-1:]) and self._put_one(document))
        return answers

    def _put_one(self, document: Document) -> bool:
        place = (document.collection, document.key)
        there = self._kept.get(place)
        if (0 if there is None else there.revision) != document.revision:
            return there == document.kept
        if document.kept is None:
            self._kept.pop(place, None)
        else:
            self._kept[place] = document.kept
        return True

    def reword(self, collection: str, key: str, texts: dict[str, str]) -> int:
        """Replace the text of a document, if it is one of these; return how many were replaced."""
        there = self._kept.get((collection, key))
        if there is None or there.text not in texts:
            return 0
        self._kept[collection, key] = replace(there, text=texts[there.text])
        return 1

    def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """Return documents by their keys."""
        return [self._kept.get((collection, key)) for key in keys]

    def collections(self) -> list[str]:
        """Return the collections that have documents."""
        return sorted({collection for collection, _ in self._kept})

    def listed(self, collection: str, limit: int, after: str | None, newest_first: bool) -> list[Document]:
        """Return documents in the order of their keys, or the other way round."""
        keys = sorted((key for owner, key in self._kept if owner == collection), reverse=newest_first)
        behind = [key for key in keys if after is None or (key < after if newest_first else key > after)]
        return [self._kept[collection, key] for key in behind[:limit]]
