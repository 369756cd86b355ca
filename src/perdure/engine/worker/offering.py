"""How a worker that has little to do is handed new runs, and need not claim them: `perdure.store.handing`.

The offer takes one of its places, which is taken back when it is needed for something else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.model.decision import Claim
from perdure.model.errors import StoreError

if TYPE_CHECKING:
    from perdure.engine.worker.places import Places
    from perdure.engine.worker.worker import Worker

LITTLE = 8
"""Up to how many runs in hand a worker offers to take another one; beyond, it claims many in one go."""

AGAIN = 0.001
"""After how many seconds it offers again while it works on what it was handed; sooner when that has ended."""

OFFERED_MS = 15_000
"""After how many milliseconds a worker offers again, as the store may have forgotten it."""

_log = logging.getLogger("perdure.engine")


class Offering:
    """What a worker has offered.

    Args:
        worker: which.
        places: where it has room.
    """

    def __init__(self, worker: Worker, places: Places) -> None:
        self._worker = worker
        self._handing = worker.store.handing
        self._places = places
        self._offered_at = 0

    async def offer(self, queues: Sequence[str], workflows: Sequence[str]) -> bool:
        """Offer to take a run of these queues and workflows, if there is room; return whether one is due instead."""
        worker, places, now = self._worker, self._places, self._worker.env.now()
        if self._handing is None or worker.is_stopping or not queues or not workflows:
            return False
        if places.offered:
            if 0 <= now - self._offered_at < OFFERED_MS:
                return False
        elif places.taken >= LITTLE or places.room() < 2:  # one of them for what is claimed, or started here
            return False
        places.offered, self._offered_at = 1, now
        try:
            if await self._handing.offer(queues, worker.id, now, worker.settings.lease_ms, workflows):
                return False
        except StoreError as error:
            _log.debug("no run could be offered to take: %s", error)
            return False
        places.offered = 0
        return True

    async def has_room(self) -> bool:
        """Return whether there is room for another run; where there is none else, the offer's place is taken back."""
        if self._places.room() <= 0 < self._places.offered:
            await self.end()
        return self._places.room() > 0

    async def end(self) -> None:
        """Offer nothing any more; what was handed over by now is begun."""
        if self._handing is not None and self._offered_at:
            await self._begin(await self._handing.withdraw(self._worker.id))

    async def hint(self, timeout: float) -> bool:
        """Wait until something may have become due; what is handed over is none of it.

        An end elsewhere counts only where it may let another run of a queue in.
        """
        is_for_ends = any(gate.limits.bounds_places for gate in self._worker.claiming.gates.values())
        return await (self._worker.store if is_for_ends else self._handing or self._worker.store).wait(timeout)

    def again(self) -> None:
        """Offer again, if that is due: a run is under way, or has left."""
        if self._handing is not None and not self._places.offered and self._places.taken < LITTLE:
            self._worker.claiming.offer_again()

    async def take_for_ever(self) -> None:
        """Begin what is handed over, until this is cancelled."""
        while self._handing is not None:
            await self._begin(await self._handing.handed(self._worker.id))
            self._worker.env.call_later(self._worker.loop, AGAIN, self.again)

    async def _begin(self, claims: Sequence[Claim]) -> None:
        self._places.offered = 0
        try:
            await self._worker.definitions.require(claims)
        finally:  # they are leased to this worker
            self._worker.claiming.hand_over(claims)
