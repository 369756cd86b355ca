"""What operators do, written down ahead of it: an append-only log in the store, each entry bound to all before it.

An entry is a document under its number. Its hash is the SHA-256 of the hash before it and of the entry's own bytes, so
that none can be changed, taken out or put in without all behind it being made anew. Several servers append to one log:
a number can be taken once, and who comes late takes the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.engine.batch import Batch
from perdure.engine.env import Env
from perdure.model.document import Document
from perdure.model.errors import StoreConflictError
from perdure.server.namespaces import Namespaces
from perdure.server.principal import Principal
from perdure.server.security.refusals import Refusals
from perdure.store.contract import Store

COLLECTION = "audit"
"""Where it is, in each namespace's own store."""

START = "0" * 64
"""The hash before the first."""

DETAILS_BYTES = 65_536
"""The size of an entry's details; of larger ones their hash is kept."""

PAGE = 500
"""How many entries are looked at in one go."""

_TRIES = 100
_DIGITS = 15
_encode = msgspec.json.Encoder(order="sorted").encode


class Entry(msgspec.Struct, frozen=True):
    """One thing that somebody did, was about to do, or was refused.

    Attributes:
        number: 1, 2, 3, ….
        id: of this entry alone.
        at: when, in milliseconds since the epoch.
        who, kind, key: the principal's name, how they proved it, and the id of what they proved it with.
        action: as in `runs.terminate`.
        target: what it was done to, such as a run's id.
        reason: in the operator's words.
        details: what else matters of it.
        outcome: empty ahead of it; what came of it, where it was refused or failed.
    """

    number: int
    id: str
    at: int
    who: str
    kind: str
    key: str
    action: str
    target: str
    reason: str
    details: dict[str, Any]
    outcome: str


class Chained(msgspec.Struct, frozen=True):
    """An entry as it is kept: its very bytes, and the hash of them and of all before."""

    hash: str
    entry: msgspec.Raw

    def read(self) -> Entry:
        """Return the entry."""
        return msgspec.json.decode(self.entry, type=Entry)

    def is_behind(self, hash: str) -> bool:
        """Return whether it is what its hash says, behind the one with that hash."""
        return self.hash == _chained(hash, bytes(self.entry))


class Verdict(msgspec.Struct, frozen=True):
    """Whether a log is as it was written.

    Attributes:
        entries: how many entries hold, from the first on.
        head: the hash of the last of them. Who keeps it elsewhere can tell later whether the end was taken off.
        broken: the number of the first that does not; None where all do.
        message: what is wrong with it; empty where nothing is.
    """

    entries: int
    head: str
    broken: int | None = None
    message: str = ""


