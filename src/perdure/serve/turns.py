"""The turns that were pushed to this process, and how what is decided in them gets to the server.

The last decision of a turn goes into the answer to the push, as long as somebody waits for that. All else, and the last
decision of a turn that took longer, is asked of the server with the turn's token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from perdure.dispatch.protocol import CommitTurn, ExtendTurn, Push, TurnCommitted, TurnExtended, TurnInbox
from perdure.model.decision import Committed, Decision, Extended, Lease, Message
from perdure.model.errors import PerdureError, StoreCorruptError, StoreError

T = TypeVar("T")


class PushedTurn:
    """A turn that is under way.

    Args:
        push: what came.

    Attributes:
        push: see above.
        token: of its next decision.
        answer: its last decision; None if there will be none, as somebody else has the run.
        is_awaited: somebody waits for the answer.
    """

    def __init__(self, push: Push) -> None:
        self.push = push
        self.token = push.token
        self.answer: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        self.is_awaited = True

    def is_of(self, push: Push) -> bool:
        """Return whether it is the same push, come twice."""
        mine, other = self.push.claim.run, push.claim.run
        return (mine.incarnation, mine.epoch, mine.seq) == (other.incarnation, other.epoch, other.seq)

    def take(self, decision: Decision) -> bool:
        """Have a decision go into the answer; return whether it does."""
        if not self.is_awaited or decision.keeps_lease:
            return False
        if not self.answer.done():
            self.answer.set_result(decision)
        return True

    def end(self) -> None:
        """The turn is over."""
        if not self.answer.done():
            self.answer.set_result(None)


class Turns:
    """The store of a worker whose runs are pushed to it: a server's, and the turns under way.

    Args:
        store: the server, as clients ask it.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.under_way: dict[str, PushedTurn] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the store's contract."""
        return list(await asyncio.gather(*map(self._commit, decisions)))

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """See the store's contract."""
        return list(await asyncio.gather(*map(self._extend, leases)))

    async def inbox(self, run_id: str) -> list[Message]:
        """See the store's contract."""
        turn = self.under_way.get(run_id)
        if turn is None:
            return []
        return list((await self._ask("inbox", turn, None, TurnInbox)).messages)

    async def _commit(self, decision: Decision) -> Committed:
        turn = self._turn(decision.run_id, decision.epoch)
        if turn is None:
            return Committed(decision.run_id, is_lost=True)
        if turn.take(decision):
            return Committed(decision.run_id)
        try:
            answer = await self._ask("commit", turn, CommitTurn(decision), TurnCommitted)
        except StoreError as error:
            if _is_final(error):
                return Committed(decision.run_id, is_lost=True)
            raise
        if answer.token:
            turn.token = answer.token
        return answer.committed

    async def _extend(self, lease: Lease) -> Extended:
        turn = self._turn(lease.run_id, lease.epoch)
        if turn is None:
            return Extended(lease.run_id, is_lost=True)
        try:
            return (await self._ask("extend", turn, ExtendTurn(lease), TurnExtended)).extended
        except StoreError as error:
            if _is_final(error):
                return Extended(lease.run_id, is_lost=True)
            raise

    def _turn(self, run_id: str, epoch: int) -> PushedTurn | None:
        turn = self.under_way.get(run_id)
        return turn if turn is not None and turn.push.claim.run.epoch == epoch else None

    async def _ask(self, name: str, turn: PushedTurn, given: object, kind: type[T]) -> T:
        body = b"" if given is None else msgspec.json.encode(given)
        answer = await self._store.ask_of_turn(name, turn.token, body)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise StoreCorruptError(f"what the server answers about a turn cannot be read: {error}") from None


def _is_final(error: PerdureError) -> bool:
    """Return whether a server has refused something for good: the turn is somebody else's by now."""
    return getattr(error.__cause__, "status", None) in (401, 409)
