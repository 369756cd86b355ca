"""Waiting for the end of runs: told at once by this process's worker, looked up for what others run.

What was told to nobody is kept for the next who asks, so that the result of a run that was just started and worked
here costs no look at the store. It is believed once, and not for long: a run that has ended may begin anew in any
process. That a run is parked is never kept, since whoever mends it does not tell us.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable
from typing import TypeAlias

from perdure.core.wait import decode_waits
from perdure.model.errors import RunNotFoundError, StoreUnavailableError
from perdure.model.run import Run, RunStatus

BELIEVED = 15.0
"""Seconds for which an end that nobody waited for is kept."""

End: TypeAlias = tuple[RunStatus, str | None]
"""How a run ended, with its output; or that it needs somebody's help: `paused` stands for parked, and the text says
why; with `compensation_failed`, undos failed."""


class Ending:
    """The end of one run, as far as it is known here."""

    __slots__ = ("__weakref__", "_kept", "_kept_until", "futures", "run_id")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.futures: list[asyncio.Future[End]] = []
        self._kept: End | None = None
        self._kept_until = 0.0

    def is_known(self) -> bool:
        """Return whether an end is kept for the next who asks."""
        return self._kept is not None and asyncio.get_running_loop().time() < self._kept_until

    def kept(self) -> End | None:
        """Return the end that is kept; None for none."""
        return self._kept if self.is_known() else None

    def take(self) -> End | None:
        """Return the end that is kept, and keep it no longer; None for none."""
        kept, self._kept = self.kept(), None
        return kept

    def tell(self, end: End) -> bool:
        """Tell whoever waits; return whether anybody does."""
        futures, self.futures = self.futures, []
        waiting = [future for future in futures if not future.done()]
        for future in waiting:
            future.set_result(end)
        return bool(waiting)

    def keep(self, end: End | None) -> None:
        """Keep the end for the next who asks; None forgets what was kept."""
        self._kept, self._kept_until = end, asyncio.get_running_loop().time() + BELIEVED

    def fail(self, error: Exception) -> None:
        """Tell whoever waits that the end will not be known."""
        futures, self.futures = self.futures, []
        for future in futures:
            if not future.done():
                future.set_exception(error)

    async def wait(self) -> End:
        """Wait for the end."""
        future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        try:
            return await future
        finally:
            if future in self.futures:
                self.futures.remove(future)


class Endings:
    """The endings that somebody holds, by run id; forgotten with the last holder."""

    def __init__(self) -> None:
        self._endings: weakref.WeakValueDictionary[str, Ending] = weakref.WeakValueDictionary()
        self._is_closed = False

    def of(self, run_id: str) -> Ending:
        """Return the ending of a run."""
        ending = self._endings.get(run_id)
        if ending is None:
            ending = self._endings[run_id] = Ending(run_id)
        return ending

    def ended(self, run_id: str, status: RunStatus, payload: str | None) -> None:
        """Tell of a run that this process ended, or that needs somebody's help."""
        ending = self._endings.get(run_id)
        if ending is not None and not ending.tell((status, payload)) and status.is_finished:
            ending.keep((status, payload))

    def forget(self, run_ids: Iterable[str]) -> None:
        """Forget what is kept of runs that begin anew or go on."""
        for run_id in run_ids:
            ending = self._endings.get(run_id)
            if ending is not None:
                ending.keep(None)

    def see(self, run_id: str, run: Run | None) -> bool:
        """Tell of a run as the store has it, or has it no more; return whether that ended a wait."""
        ending = self._endings.get(run_id)
        if ending is None:
            return False
        if run is None:
            ending.fail(not_found(run_id))
            return True
        end = end_of(run)
        return end is not None and ending.tell(end)

    def awaited(self) -> list[str]:
        """Return the ids of the runs that somebody waits for."""
        return [ending.run_id for ending in list(self._endings.values()) if ending.futures]

    async def wait(self, ending: Ending) -> End:
        """Wait for the end of a run.

        Raises:
            RunNotFoundError: the run was removed. StoreUnavailableError: the engine is closed.
        """
        if self._is_closed:
            raise _closed(ending.run_id)
        return await ending.wait()

    def close(self) -> None:
        """Let nobody wait any longer: nobody is left to tell them."""
        self._is_closed = True
        for ending in list(self._endings.values()):
            ending.fail(_closed(ending.run_id))


def end_of(run: Run) -> End | None:
    """Return how a run ended, or why it is parked, or that undos failed; None when it goes on."""
    if run.status.is_finished:
        return run.status, run.output
    if run.status is RunStatus.PAUSED and (reason := parked_reason(run)) is not None:
        return run.status, reason
    if run.status is RunStatus.COMPENSATION_FAILED and run.due_at is None:  # else a decision of an operator is there
        return run.status, None
    return None


def parked_reason(run: Run) -> str | None:
    """Return why a run is parked; None when it is not."""
    return next((wait.detail for wait in decode_waits(run.wait).waits if wait.kind == "parked"), None)


def not_found(run_id: str) -> RunNotFoundError:
    """Return the error for a run that is not there."""
    return RunNotFoundError(f"no run {run_id!r}: it was never started, or retention has removed it")


def _closed(run_id: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"this engine was closed while the result of run {run_id!r} was waited for")
