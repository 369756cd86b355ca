"""Looks at runs of the workflow protocol: their entries, and logs and dead letters page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec

from perdure.dispatch.messages.message import digest
from perdure.dispatch.messages.showing import Delivery
from perdure.dispatch.upstash.ledger import ledger_of, trigger_of
from perdure.dispatch.upstash.showing import STATES, Shown
from perdure.dispatch.upstash.submission import WORKFLOW, Entry, failure_id_of
from perdure.engine.app import Perdure
from perdure.model.decision import RunFilter
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus

LOOKED_AT = 2_000
"""How many runs one page looks at; where few fit, it ends there, short, with a cursor."""

COUNT_MOST = 1_000
"""How many runs a page may have."""


class WantedRuns(msgspec.Struct, frozen=True):
    """Which runs are meant; everything given must hold, of several values of one thing any.

    Attributes:
        ids: run ids.
        urls: of endpoints.
        beginnings: with which URLs of endpoints begin.
        hosts, paths: of those URLs.
        labels, flows, callers: labels, flow-control keys, and addresses of those who triggered.
        created_at: when it was created, in milliseconds since the epoch.
        created_from, created_until: created at or after, and at or before.
        states: as the API calls them.
        callback_states: of the messages that tell of failures.
        message_ids: of which the run has one.
    """

    ids: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    beginnings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    created_at: int | None = None
    created_from: int | None = None
    created_until: int | None = None
    states: tuple[str, ...] = ()
    callback_states: tuple[str, ...] = ()
    message_ids: tuple[str, ...] = ()

    def where(self, status: tuple[RunStatus, ...]) -> RunFilter:
        """Return what the store looks for: what has one value; the rest is looked at afterwards."""
        tags = {name: values[0] for name, values in self._tags().items() if len(values) == 1}
        if len(self.labels) == 1:
            tags[f"label:{self.labels[0]}"] = "1"
        until = None if self.created_until is None else self.created_until + 1
        return RunFilter(status, workflow=WORKFLOW, tags=tags, created_from=self.created_from, created_until=until)

    def statuses(self) -> tuple[RunStatus, ...]:
        """Return the statuses that are meant.

        Raises:
            UsageError: a state is none.
        """
        for state in self.states:
            if state not in STATES:
                raise UsageError(f"state: {state[:40]!r} must be one of {', '.join(STATES)}")
        return tuple(status for state in self.states for status in STATES[state])

    def fits(self, run: Run) -> bool:
        """Return whether a run is meant, as far as its row says."""
        if run.workflow != WORKFLOW or (self.ids and run.id not in self.ids):
            return False
        if any(values and run.tags.get(name) not in values for name, values in self._tags().items()):
            return False
        if self.labels and not any(f"label:{each}" in run.tags for each in self.labels):
            return False
        if self.created_at is not None and run.created_at != self.created_at:
            return False
        is_early = self.created_from is not None and run.created_at < self.created_from
        return not is_early and (self.created_until is None or run.created_at <= self.created_until)

    def fits_url(self, url: str) -> bool:
        """Return whether an endpoint is meant."""
        if self.paths and (urlsplit(url).path or "/") not in self.paths:
            return False
        return not self.beginnings or url.startswith(self.beginnings)

    def fits_whole(self, shown: Shown) -> bool:
        """Return whether a run is meant, as its journal says."""
        if self.callback_states and shown.callback_state not in self.callback_states:
            return False
        ids = {noted.entry.message_id for noted in shown.ledger.entries} if self.message_ids else set()
        return not self.message_ids or not ids.isdisjoint(self.message_ids)

    @property
    def needs_url(self) -> bool:
        """Whether a run's row does not say whether it is meant, but its endpoint does."""
        return bool(self.paths or self.beginnings)

    def _tags(self) -> dict[str, tuple[str, ...]]:
        urls = tuple(map(digest, self.urls))
        return {"url": urls, "host": self.hosts, "flow": self.flows, "caller": self.callers}


class Reading:
    """The runs of one namespace.

    Args:
        app: the namespace's engine.
    """

    def __init__(self, app: Perdure) -> None:
        self._app = app

    async def entries(self, run_id: str) -> list[Entry] | None:
        """Return the entries of a run that goes on; None if there is none such."""
        (run,) = await self._app.store.get([run_id])
        if run is None or run.workflow != WORKFLOW or run.status.is_finished:
            return None
        ledger = ledger_of(await self._app.store.journal(run_id))
        return [noted.entry for noted in ledger.entries]

    async def one(self, run_id: str) -> Shown | None:
        """Return a run; None if there is none such."""
        (run,) = await self._app.store.get([run_id])
        return None if run is None or run.workflow != WORKFLOW else await self._shown(run)

    async def page(self, wanted: WantedRuns, count: int, cursor: str | None = None) -> tuple[list[Shown], str | None]:
        """Return runs that are meant, latest first, and the cursor of the next page; None when this was the last.

        Raises:
            UsageError: a state, the count or the cursor is none.
        """
        if not 1 <= count <= COUNT_MOST:
            raise UsageError(f"count: {count} must be from 1 to {COUNT_MOST:,}")
        status = wanted.statuses()
        found: list[Shown] = []
        if wanted.ids:
            for run in await self._app.store.get(list(wanted.ids)):
                if run is not None and (not status or run.status in status):
                    found += await self._fitting(wanted, run)
            return found, None
        looked_at = 0
        while True:
            page = await self._app.store.find(wanted.where(status), count - len(found), cursor)
            for run in page.runs:
                found += await self._fitting(wanted, run)
            cursor, looked_at = page.cursor, looked_at + len(page.runs)
            if cursor is None or len(found) >= count or looked_at >= LOOKED_AT:
                return found, cursor

    async def each(self, wanted: WantedRuns, status: tuple[RunStatus, ...], most: int) -> AsyncIterator[Shown]:
        """Give runs that are meant, at most so many."""
        wanted = msgspec.structs.replace(
            wanted, states=tuple(state for state, statuses in STATES.items() if set(statuses) <= set(status))
        )
        cursor: str | None = None
        while most > 0:
            found, cursor = await self.page(wanted, min(most, 100), cursor)
            for shown in found[:most]:
                yield shown
            most -= len(found)
            if cursor is None:
                return

    async def _fitting(self, wanted: WantedRuns, run: Run) -> list[Shown]:
        """Return a run, if it is meant."""
        if not wanted.fits(run):
            return []
        if wanted.needs_url:
            first = await self._app.store.journal(run.id, -1, 1)
            if not first or not wanted.fits_url(trigger_of(first[0]).url):
                return []
        shown = await self._shown(run)
        return [shown] if shown is not None and wanted.fits_whole(shown) else []

    async def _shown(self, run: Run) -> Shown | None:
        records = await self._app.store.journal(run.id)
        if not records:
            return None
        told = None
        if run.status is RunStatus.ERRORED:
            (row,) = await self._app.store.get([failure_id_of(run)])
            if row is not None:
                told = Delivery(row, await self._app.store.journal(row.id))
        if run.status is RunStatus.COMPLETE and run.output is None:
            (run,) = [each for each in await self._app.store.get([run.id]) if each is not None] or [run]
        return Shown(run, records, told)
