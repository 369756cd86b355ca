"""What comes from outside: new runs and messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.model.decision import Message, Posted
from perdure.model.run import Created, NewRun
from perdure.store.journal import queued_due_at
from perdure.store.redis.calls import FEW
from perdure.store.redis.keys import Shard, lane, time_text
from perdure.store.redis.rows import LETTER, message_text, name_of, new_row, pack
from perdure.store.redis.shards import Shards, are_too_long, in_halves

POSTED = {
    b"": Posted.NEW,
    b"d": Posted.DUPLICATE,
    b"n": Posted.NO_RUN,
    b"f": Posted.FINISHED,
    b"x": Posted.FULL,
}
"""What the script's letters mean."""

_WITHOUT_WORKER = b"-"


def inserted(new: NewRun, texts: list[bytes]) -> tuple[Any, ...]:
    """Return what `insert` (inserting.lua) takes for a run, and add what goes with it to `texts`."""
    texts.append(new_row(new))
    texts += map(pack, new.records)
    is_leased, has_key = new.worker is not None, bool(new.limit_key)
    plain = (
        new.id,
        "r" if is_leased else "q",
        lane(new.queue, new.priority, new.workflow, is_leased=is_leased, has_key=has_key) + time_text(new.due_at),
        "a" + time_text(new.created_at),
        new.parent_id,
        len(new.records),
    )
    dedup = new.dedup
    if dedup is None and not has_key:
        return plain
    asked = dedup and (
        dedup.key,
        dedup.until,
        dedup.is_replacing,
        dedup.latest_due_at,
        queued_due_at(new),
        new.fingerprint,
    )
    return (*plain, None, None, new.limit_key or None, asked)


async def create(shards: Shards, runs: Sequence[NewRun]) -> list[Created]:
    """Create the runs whose ids are free and for which no other stands."""

    async def ask(shard: Shard, some: Sequence[NewRun]) -> list[bytes | None]:
        texts: list[bytes] = []
        asked = [inserted(run, texts) for run in some]
        if are_too_long(texts, some):
            return await in_halves(shard, some, ask)
        hands_over = shards.may_hand_over and len(some) <= FEW
        there: list[bytes | None] = await shards.calls.run(
            shard, "create", (asked, hands_over), texts, writes=True, news=len(some), tells=hands_over
        )
        return there or [None] * len(some)

    there = await shards.keep(runs, lambda run: run.id, lambda run: run.parent_id, ask)
    return [_created(run, told) for run, told in zip(runs, there, strict=True)]


def _created(new: NewRun, told: bytes | None) -> Created:
    if told is None or told == _WITHOUT_WORKER:
        is_leased = new.worker is not None and told is None
        return Created(new.id, is_new=True, fingerprint=new.fingerprint, is_leased=is_leased)
    run_id, fingerprint = name_of(told)
    return Created(run_id, is_new=False, fingerprint=fingerprint)


async def post(shards: Shards, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
    """Put messages into their runs' inboxes."""

    async def ask(shard: Shard, some: Sequence[Message]) -> list[Posted]:
        asked = (now, capacity, [(message.run_id, LETTER[message.kind], message.id) for message in some])
        texts = list(map(message_text, some))
        if are_too_long(texts, some):
            return await in_halves(shard, some, ask)
        posted = await shards.calls.run(shard, "post", asked, texts, writes=True, news=len(some))
        return [POSTED[letter] for letter in posted]

    return await shards.each(messages, lambda message: message.run_id, ask, lambda posted: posted is Posted.NO_RUN)
