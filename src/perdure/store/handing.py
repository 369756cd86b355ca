"""How a store hands new runs over to workers that have little to do, which then need not claim them.

An *offer* is a worker's word that it would take one run. `create` may lease a run that it creates to the worker of
an offer, as a `claim` at the run's `created_at` would: then the run is handed over to that worker, and to nobody
else, and the offer is gone. What `create` returns is the same. Only a run that `claim` could take at that moment is
handed over, so nothing of a gated queue is; and only where a worker may begin before the `create` is acknowledged.

A store need not hand anything over, and may forget an offer. A worker that has ended is handed nothing, as far as
the store can tell; a run that is lost on its way to a worker is due at the end of its lease, as if that had died.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.model.decision import Claim


class Handing(Protocol):
    """See the module's text."""

    async def offer(
        self, queues: Sequence[str], worker: str, now: int, lease: int, workflows: Sequence[str] | None = None
    ) -> bool:
        """Offer that `worker` takes a run of these queues, and of these workflows unless None, instead of before.

        Args:
            lease: for how many milliseconds the run is leased, from its `created_at` on.

        Returns:
            False, and there is no offer, where something is due that `claim` could take with these arguments.
        """

    async def handed(self, worker: str) -> list[Claim]:
        """Wait for what is handed over, and return it; an empty list says that the worker had better offer again."""

    async def wait(self, timeout: float) -> bool:
        """Wait as `Store.wait` does, but for what may have become due: that a run has ended does not count.

        A worker that is handed runs has little else to hear of.
        """

    async def withdraw(self, worker: str) -> list[Claim]:
        """Take a worker's offer back, and return what was handed over before and has not been returned yet."""
