"""Documents: each is changed by whoever knows its revision."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.model.document import Document
from perdure.store.postgres.connections import Session

_BEGIN = """
INSERT INTO perdure.documents (collection, key, revision, at, text) VALUES ($1, $2, 1, $3, $4)
ON CONFLICT DO NOTHING RETURNING true
"""

_CHANGE = """
UPDATE perdure.documents SET revision = revision + 1, at = $3, text = $4
WHERE collection = $1 AND key = $2 AND revision = $5 RETURNING true
"""

_REMOVE = "DELETE FROM perdure.documents WHERE collection = $1 AND key = $2 AND revision = $3 RETURNING true"

_DOCUMENT = "d.collection, d.key, d.text, d.revision, d.at"

_READ = f"SELECT {_DOCUMENT} FROM perdure.documents AS d WHERE d.collection = $1 AND d.key = ANY($2::text[])"

_LISTED = f"""
SELECT {_DOCUMENT} FROM perdure.documents AS d WHERE d.collection = $1 AND d.key > $2 ORDER BY d.key LIMIT $3
"""

_NEWEST = f"""
SELECT {_DOCUMENT} FROM perdure.documents AS d WHERE d.collection = $1 AND d.key < $2 ORDER BY d.key DESC LIMIT $3
"""

_COLLECTIONS = """
WITH RECURSIVE found (name) AS (
    SELECT (SELECT collection FROM perdure.documents ORDER BY collection LIMIT 1)
    UNION ALL
    SELECT (SELECT d.collection FROM perdure.documents AS d WHERE d.collection > f.name ORDER BY d.collection LIMIT 1)
    FROM found AS f WHERE f.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL ORDER BY name
"""

_LAST = "\U0010ffff"
"""Behind every key: no character is greater, and this one is not printable."""


async def put(session: Session, documents: Sequence[Document]) -> list[bool]:
    """Write documents until one is refused; say of each whether it was written."""
    answers: list[bool] = []
    for document in documents:
        answers.append(all(answers[-1:]) and await _put_one(session, document))
    return answers


async def _put_one(session: Session, document: Document) -> bool:
    place = (document.collection, document.key)
    if document.text is None:
        written = await session.fetch(_REMOVE, *place, document.revision)
    elif document.revision == 0:
        written = await session.fetch(_BEGIN, *place, document.at, document.text)
    else:
        written = await session.fetch(_CHANGE, *place, document.at, document.text, document.revision)
    return bool(written) or await read(session, document.collection, [document.key]) == [document.kept]


async def read(session: Session, collection: str, keys: Sequence[str]) -> list[Document | None]:
    """Return documents by their keys."""
    rows = await session.fetch(_READ, collection, list(dict.fromkeys(keys)))
    kept = {row["key"]: Document(*row) for row in rows}
    return [kept.get(key) for key in keys]


async def listed(
    session: Session, collection: str, limit: int, after: str | None, newest_first: bool
) -> list[Document]:
    """Return documents in the order of their keys, or the other way round."""
    if newest_first:
        rows = await session.fetch(_NEWEST, collection, _LAST if after is None else after, limit)
    else:
        rows = await session.fetch(_LISTED, collection, after or "", limit)
    return [Document(*row) for row in rows]


async def collections(session: Session) -> list[str]:
    """Return the collections that have documents."""
    return [row["name"] for row in await session.fetch(_COLLECTIONS)]
