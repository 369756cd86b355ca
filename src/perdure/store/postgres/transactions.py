"""A step's own SQL and the store's in one transaction, which the store begins; `joining` has those that users begin."""

from __future__ import annotations

import asyncio

from perdure.model.decision import Committed, Decision
from perdure.model.errors import UsageError
from perdure.store.hints import Hints
from perdure.store.postgres import commits
from perdure.store.postgres.connections import Connections, Session
from perdure.store.postgres.errors import FAILED, undone
from perdure.store.postgres.lent import Borrowed
from perdure.store.postgres.settings import AS_HOT

_MARK = "SET LOCAL perdure_step.is_open = 'yes'"
"""Ends with the transaction, so that one which the step ended, and perhaps began anew, is told from its own."""

_CHECK = f"""
SELECT coalesce(current_setting('perdure_step.is_open', true), '') = 'yes',
    CASE
        WHEN current_setting('transaction_isolation') <> 'read committed' THEN current_setting('transaction_isolation')
        WHEN current_setting('transaction_read_only') > current_setting('default_transaction_read_only')
            THEN 'read only'
    END,
    {AS_HOT}
"""

_FORGETTING = 2.0
"""Seconds in which a connection has to forget what the step told it; one that does not is cut off."""

_ENDED = "tx: the step ended its transaction itself; leave COMMIT and ROLLBACK to Perdure, and raise to undo it"
_CHANGED = (
    "tx: the step made its transaction {how}, and in such a one its record cannot be committed: leave it as it is, and "
    "lock with SELECT … FOR UPDATE what must not change meanwhile"
)


class StepTransaction:
    """See `perdure.store.contract.Transaction`.

    Attributes:
        connection: the `asyncpg.Connection`, inside the transaction.
    """

    def __init__(self, borrowed: Borrowed, connections: Connections, hints: Hints) -> None:
        self.connection = borrowed.connection
        self._borrowed = borrowed
        self._connections = connections
        self._settings = connections.settings
        self._hints = hints
        self._is_over = False

    @classmethod
    async def begin(cls, connections: Connections, hints: Hints) -> StepTransaction:
        """Begin one on a connection of its own."""
        return cls(await connections.borrow(_MARK), connections, hints)

    async def commit(self, decision: Decision) -> Committed:
        """See the contract."""
        if self._is_over:
            raise UsageError(_ENDED)
        is_sound = False
        try:
            committed = await self._commit(decision)
            if not committed.is_lost:
                self._hints.changed()
                is_sound = await self._forget()
        except Exception as error:
            await self._undo()
            raise undone(error, self._settings) from error
        finally:
            self._give_back(is_sound=is_sound)
        return committed

    async def roll_back(self) -> None:
        """See the contract."""
        if not self._is_over:
            try:
                await self._undo()
            finally:
                self._give_back(is_sound=False)

    async def _commit(self, decision: Decision) -> Committed:
        connection, transaction, _ = self._borrowed
        timeout = self._settings.command_timeout
        if not connection.is_in_transaction():
            raise UsageError(_ENDED)
        is_open, how, *_ = await connection.fetchrow(_CHECK, timeout=timeout)
        if not is_open:
            raise UsageError(_ENDED)
        if how is not None:
            raise UsageError(_CHANGED.format(how=how))
        session = Session(connection, self._connections.texts, timeout)
        (committed,) = await commits.commit(session, [decision])
        if committed.is_lost:
            await self._undo()
            return committed
        async with asyncio.timeout(timeout):
            await transaction.commit()
        if connection.done != "COMMIT":  # something of the step's was still at work, and failed
            raise UsageError(FAILED)
        return committed

    async def _undo(self) -> None:
        try:
            if self.connection.is_in_transaction():
                async with asyncio.timeout(self._settings.command_timeout):
                    await self._borrowed.transaction.rollback()
        except Exception:  # the connection is cut off next, which undoes everything as well
            return

    async def _forget(self) -> bool:
        """Have the session forget what the step left on it; return whether it is as good as new."""
        if self.connection.is_tuned:
            return False
        if self._settings.pgbouncer:  # the session is somebody else's already
            return True
        try:
            await self.connection.reset(timeout=_FORGETTING)
        except Exception:  # the step is committed, whatever becomes of its connection
            return False
        return True

    def _give_back(self, *, is_sound: bool) -> None:
        """Let go of the connection; of one that was undone a body that is still at work must not see anything more."""
        self._is_over = True
        self._borrowed.pool.release(self.connection, is_sound=is_sound)
