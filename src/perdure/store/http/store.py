"""The store behind a Perdure server: what a client asks of it, asked over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from perdure.model.archive import Archive, ArchivePage
from perdure.model.decision import (
    Action,
    CatalogEntry,
    Claim,
    Committed,
    Control,
    Controlled,
    Decision,
    Extended,
    Lease,
    Message,
    Posted,
    RunFilter,
    RunPage,
    Stats,
    StoredDefinition,
    StoreInfo,
)
from perdure.model.document import Document, require_puttable
from perdure.model.errors import PerdureError, UsageError
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.contract import Transaction
from perdure.store.http.connections import Connections
from perdure.store.http.errors import RequestTooLargeError, unreadable
from perdure.store.http.settings import Settings
from perdure.store.operations import DOCUMENTS, MOST, OPERATIONS, RECORDS, WAIT, Heard, Records, Wait

T = TypeVar("T")

BODY_BYTES = 1_000_000
"""How many bytes of items go into one request, unless one item alone is larger: a server takes 1 MiB by default."""

REST = 0.1
"""Seconds between two hints at least."""

AFTER_FAILURE = 1.0
"""Seconds that pass, instead of a hint, when the server cannot be asked for one."""

_encode = msgspec.json.Encoder().encode


class HttpStore:
    """See `perdure.store.contract.Store`. It does what clients do; a server hands out no work.

    Args:
        url: of the server.
        options: see docs/server.md.
    """

    writes_at_once = 3
    handing = None

    def __init__(self, url: str, **options: Any) -> None:
        self._settings = Settings(url, options)
        self._connections = Connections(self._settings)
        self._last = ""
        self._rest_until = 0.0

    async def open(self) -> None:
        """See the contract; a server that cannot be reached is not waited for."""
        self._connections.open()
        try:
            await self._ask("describe", is_first=True)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See the contract."""
        await self._connections.close()

    # What clients do.

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract; a run for a worker is refused."""
        return await _in_parts(runs, lambda part: self._ask("create", runs=part))

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """See the contract; the server's own capacity counts, if it is smaller."""
        return await _in_parts(messages, lambda part: self._ask("post", messages=part, now=now, capacity=capacity))

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """See the contract."""
        may_repeat = all(action.action is not Action.RESTART for action in actions)
        return await _in_parts(actions, lambda part: self._ask("control", may_repeat, actions=part, now=now))

    async def prune(self, before: int, limit: int) -> int:
        """See the contract."""
        removed: int = await self._ask("prune", before=before, limit=min(limit, MOST))
        return removed

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """See the contract."""
        return await _in_parts(run_ids, self._get)

    async def _get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """Ask for runs, and again for those that no longer went into an answer."""
        found: list[Run | None] = []
        while len(found) < len(run_ids):
            found += self._part(await self._ask("get", run_ids=run_ids[len(found) :]))
        return found

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """See the contract."""
        found: list[Record] = []
        while limit is None or len(found) < limit:
            wanted = RECORDS if limit is None else min(RECORDS, limit - len(found))
            page: Records = await self._ask("journal", run_id=run_id, after=after, limit=wanted)
            if page.is_last:
                return [*found, *page.records]
            found += self._part(page.records)
            after = found[-1].position
        return found

    async def inbox(self, run_id: str) -> list[Message]:
        """See the contract."""
        found: list[Message] = await self._ask("inbox", run_id=run_id)
        return found

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """See the contract."""
        found: list[Run] = []
        while True:
            wanted = min(MOST, limit - len(found))
            page: RunPage = await self._ask("find", where=where, limit=wanted, cursor=cursor)
            found += page.runs
            cursor = page.cursor
            if cursor is None or len(found) >= limit:
                return RunPage(found, cursor)

    async def stats(self, now: int) -> Stats:
        """See the contract."""
        found: Stats = await self._ask("stats", now=now)
        return found

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """See the contract; the server publishes definitions alone, and in its own words."""
        await self._ask("publish", entries=entries)

    async def catalog(self) -> list[CatalogEntry]:
        """See the contract."""
        found: list[CatalogEntry] = await self._ask("catalog")
        return found

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """See the contract."""
        return await _in_parts(definitions, lambda part: self._ask("define", definitions=part))

    async def definitions(self) -> list[StoredDefinition]:
        """See the contract."""
        found: list[StoredDefinition] = await self._ask("definitions")
        return found

    async def put(self, documents: Sequence[Document]) -> list[bool]:
        """See the contract; of applications' collections alone."""
        require_puttable(documents)
        is_refused = False

        async def put(part: Sequence[Document]) -> list[bool]:
            nonlocal is_refused
            if is_refused:
                return [False] * len(part)
            written: list[bool] = await self._ask("put", documents=part)
            is_refused = not all(written)
            return written

        return await _in_parts(documents, put)

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """See the contract."""
        return await _in_parts(keys, lambda part: self._ask("read", collection=collection, keys=part), DOCUMENTS)

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """See the contract."""
        found: list[Document] = []
        while len(found) < limit:
            wanted = min(DOCUMENTS, limit - len(found))
            page: list[Document] = await self._ask(
                "documents", collection=collection, limit=wanted, after=after, newest_first=newest_first
            )
            found += page
            if len(page) < wanted:
                break
            after = page[-1].key
        return found

    async def collections(self) -> list[str]:
        """See the contract; those that may be seen."""
        found: list[str] = await self._ask("collections")
        return found

    async def queues(self) -> list[QueueState]:
        """See the contract."""
        found: list[QueueState] = await self._ask("queues")
        return found

    async def set_queue(self, state: QueueState) -> bool:
        """See the contract."""
        is_kept: bool = await self._ask("set_queue", state=state)
        return is_kept

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """See the contract."""
        view: QueueView | None = await self._ask(
            "look_into", queue=queue, now=now, keys=keys, each=each, after=after, workflows=workflows
        )
        return view

    async def wait(self, timeout: float) -> bool:
        """See the contract; the server is asked to answer when something has changed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await asyncio.sleep(min(timeout, max(0.0, self._rest_until - loop.time())))
        while (left := deadline - loop.time()) > 0:
            waits = min(left, WAIT)
            try:
                body = _encode(Wait(waits, self._last))
                answer = await self._connections.ask("wait", body, waits=waits)
                heard = msgspec.json.decode(answer, type=Heard)
            except (PerdureError, msgspec.MsgspecError, UnicodeError):  # only a hint: whoever asks for more is told
                if not self._connections.is_open:
                    raise
                await asyncio.sleep(min(AFTER_FAILURE, left))
                return False
            if heard.last != self._last:
                self._last, self._rest_until = heard.last, loop.time() + REST
                return True
        return False

    async def describe(self) -> StoreInfo:
        """See the contract; what it says of the store behind the server depends on who asks."""
        info: StoreInfo = await self._ask("describe")
        settings = {**info.settings, "namespace": self._settings.namespace or "default"}
        warnings = info.warnings
        if self._settings.is_open and self._settings.api_key is not None:
            warnings += ("the API key can be read on its way to the server: use https://",)
        return replace(info, url=self._settings.shown, settings=settings, warnings=warnings)

    async def clock(self) -> int | None:
        """See the contract."""
        at: int | None = await self._ask("clock")
        return at

    # What workers do, and those who move runs.

    async def claim(
        self,
        queues: Sequence[str],
        limit: int,
        worker: str,
        now: int,
        until: int,
        workflows: Sequence[str] | None = None,
    ) -> list[Claim]:
        """Refuse it."""
        raise self._no_work()

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """Refuse it."""
        raise self._no_work()

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """Refuse it."""
        raise self._no_work()

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """Refuse it."""
        raise self._no_work()

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """Refuse it."""
        raise self._no_work()

    async def begin(self) -> Transaction:
        """Refuse it."""
        raise self._no_database()

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """Refuse it."""
        raise self._no_database()

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """Refuse it."""
        raise self._no_move()

    async def load(self, archives: Sequence[Archive]) -> int:
        """Refuse it."""
        raise self._no_move()

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """Refuse it."""
        raise UsageError(f"{self._settings.shown} is a server: give the URL of the store itself")

    def _no_work(self) -> UsageError:
        return UsageError(f"{self._settings.shown}: a server does not hand out work over HTTP; use mode='client'")

    def _no_database(self) -> UsageError:
        return UsageError(f"tx: {self._settings.shown} is a server: give the URL of the store itself, or leave tx out")

    def _no_move(self) -> UsageError:
        return UsageError(f"{self._settings.shown} is a server: runs are moved between stores, so give the store's URL")

    def _part(self, part: list[T]) -> list[T]:
        """Return a part of an answer, behind which there is more."""
        if not part:
            raise unreadable(self._settings.shown, ValueError("an answer that ends before it begins"))
        return part

    async def ask_of_turn(self, name: str, token: str, body: bytes) -> bytes:
        """Return the answer to what an endpoint asks in the middle of a turn; see `perdure.dispatch.callbacks`.

        Args:
            name: what it asks: `commit`, `extend` or `inbox`.
            token: of the turn.
            body: as the protocol has it.
        """
        return await self._connections.ask(name, body, token=token)

    async def _ask(self, name: str, may_repeat: bool = True, /, *, is_first: bool = False, **arguments: Any) -> Any:
        answer = await self._connections.ask(name, _encode(arguments), may_repeat=may_repeat, is_first=is_first)
        try:
            return OPERATIONS[name].read_answer(answer)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise unreadable(self._settings.shown, error) from None


async def _in_parts(
    items: Sequence[Any], ask: Callable[[Sequence[Any]], Awaitable[list[T]]], most: int = MOST
) -> list[T]:
    """Ask for a list in as few parts as the server takes, in their order."""
    if len(items) > most or (len(items) > 1 and len(_encode(items)) > BODY_BYTES):
        middle = most if len(items) > most else (len(items) + 1) // 2
        return [*await _in_parts(items[:middle], ask, most), *await _in_parts(items[middle:], ask, most)]
    try:
        return await ask(items)
    except RequestTooLargeError:
        if len(items) < 2:
            raise
    middle = len(items) // 2
    return [*await _in_parts(items[:middle], ask, most), *await _in_parts(items[middle:], ask, most)]
