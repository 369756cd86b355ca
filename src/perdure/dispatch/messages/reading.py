"""Looks at messages: one, those that wait, those that failed for good, and what became of them, page by page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from perdure.dispatch.messages.message import DELIVERY, UNENDED, digest, run_id_of
from perdure.dispatch.messages.showing import Delivery
from perdure.model.decision import RunFilter
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus
from perdure.store.contract import Store

COUNT = 100
"""How many a page has at most, unless less is asked for."""

COUNT_MOST = 1_000
"""How many a page may have."""

LOOKED_AT = 2_000
"""How many runs one page looks at; where few fit, it ends there, short, with a cursor."""

PAGE = 100


class Wanted(msgspec.Struct, frozen=True):
    """Which messages are meant; everything given must hold, of several values of one thing any.

    Attributes:
        ids: message ids.
        urls, hosts, paths: of the destination.
        groups, queues, schedules, labels, flows: names and keys.
        callers: addresses of those who published.
        created_from, created_until: published at or after, and at or before, in milliseconds since the epoch.
        response_statuses: what the last answer's status was.
        states: of events.
    """

    ids: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    created_from: int | None = None
    created_until: int | None = None
    response_statuses: tuple[int, ...] = ()
    states: tuple[str, ...] = ()

    def where(self, status: tuple[RunStatus, ...], until: int | None = None) -> RunFilter:
        """Return what the store looks for: what has one value; the rest is looked at afterwards."""
        tags = {name: values[0] for name, values in self._tags().items() if len(values) == 1}
        if len(self.labels) == 1:
            tags[f"label:{self.labels[0]}"] = "1"
        ends = [each for each in (until, None if self.created_until is None else self.created_until + 1) if each]
        return RunFilter(
            status,
            workflow=DELIVERY,
            tags=tags,
            created_from=self.created_from,
            created_until=min(ends) if ends else None,
        )

    def fits(self, run: Run) -> bool:
        """Return whether a run is meant, as far as it says."""
        if run.workflow != DELIVERY or (self.ids and run.id not in map(run_id_of, self.ids)):
            return False
        if any(values and run.tags.get(name) not in values for name, values in self._tags().items()):
            return False
        if self.labels and not any(f"label:{each}" in run.tags for each in self.labels):
            return False
        is_early = self.created_from is not None and run.created_at < self.created_from
        return not is_early and (self.created_until is None or run.created_at <= self.created_until)

    def fits_whole(self, delivery: Delivery) -> bool:
        """Return whether a message is meant whose run is."""
        if self.paths and (urlsplit(delivery.message.url).path or "/") not in self.paths:
            return False
        if not self.response_statuses:
            return True
        return bool(delivery.attempts) and delivery.attempts[-1][1].status in self.response_statuses

    @property
    def needs_journal(self) -> bool:
        """Whether a run alone does not say whether it is meant."""
        return bool(self.paths) or bool(self.response_statuses)

    def _tags(self) -> dict[str, tuple[str, ...]]:
        return {
            "url": tuple(map(digest, self.urls)),
            "host": self.hosts,
            "group": self.groups,
            "queue": self.queues,
            "schedule": self.schedules,
            "flow": self.flows,
            "caller": self.callers,
        }


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page goes on: at the store's cursor, so many further runs and entries on, among runs from before then."""

    until: int
    store: str | None = None
    runs: int = 0
    entries: int = 0

    def sealed(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


class Reading:
    """Looks at the messages of one namespace.

    Args:
        store: the namespace's.
        now: gives the present, in milliseconds since the epoch.
    """

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    async def one(self, message_id: str) -> Delivery | None:
        """Return a message that is not delivered, nor failed, nor cancelled; None for none."""
        found = await self._of([message_id], UNENDED)
        return found[0] if found else None

    async def dead_one(self, dlq_id: str) -> Delivery | None:
        """Return a message that failed for good; None for none."""
        found = await self._of([dlq_id], (RunStatus.ERRORED,))
        return found[0] if found else None

    async def dead(
        self, wanted: Wanted, count: int = COUNT, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of messages that failed for good, latest published first, and the cursor of the next.

        Raises:
            UsageError: the cursor is none, or the count is not from 1 to `COUNT_MOST`.
        """
        return await self._page(wanted, (RunStatus.ERRORED,), count, cursor, lambda delivery: [delivery.dead()])

    async def events(
        self, wanted: Wanted, count: int = COUNT, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of what became of messages, and the cursor of the next: message by message, latest first.

        Raises:
            UsageError: see `dead`.
        """
        states = {part for each in wanted.states for part in _STATES.get(each.upper(), (each.upper(),))}

        def entries(delivery: Delivery) -> list[dict[str, Any]]:
            return [each for each in delivery.events() if not states or each["state"] in states]

        return await self._page(wanted, (), count, cursor, entries)

    async def each(self, wanted: Wanted, status: tuple[RunStatus, ...], most: int) -> AsyncIterator[Run]:
        """Give the runs of the messages that are meant, at most so many."""
        left = most
        if wanted.ids:
            runs = [run for run in await self._store.get(list(map(run_id_of, wanted.ids))) if run is not None]
            for run in runs:
                if left and run.status in status and await self._fits(wanted, run):
                    left -= 1
                    yield run
            return
        cursor: str | None = None
        where = wanted.where(status)
        while left:
            page = await self._store.find(where, PAGE, cursor)
            for run in page.runs:
                if left and await self._fits(wanted, run):
                    left -= 1
                    yield run
            if (cursor := page.cursor) is None:
                return

    async def _fits(self, wanted: Wanted, run: Run) -> bool:
        if not wanted.fits(run) or self._is_forgotten(run):
            return False
        return not wanted.needs_journal or wanted.fits_whole(await self._whole(run))

    def _is_forgotten(self, run: Run) -> bool:
        """Return whether a run is only there until somebody tidies up."""
        return run.expires_at is not None and run.expires_at <= self._now()

    async def _whole(self, run: Run) -> Delivery:
        return Delivery(run, await self._store.journal(run.id))

    async def _of(self, message_ids: Sequence[str], status: tuple[RunStatus, ...]) -> list[Delivery]:
        runs = await self._store.get([run_id_of(each) for each in message_ids])
        wanted = [run for run in runs if run and run.workflow == DELIVERY and (not status or run.status in status)]
        return [await self._whole(run) for run in wanted if not self._is_forgotten(run)]

    async def _page(
        self,
        wanted: Wanted,
        status: tuple[RunStatus, ...],
        count: int,
        cursor: str | None,
        entries: Callable[[Delivery], list[dict[str, Any]]],
    ) -> tuple[list[dict[str, Any]], str | None]:
        if not 1 <= count <= COUNT_MOST:
            raise UsageError(f"count: {count} must be from 1 to {COUNT_MOST:,}")
        if wanted.ids:
            deliveries = await self._of(wanted.ids, status)
            fitting = [each for each in deliveries if wanted.fits(each.run) and wanted.fits_whole(each)]
            return [entry for each in fitting for entry in entries(each)][:COUNT_MOST], None
        place = _opened(cursor) if cursor else _Cursor(self._now() + 1)
        found: list[dict[str, Any]] = []
        where = wanted.where(status, place.until)
        looked_at = 0
        while True:
            page = await self._store.find(where, PAGE, place.store)
            for number, run in enumerate(page.runs[place.runs :], place.runs):
                looked_at += 1
                is_meant = wanted.fits(run) and not self._is_forgotten(run)
                delivery = await self._whole(run) if is_meant else None
                of_it = entries(delivery) if delivery is not None and wanted.fits_whole(delivery) else []
                first = place.entries if number == place.runs else 0
                room = count - len(found)
                if len(of_it) - first > room:
                    found += of_it[first : first + room]
                    return found, _Cursor(place.until, place.store, number, first + room).sealed()
                found += of_it[first:]
            if page.cursor is None:
                return found, None
            place = _Cursor(place.until, page.cursor)
            if len(found) >= count or looked_at >= LOOKED_AT:
                return found, place.sealed()


_STATES = {"IN_PROGRESS": ("ACTIVE", "RETRY", "ERROR"), "CANCELLED": ("CANCELED",)}


def _opened(cursor: str) -> _Cursor:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        found = msgspec.json.decode(raw, type=_Cursor)
        if not all(0 <= number < 2**53 for number in (found.until, found.runs, found.entries)):
            raise ValueError(f"{found} has a number that none has")
        return found
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise UsageError(f"cursor: {cursor[:80]!r} is none that a page came with") from None
