"""What an endpoint asks in the middle of a turn: to commit a decision, to keep its lease, to read its messages.

Each takes the turn's token, and any server of the namespace can answer. A token commits the decision that it was made
for, once: one that comes again is acknowledged if it is the same, and refused if it is another one. That holds for two
processes too which were handed the same turn, as what is compared is the journal.
"""

from __future__ import annotations

from msgspec.structs import replace

from perdure.dispatch.decisions import require_fitting
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.protocol import (
    CommitTurn,
    ExtendTurn,
    TokenError,
    TurnCommitted,
    TurnExtended,
    TurnInbox,
    TurnToken,
    opened,
)
from perdure.model.decision import Committed, Decision, Extended
from perdure.model.errors import PerdureError, UsageError

LEASE_MS = 300_000
"""For how many milliseconds an endpoint can extend its lease at once."""

PROGRESS_BYTES = 1_048_576
"""How long the progress of a run's steps may be."""


class UsedTokenError(PerdureError):
    """A token has committed another decision before."""


async def turn_of(dispatcher: Dispatcher, token: str) -> TurnToken:
    """Return what a token lets one do.

    Raises:
        TokenError: nothing here.
    """
    keys = await dispatcher.keys()
    found = opened(token, keys.tokens, dispatcher.app.world.now())
    if found.ns != dispatcher.namespace:
        raise TokenError("the token is for another namespace")
    return found


async def commit(dispatcher: Dispatcher, turn: TurnToken, given: CommitTurn) -> TurnCommitted:
    """Commit a decision.

    Raises:
        TokenError: the token is for another one. UsedTokenError: it has committed another one before.
        UsageError: the decision is none that may be committed.
    """
    decision, app = given.decision, dispatcher.app
    if (decision.run_id, decision.epoch, decision.seq) != (turn.run, turn.epoch, turn.seq):
        raise TokenError("the token is for another decision")
    (run,) = await app.store.get([turn.run])
    if run is None or run.epoch != turn.epoch:
        return TurnCommitted(Committed(turn.run, is_lost=True), "")
    require_fitting(decision, run, app.settings.limits, app.world.now())
    (answer,) = await app.store.commit([decision])
    if answer.is_lost:
        return TurnCommitted(answer, "")
    await _require_kept(dispatcher, decision)
    if decision.keeps_lease:
        following = replace(turn, seq=turn.seq + 1)
        keys = await dispatcher.keys()
        return TurnCommitted(answer, following.sealed(keys.tokens[0]))
    return TurnCommitted(answer, "")


async def extend(dispatcher: Dispatcher, turn: TurnToken, given: ExtendTurn) -> TurnExtended:
    """Keep the lease, and what its steps say of their progress.

    Raises:
        TokenError: the token is for another turn. UsageError: the lease is none that may be had.
    """
    lease, now = given.lease, dispatcher.app.world.now()
    if (lease.run_id, lease.epoch) != (turn.run, turn.epoch):
        raise TokenError("the token is for another turn")
    if lease.progress is not None and len(lease.progress) > PROGRESS_BYTES:
        raise UsageError(f"lease.progress: it is longer than {PROGRESS_BYTES:,} characters")
    wished = replace(lease, until=min(lease.until, now + LEASE_MS))
    answers: list[Extended] = await dispatcher.app.store.extend([wished], now)
    return TurnExtended(answers[0])


async def inbox(dispatcher: Dispatcher, turn: TurnToken) -> TurnInbox:
    """Return the unread messages of a turn's run."""
    return TurnInbox(tuple(await dispatcher.app.store.inbox(turn.run)))


async def _require_kept(dispatcher: Dispatcher, decision: Decision) -> None:
    """Refuse what was acknowledged only because another decision of its number was committed before.

    Two decisions of one number that change the journal alike are alike, as all else follows from it, but for what is
    made known with `flow.set`. One that changes nothing but that is compared by it.
    """
    store = dispatcher.app.store
    records = [*(decision.renew or ()), *decision.records]
    if records:
        first = 0 if decision.renew else records[0].position
        if await store.journal(decision.run_id, first - 1, len(records)) == records:
            return
    else:
        (run,) = await store.get([decision.run_id])
        if run is None or (run.seq <= decision.seq and decision.state in (None, run.state)):
            return
    raise UsedTokenError("another decision has been committed with this token: this turn is somebody else's")
