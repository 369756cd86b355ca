"""What workers do: take runs, carry decisions out, keep leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from msgspec.structs import replace

from perdure.model.decision import Claim, Committed, Decision, Extended, Lease
from perdure.model.errors import StoreError, UsageError
from perdure.model.record import Record
from perdure.model.run import NewRun
from perdure.store.journal import refusal, require_following
from perdure.store.redis.arrivals import inserted
from perdure.store.redis.calls import BRIEF
from perdure.store.redis.keys import Shard
from perdure.store.redis.rows import LETTER, STATUS, message_text, messages_of, pack, record_of, row_of, run_from
from perdure.store.redis.shards import PIECE, PIECE_BYTES, Shards, are_too_long, in_halves

RECORDS = 5000
"""How many records and messages one script hands out; bytes see `PIECE_BYTES`."""

_INSERTED = 11
"""How many values `insert` (inserting.lua) takes of a run at most."""


class Wanted(NamedTuple):
    """What a claim asks for; see the contract."""

    queues: Sequence[str]
    workflows: Sequence[str] | None
    limit: int
    worker: str
    now: int
    until: int


async def claim(shards: Shards, wanted: Wanted, turn: int) -> list[Claim]:
    """Lease due runs; `turn` says at which shard to begin, so that none is always the last."""
    if not shards.are_many:
        return await _claim(shards, shards.all[0], wanted)
    claims: list[Claim] = []
    failed: dict[int, StoreError] = {}
    while len(claims) < wanted.limit:
        ready = await shards.calls.look_around(shards.all, "ready", (wanted.queues, wanted.workflows, wanted.now))
        left = wanted.limit - len(claims)
        shares: list[tuple[Shard, int]] = []
        for step in range(len(ready)):
            index = (turn + step) % len(ready)
            share = 0 if index in failed else min(ready[index] or 0, left)
            left -= share
            if share:
                shares.append((shards.all[index], share))
        found = await asyncio.gather(
            *[_claim(shards, shard, wanted._replace(limit=share)) for shard, share in shares], return_exceptions=True
        )
        some: list[Claim] = []
        for (shard, _), told in zip(shares, found, strict=True):
            if isinstance(told, StoreError):
                failed[shard.index] = told
            elif isinstance(told, BaseException):
                raise told
            else:
                some += told
        claims += some
        if not some:
            break
    if failed and not claims:
        raise next(iter(failed.values()))
    return claims


async def _claim(shards: Shards, shard: Shard, wanted: Wanted) -> list[Claim]:
    """Lease due runs of one shard, as many scripts as that takes; those before one that fails are claimed."""
    claims: list[Claim] = []
    try:
        async for some in _claimed(shards, shard, wanted):
            claims += some
    except StoreError:
        if not claims:
            raise
    if shards.are_many:
        for claimed in claims:
            shards.note(claimed.run.id, shard)
    return claims


async def _claimed(shards: Shards, shard: Shard, wanted: Wanted) -> AsyncIterator[list[Claim]]:
    patience = BRIEF if shards.are_many else None
    left = wanted.limit
    while left > 0:
        size = min(left, PIECE)
        asked = (wanted.queues, wanted.workflows, size, wanted.worker, wanted.now, wanted.until, RECORDS, PIECE_BYTES)
        answer = await shards.calls.run(shard, "claim", asked, writes=True, patience=patience)
        if not answer:
            return
        claims, unread = _claims(answer)
        left -= len(claims)
        if not claims or is_whole(claims[-1], unread):
            yield claims
        else:
            yield claims[:-1]
            yield await completed(shards, shard, claims[-1], unread)
        if not answer[0] and answer[1] < size:
            return


def _claims(answer: list[Any]) -> tuple[list[Claim], int]:
    """Return what was claimed, the last one perhaps not whole, and how many unread messages that one has."""
    parts = iter(answer[4:])
    rows = list(map(row_of, islice(parts, answer[1])))
    if not rows:
        return [], 0
    lengths = [*(row.journal_length for row in rows[:-1]), answer[2]]
    journals = [[record_of(record) for record in islice(parts, length)] for length in lengths]
    counts = [*(2 * row.unread for row in rows[:-1]), answer[3]]
    inboxes = [
        messages_of(row.id, list(islice(parts, count))) if count else []
        for row, count in zip(rows, counts, strict=True)
    ]
    return list(map(Claim, map(run_from, rows), journals, inboxes)), rows[-1].unread


def is_whole(claimed: Claim, unread: int) -> bool:
    """Return whether all of a run, and so many unread messages, were handed out."""
    return len(claimed.journal) == claimed.run.journal_length and len(claimed.inbox) == unread


async def completed(shards: Shards, shard: Shard, claimed: Claim, unread: int) -> list[Claim]:
    """Look at the rest of a run that is too long for one script; return none if its lease is lost meanwhile."""
    run, records, messages = claimed.run, claimed.journal, claimed.inbox
    while not is_whole(claimed, unread):
        after = messages[-1].seq if messages else 0
        asked = (run.id, run.epoch, len(records), after, run.inbox_seq, RECORDS, PIECE_BYTES)
        answer = await shards.calls.run(shard, "held", asked, writes=False)
        if len(answer) < 2:
            return []
        behind = answer[0] + 1
        records += map(record_of, answer[1:behind])
        messages += messages_of(run.id, answer[behind:])
    return [claimed]


async def commit(shards: Shards, decisions: Sequence[Decision]) -> list[Committed]:
    """Carry decisions out."""

    async def ask(shard: Shard, some: Sequence[Decision]) -> list[Committed]:
        if shards.are_many:
            some = await _in_one_place(shards, shard, some)
        texts: list[bytes] = []
        asked = [_decided(decision, texts) for decision in some]
        if are_too_long(texts, some):
            return await in_halves(shard, some, ask)
        told_of = list(filter(_concerns_others, some))
        only_ends = all(decision.status.is_finished and not decision.reaches_others for decision in told_of)
        news = await shards.calls.run(
            shard, "commit", asked, texts, writes=True, news=len(told_of), only_ends=only_ends
        )
        if news and news[0] == b"position":
            require_following(some[news[1] - 1], news[2])
        committed = [Committed(decision.run_id) for decision in some]
        for place, is_lost, is_pausing, arrived in news:
            run_id = some[place - 1].run_id
            committed[place - 1] = Committed(
                run_id, bool(is_lost), tuple(messages_of(run_id, arrived)), bool(is_pausing)
            )
        return committed

    if shards.are_many:
        await shards.look_up(shards.unknown(decision.run_id for decision in decisions if decision.reaches_others))
    return await shards.each(decisions, lambda decision: decision.run_id, ask, lambda committed: committed.is_lost)


async def _in_one_place(shards: Shards, shard: Shard, decisions: Sequence[Decision]) -> list[Decision]:
    """Find a place for the children of decisions beside their parents, and refuse those that have another.

    A decision about a run of another shard is left as it is: it will be lost here, and carried out there.

    Raises:
        UsageError: a message is for a run of another tree.
    """
    placed: list[Decision] = []
    for decision in decisions:
        if shards.of(decision.run_id) is not shard or not decision.reaches_others:
            placed.append(decision)
            continue
        # a run with the parent's id on another shard is not the parent: that was removed, and its id used again
        told = [message.run_id for message in decision.posts if message.kind != "child"]
        await _require_here(shards, shard, decision, [run_id for run_id in told if shards.of(run_id) is not shard])
        settled = await shards.settle([(child.id, shard) for child in decision.children])
        if all(place is shard for place in settled):
            placed.append(decision)
            continue
        children = list(zip(decision.children, settled, strict=True))
        refused = [refusal(decision.run_id, child, decision.at) for child, place in children if place is not shard]
        kept = tuple(child for child, place in children if place is shard)
        placed.append(replace(decision, children=kept, posts=(*refused, *decision.posts)))
    return placed


async def _require_here(shards: Shards, shard: Shard, decision: Decision, run_ids: list[str]) -> None:
    if not run_ids:
        return
    await shards.look_up(run_ids)
    for run_id in run_ids:
        place = shards.of(run_id)
        if place is not shard and await shards.calls.command(place, "HEXISTS", place.key("ids"), run_id):
            raise UsageError(
                f"decision {decision.seq} of run {decision.run_id!r} is about {run_id!r} too, which is of another tree"
            )


def _decided(decision: Decision, texts: list[bytes]) -> tuple[Any, ...]:
    """Return what the script takes for a decision, and add what goes with it to `texts`."""
    records = decision.records if decision.renew is None else decision.renew + decision.records
    texts += map(pack, records)
    plain = (
        decision.run_id,
        decision.epoch,
        decision.seq,
        decision.at,
        STATUS[decision.status],
        decision.due_at,
        decision.seen,
        _first_position(records),
        len(records),
        decision.renew is not None,
        decision.wait,
        decision.state,
    )
    if not (decision.consumed or decision.reaches_others):
        return plain
    children = [_child(child, texts) for child in decision.children]
    texts += map(message_text, decision.posts)
    posts = [(message.run_id, LETTER[message.kind], message.id) for message in decision.posts]
    ended = (decision.terminate or None, decision.unclaimed or None)
    return (*plain, decision.consumed, children or None, posts or None, *ended)


def _child(child: NewRun, texts: list[bytes]) -> tuple[Any, ...]:
    asked = inserted(child, texts)
    return (*asked, *(None,) * (_INSERTED - len(asked)), child.parent_key, child.refusal)


def _first_position(records: Sequence[Record]) -> int | None:
    """Return the position of the first record, None where there is none, -1 if the others do not follow it."""
    expected = first = records[0].position if records else None
    for record in records:
        if record.position != expected:
            return -1
        expected += 1
    return first


async def extend(shards: Shards, leases: Sequence[Lease], now: int) -> list[Extended]:
    """Move the ends of leases."""

    async def ask(shard: Shard, some: Sequence[Lease]) -> list[Extended]:
        asked = (now, [(lease.run_id, lease.epoch, lease.until, lease.progress) for lease in some])
        told = await shards.calls.run(shard, "extend", asked, writes=True)
        return [_extended(lease.run_id, state) for lease, state in zip(some, told, strict=True)]

    return await shards.each(leases, lambda lease: lease.run_id, ask, lambda extended: extended.is_lost)


def _extended(run_id: str, state: int) -> Extended:
    if state < 0:
        return Extended(run_id, is_lost=True)
    return Extended(run_id, is_pausing=bool(state % 2), inbox_seq=state // 2)


def _concerns_others(decision: Decision) -> bool:
    """Return whether other processes may have something to do because of a decision."""
    return not decision.keeps_lease or decision.reaches_others
