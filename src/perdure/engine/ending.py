"""Waiting for the end of runs: told at once by this process's worker, looked up for what others run."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable

from perdure.core.wait import decode_waits
from perdure.model.run import Run, RunStatus


class Ending:
    """The end of one run, as far as it is known here."""

    __slots__ = ("__weakref__", "futures", "payload", "run_id", "status")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.status: RunStatus | None = None
        self.payload: str | None = None
        self.futures: list[asyncio.Future[None]] = []

    def is_known(self) -> bool:
        """Return whether the run is known to have ended, or to be parked."""
        return self.status is not None

    def set(self, status: RunStatus, payload: str | None) -> None:
        """Tell whoever waits. `paused` stands for parked: it needs somebody's help."""
        self.status, self.payload = status, payload
        futures, self.futures = self.futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Wait until the end is known."""
        if self.status is None:
            future = asyncio.get_running_loop().create_future()
            self.futures.append(future)
            await future


class Endings:
    """The endings that somebody holds, by run id; forgotten with the last holder."""

    def __init__(self) -> None:
        self._endings: weakref.WeakValueDictionary[str, Ending] = weakref.WeakValueDictionary()

    def of(self, run_id: str) -> Ending:
        """Return the ending of a run."""
        ending = self._endings.get(run_id)
        if ending is None:
            ending = self._endings[run_id] = Ending(run_id)
        return ending

    def ended(self, run_id: str, status: RunStatus, payload: str | None) -> None:
        """Tell of a run that ended."""
        ending = self._endings.get(run_id)
        if ending is not None:
            ending.set(status, payload)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Forget what is known of runs that begin anew or go on."""
        for run_id in run_ids:
            ending = self._endings.get(run_id)
            if ending is not None:
                ending.status = ending.payload = None

    def see(self, run: Run) -> None:
        """Take note of a run as the store has it."""
        if run.status.is_finished:
            self.ended(run.id, run.status, run.output)
        elif run.status is RunStatus.PAUSED and (reason := parked_reason(run)) is not None:
            self.ended(run.id, run.status, reason)

    def awaited(self) -> list[str]:
        """Return the ids of the runs that somebody waits for."""
        return [ending.run_id for ending in list(self._endings.values()) if ending.futures]


def parked_reason(run: Run) -> str | None:
    """Return why a run is parked; None when it is not."""
    return next((wait.detail for wait in decode_waits(run.wait).waits if wait.kind == "parked"), None)
