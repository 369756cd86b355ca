"""Documents: each is changed by whoever knows its revision. Those of one collection are on one shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.model.document import Document
from perdure.model.limits import DOCUMENT_BYTES
from perdure.store.redis.keys import Shard, home_of_name
from perdure.store.redis.shards import PIECE, PIECE_BYTES, Shards, pieces

READ_AT_ONCE = PIECE_BYTES // DOCUMENT_BYTES
"""How many documents, which may all be long, one script reads."""


async def put(shards: Shards, documents: Sequence[Document]) -> list[bool]:
    """Write documents until one is refused; say of each whether it was written."""
    written = 0
    for shard, some in _runs_of(shards, documents):
        texts = [_kept(document) for document in some if document.text is not None]
        asked = [part for document in some for part in (_begin(document), document.revision, document.text is None)]
        answer: int = await shards.calls.run(shard, "put", asked, texts, writes=True)
        written += answer
        if answer < len(some):
            break
    return [place < written for place in range(len(documents))]


def _runs_of(shards: Shards, documents: Sequence[Document]) -> Iterator[tuple[Shard, list[Document]]]:
    """Cut documents, in their order, into what one script can be sent."""
    home, some, size = None, list[Document](), 0
    for document in documents:
        shard, more = _home(shards, document.collection), len(document.text or "")
        if home is not None and (shard is not home or len(some) == PIECE or size + more > PIECE_BYTES):
            yield home, some
            some, size = [], 0
        home = shard
        some.append(document)
        size += more
    if home is not None:
        yield home, some


async def read(shards: Shards, collection: str, keys: Sequence[str]) -> list[Document | None]:
    """Return documents by their keys."""
    found: list[Document | None] = []
    for piece in pieces(keys, READ_AT_ONCE):
        asked = [f"{collection}\0{key}\0" for key in piece]
        kept = await shards.calls.run(_home(shards, collection), "read", asked, writes=False)
        found += [None if text is None else _document_of(text) for text in kept]
    return found


async def listed(shards: Shards, collection: str, limit: int, after: str | None, newest_first: bool) -> list[Document]:
    """Return documents in the order of their keys, or the other way round."""
    found: list[Document] = []
    while len(found) < limit:
        last = found[-1].key if found else after
        if newest_first:
            span = (f"({collection}\1" if last is None else f"({collection}\0{last}\0", f"[{collection}\0")
        else:  # behind the last one's revision, which is made of digits
            span = (f"[{collection}\0" if last is None else f"[{collection}\0{last}\0:", f"({collection}\1")
        wanted = limit - len(found)
        asked = (*span, wanted, PIECE_BYTES, newest_first)
        page = await shards.calls.run(_home(shards, collection), "documents", asked, writes=False)
        found += map(_document_of, page)
        if len(page) < wanted and sum(map(len, page)) < PIECE_BYTES:
            break
    return found


async def collections(shards: Shards) -> list[str]:
    """Return the collections that have documents."""
    names = await shards.calls.look(shards.all, "collections", None)
    return sorted(name.decode() for some in names for name in some)


def _home(shards: Shards, collection: str) -> Shard:
    return shards.all[home_of_name(collection, len(shards.all))]


def _begin(document: Document) -> str:
    return f"{document.collection}\0{document.key}\0"


def _kept(document: Document) -> bytes:
    return f"{document.revision + 1}:{document.at}:{document.text}".encode()


def _document_of(member: bytes) -> Document:
    collection, key, kept = member.decode().split("\0", 2)
    revision, at, text = kept.split(":", 2)
    return Document(collection, key, text, int(revision), int(at))
