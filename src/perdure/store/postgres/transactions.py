"""A user's own SQL and the store's in one transaction, which the store (`begin`) or the user began (`create_in`)."""

from __future__ import annotations

from perdure.model.decision import Committed, Decision
from perdure.model.errors import PerdureError, StoreUnavailableError, UsageError
from perdure.store.hints import Hints
from perdure.store.postgres import commits
from perdure.store.postgres.connections import Connections, Session
from perdure.store.postgres.errors import Passing, passing, state, translated
from perdure.store.postgres.pool import Pool
from perdure.store.postgres.settings import AS_HOT

_MARK = "SET LOCAL perdure_step.is_open = 'yes'"
"""Ends with the transaction, so that one which the step ended, and perhaps began anew, is told from its own."""

_CHECK = f"SELECT coalesce(current_setting('perdure_step.is_open', true), '') = 'yes', {AS_HOT}"

_CLEAN = "; SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL"
"""What undoes whatever a step may have left on the connection, in the same breath as the transaction's end."""

_IN_FAILED_TRANSACTION, _OF_CONSTRAINTS = "25P02", "23"

_ENDED = "tx: the step ended its transaction itself; leave COMMIT and ROLLBACK to Perdure, and raise to undo it"
_FAILED = (
    "tx: a statement of the step failed, and its error was caught: the transaction cannot be committed; let the error "
    "out, or run such a statement inside `async with flow.transaction().transaction()`"
)


class StepTransaction:
    """See `perdure.store.contract.Transaction`.

    Attributes:
        connection: the `asyncpg.Connection`, inside the transaction.
    """

    def __init__(self, session: Session, pool: Pool, connections: Connections, hints: Hints) -> None:
        self.connection = session.connection
        self._session = session
        self._pool = pool
        self._connections = connections
        self._hints = hints
        self._is_over = False
        self._clean = "" if connections.settings.pgbouncer else _CLEAN

    @classmethod
    async def begin(cls, connections: Connections, hints: Hints) -> StepTransaction:
        """Begin one on a connection of its own."""
        session, pool = await connections.borrow(_MARK)
        return cls(session, pool, connections, hints)

    async def commit(self, decision: Decision) -> Committed:
        """See the contract."""
        if self._is_over:
            raise UsageError(_ENDED)
        is_kept = False
        try:
            committed = await self._commit(decision)
            is_kept = not committed.is_lost
        except Exception as error:
            await self._undo()
            raise self._told(error) from error
        finally:
            self._give_back(is_kept=is_kept)
        if is_kept:
            self._hints.changed()
        return committed

    async def roll_back(self) -> None:
        """See the contract."""
        if not self._is_over:
            try:
                await self._undo()
            finally:
                self._give_back(is_kept=False)

    async def _commit(self, decision: Decision) -> Committed:
        if not self.connection.is_in_transaction():
            raise UsageError(_ENDED)
        if not await self.connection.fetchval(_CHECK):
            raise UsageError(_ENDED)
        (committed,) = await commits.commit(self._session, [decision])
        await self.connection.execute("ROLLBACK" if committed.is_lost else f"COMMIT{self._clean}")
        return committed

    async def _undo(self) -> None:
        try:
            if self.connection.is_in_transaction():
                await self.connection.execute("ROLLBACK")
        except Exception:  # the connection is cut off next, which undoes everything as well
            return

    def _give_back(self, *, is_kept: bool) -> None:
        """Let go of the connection; of one that was undone a body that is still at work must not see anything more."""
        self._is_over = True
        self._pool.release(self.connection, is_sound=is_kept)

    def _told(self, error: Exception) -> BaseException:
        where = self._connections.settings.shown
        if isinstance(error, PerdureError):
            return error
        named = state(error) or ""
        if named == _IN_FAILED_TRANSACTION:
            return UsageError(_FAILED)
        if named.startswith(_OF_CONSTRAINTS):  # a deferred one, asked at the end
            return UsageError(f"tx: what the step wrote cannot be committed: {error}")
        kind = passing(error)
        if kind is Passing.CONFLICT:
            return StoreUnavailableError(
                f"{where}: another transaction was in the way, and this one is undone: {error}"
            )
        if kind is not None:
            return StoreUnavailableError(
                f"{where}: the connection failed ({error}), and nobody knows whether the step was committed; its "
                "journal will tell"
            )
        return translated(error, self._connections.settings)
