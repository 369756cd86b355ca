"""Looks at runs of the workflow protocol: their entries, logs, and dead letters."""

from __future__ import annotations

from perdure.dispatch.upstash.ledger import ledger_of
from perdure.dispatch.upstash.submission import WORKFLOW, Entry
from perdure.engine.app import Perdure


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
