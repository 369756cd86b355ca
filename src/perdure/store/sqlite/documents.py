"""Documents: each is changed by whoever knows its revision."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from perdure.model.document import Document

_BEGIN = "INSERT INTO documents (collection, key, revision, at, text) VALUES (?, ?, 1, ?, ?) ON CONFLICT DO NOTHING"
_CHANGE = (
    "UPDATE documents SET revision = revision + 1, at = ?, text = ? WHERE collection = ? AND key = ? AND revision = ?"
)
_REMOVE = "DELETE FROM documents WHERE collection = ? AND key = ? AND revision = ?"

_DOCUMENT = "json_object('collection', collection, 'key', key, 'text', text, 'revision', revision, 'at', at)"
_READ = f"SELECT {_DOCUMENT} FROM documents WHERE collection = ? AND key = ?"
_LISTED = f"SELECT {_DOCUMENT} FROM documents WHERE collection = ? AND key > ? ORDER BY key LIMIT ?"
_NEWEST = f"SELECT {_DOCUMENT} FROM documents WHERE collection = ? AND key < ? ORDER BY key DESC LIMIT ?"
_COLLECTIONS = """
WITH RECURSIVE found (name) AS (
    SELECT min(collection) FROM documents
    UNION ALL
    SELECT (SELECT min(collection) FROM documents WHERE collection > f.name) FROM found AS f WHERE f.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL ORDER BY name
"""
_LAST = "\U0010ffff"
"""Behind every key: no character is greater, and this one is not printable."""

_document_of = msgspec.json.Decoder(Document).decode


def put(connection: apsw.Connection, documents: Sequence[Document]) -> list[bool]:
    """Write documents until one is refused; say of each whether it was written."""
    answers: list[bool] = []
    for document in documents:
        answers.append(all(answers[-1:]) and _put_one(connection, document))
    return answers


def _put_one(connection: apsw.Connection, document: Document) -> bool:
    place = (document.collection, document.key)
    if document.text is None:
        connection.execute(_REMOVE, (*place, document.revision))
    elif document.revision == 0:
        connection.execute(_BEGIN, (*place, document.at, document.text))
    else:
        connection.execute(_CHANGE, (document.at, document.text, *place, document.revision))
    return connection.changes() == 1 or read(connection, document.collection, [document.key]) == [document.kept]


def read(connection: apsw.Connection, collection: str, keys: Sequence[str]) -> list[Document | None]:
    """Return documents by their keys."""
    found = [connection.execute(_READ, (collection, key)).get for key in keys]
    return [None if text is None else _document_of(text) for text in found]


def listed(
    connection: apsw.Connection, collection: str, limit: int, after: str | None, newest_first: bool
) -> list[Document]:
    """Return documents in the order of their keys, or the other way round."""
    if newest_first:
        rows = connection.execute(_NEWEST, (collection, _LAST if after is None else after, limit))
    else:
        rows = connection.execute(_LISTED, (collection, after or "", limit))
    return [_document_of(text) for (text,) in rows]


def collections(connection: apsw.Connection) -> list[str]:
    """Return the collections that have documents."""
    return [name for (name,) in connection.execute(_COLLECTIONS)]