class Log:
    """The audit log of one namespace.

    Args:
        store: the namespace's.
        world: the clock and chance.
    """

    def __init__(self, store: Store, world: Env) -> None:
        self._store = store
        self._world = world
        self._last: tuple[int, str] | None = None
        self._batch: Batch[Entry, None] = Batch(self._append, world, insists=False)

    async def add(
        self,
        who: str,
        kind: str,
        action: str,
        target: str,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        *,
        key: str = "",
        outcome: str = "",
    ) -> None:
        """Write an entry; see `Entry` for what it takes.

        Raises:
            StoreError: it is not known to be written.
        """
        told = dict(details or {})
        if len(encoded := _encode(told)) > DETAILS_BYTES:
            told = {"bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}
        one = self._world.entropy(8).hex()
        at = self._world.now()
        await self._batch.call(Entry(0, one, at, who, kind, key, action, target, reason, told, outcome))

    async def page(self, limit: int, before: int | None = None) -> list[Entry]:
        """Return entries, latest first, from the one below number `before` on."""
        if before is None:
            found = await self._store.documents(COLLECTION, limit, newest_first=True)
        else:
            found = await self._store.documents(COLLECTION, limit, _key(before), newest_first=True)
        return [_read(document).read() for document in found]

    async def verify(self, anchor: tuple[int, str] | None = None) -> Verdict:
        """Go through the whole log.

        Args:
            anchor: the number and the hash of an entry that is known to have been there.
        """
        count, head = 0, START
        while found := await self._store.documents(COLLECTION, PAGE, _key(count) if count else None):
            for document in found:
                if message := _broken(document, count + 1, head):
                    return Verdict(count, head, count + 1, message)
                count, head = count + 1, _read(document).hash
                if anchor is not None and anchor[0] == count and anchor[1] != head:
                    return Verdict(count - 1, head, count, "it was another one: all from here on was made anew")
        if anchor is not None and anchor[0] > count:
            return Verdict(count, head, count + 1, "it is gone from the end of the log")
        return Verdict(count, head)

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._batch.close()

    async def _append(self, entries: Sequence[Entry]) -> list[None]:
        rest = list(entries)
        for _ in range(_TRIES):
            number, head = self._last or await self._find_last()
            self._last = None  # until it is known what became of the write
            documents = []
            for each in rest:
                number += 1
                numbered = _encode(replace(each, number=number))
                head = _chained(head, numbered)
                text = msgspec.json.encode(Chained(head, msgspec.Raw(numbered))).decode()
                documents.append(Document(COLLECTION, _key(number), text, 0, each.at))
            written = await self._store.put(documents)
            if all(written):
                self._last = number, head
                return [None] * len(entries)
            rest = rest[sum(written) :]
        raise StoreConflictError("the audit log is being written by too many others; try again")

    async def _find_last(self) -> tuple[int, str]:
        found = await self._store.documents(COLLECTION, 1, newest_first=True)
        return (int(found[0].key), _read(found[0]).hash) if found else (0, START)


class Auditor:
    """Writes what operators do to the logs of their namespaces.

    Args:
        namespaces: the server's.
    """

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._logs: dict[str, Log] = {}
        self._refusals = Refusals(self._refuse, namespaces.default.world)

    def log(self, namespace: str) -> Log:
        """Return the log of a namespace that is there."""
        if namespace not in self._logs:
            app = self._namespaces.engine(namespace)
            assert app is not None
            self._logs[namespace] = Log(app.store, app.world)
        return self._logs[namespace]

    async def record(
        self,
        principal: Principal,
        namespace: str,
        action: str,
        target: str,
        reason: str,
        details: Mapping[str, Any],
        outcome: str = "",
    ) -> None:
        """Write down that somebody does something; where it cannot be, it must not be done.

        Raises:
            StoreError: it could not be written.
        """
        await self.log(namespace).add(
            principal.name, principal.kind, action, target, reason, details, key=principal.id, outcome=outcome
        )

    async def refuse(
        self,
        principal: Principal,
        namespace: str,
        action: str,
        target: str,
        outcome: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down that somebody was refused something: by itself, or later, in a count of many.

        Raises:
            StoreError: it could not be written.
        """
        await self._refusals.add(principal, namespace, action, target, outcome, details or {})

    async def _refuse(
        self,
        principal: Principal,
        namespace: str,
        action: str,
        target: str,
        details: Mapping[str, Any],
        outcome: str,
    ) -> None:
        await self.record(principal, namespace, action, target, "", details, outcome)

    async def close(self) -> None:
        """Write down what is not yet, and wait for what is being written."""
        await self._refusals.close()
        for log in self._logs.values():
            await log.close()


def _broken(document: Document, number: int, before: str) -> str:
    """Return what is wrong with an entry that is to have a number, behind one with that hash."""
    if document.key != _key(number):
        return f"it is gone: the next one there is {document.key.lstrip('0') or document.key!r}"
    try:
        chained = _read(document)
        entry = chained.read()
    except msgspec.DecodeError as error:
        return f"it cannot be read: {error}"
    if not chained.is_behind(before):
        return "it is not what was written, or not behind what was written ahead of it"
    return "" if entry.number == number else f"it says that it is number {entry.number}"


def _read(document: Document) -> Chained:
    return msgspec.json.decode(document.text or "", type=Chained)


def _chained(before: str, entry: bytes) -> str:
    return hashlib.sha256(before.encode() + entry).hexdigest()


def _key(number: int) -> str:
    return f"{number:0{_DIGITS}d}"
