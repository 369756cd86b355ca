"""Queues with limits: how they are set, what there is to choose from in one, and the leases of what was chosen.

The runs of a queue may be on all shards, while who chooses next is decided on the queue's home. Where one script
cannot reach all that was chosen, the home is held meanwhile: nobody else is shown any candidates. Who does not end a
hold in time has lost it: whoever looks next tells every shard that its turn is over, and nothing of it is done later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.model.decision import Claim
from perdure.model.errors import StoreError
from perdure.model.queue import Admission, Candidate, QueueState, QueueView
from perdure.store.redis.calls import BRIEF
from perdure.store.redis.keys import Shard, home_of_name
from perdure.store.redis.rows import messages_of, record_of, row_of, run_from
from perdure.store.redis.shards import PIECE_BYTES, Shards, pieces
from perdure.store.redis.turns import RECORDS, completed, is_whole

KEYS_LOOKED_AT = 1000
CANDIDATES = 1000
"""How many limit keys one script looks at, and after how many candidates it stops: other clients wait for it."""

HOLD = 5_000
"""Milliseconds for which a queue is held for whoever leases what was chosen on several shards."""

WAITED = 0.2
"""Seconds for which a hold is waited for: most last for milliseconds."""

_NONE = b"-0:"
_state_of = msgspec.json.Decoder(QueueState).decode


async def queues(shards: Shards) -> list[QueueState]:
    """Return every state, by name; shards that are behind, as nobody came to tell them, get the latest."""
    answers = await shards.calls.look_around(shards.all, "queues", None)
    kept = {
        index: dict(zip(fields[::2], fields[1::2], strict=True))
        for index, fields in enumerate(answers)
        if fields is not None
    }
    states = []
    for name in sorted({name for fields in kept.values() for name in fields if b"\0" not in name}):
        home = home_of_name(name.decode(), len(shards.all))
        texts = {index: fields.get(name, _NONE) for index, fields in kept.items()}
        text = texts[max(texts, key=lambda index: (_version(texts[index]), index == home))]
        state = _parsed(text, kept.get(home, {}).get(name + b"\0turns"))
        behind = [shards.all[index] for index, there in texts.items() if there != text]
        await asyncio.gather(*[_keep_if_possible(shards, shard, state, text) for shard in behind])
        states.append(state)
    return states


async def set_queue(shards: Shards, state: QueueState) -> bool:
    """Keep a state, if its version is the next one: at home, then everywhere."""
    text = _text(state)
    home = _home(shards, state.name)
    if not await _keep(shards, home, state, text, is_home=True):
        return False
    await asyncio.gather(*[_keep(shards, shard, state, text) for shard in shards.all if shard is not home])
    return True


async def _keep(
    shards: Shards,
    shard: Shard,
    state: QueueState,
    text: bytes,
    *,
    is_home: bool = False,
    patience: float | None = None,
) -> bool:
    asked = (state.name, state.version, text.decode(), is_home)
    return bool(await shards.calls.run(shard, "set_queue", asked, writes=True, patience=patience))


async def _keep_if_possible(shards: Shards, shard: Shard, state: QueueState, text: bytes) -> None:
    with contextlib.suppress(StoreError):  # whoever looks next tries it again
        await _keep(shards, shard, state, text, patience=BRIEF)


def _text(state: QueueState) -> bytes:
    letter = "p" if state.is_paused else "g" if state.is_gated else "-"
    return f"{letter}{state.version}:".encode() + msgspec.json.encode(replace(state, turns=0))


def _version(text: bytes) -> int:
    return int(text[1:].partition(b":")[0])


def _parsed(text: bytes, turns: bytes | None) -> QueueState:
    return replace(_state_of(text.partition(b":")[2]), turns=int(turns or 0))


def _home(shards: Shards, queue: str) -> Shard:
    return shards.all[home_of_name(queue, len(shards.all))]


async def look_into(
    shards: Shards, queue: str, workflows: Sequence[str] | None, now: int, keys: int, each: int, after: str | None
) -> QueueView | None:
    """Return what to choose from."""
    home = _home(shards, queue)
    # the turns first: if anybody takes one while we look, nothing can be admitted by what we saw
    state, is_held = await _read_state(shards, home, queue)
    if state is None:
        return None
    nothing = QueueView(state, {}, {}, [], None)
    if is_held:
        return nothing
    asked = (queue, workflows, now, keys, each, after, KEYS_LOOKED_AT, CANDIDATES)
    found = await shards.calls.look_around(shards.all, "look_into", asked)
    if None in found and _counts_runs(state):
        return nothing  # nobody knows what is leased on a shard that is out of reach
    admitted, candidates, last_key, begun = _gathered(shards, found, keys, each)
    paces = await _paces(shards, home, queue, list(dict.fromkeys(candidate.limit_key for candidate in candidates)))
    return QueueView(state, admitted, paces, candidates, last_key, begun)


async def _read_state(shards: Shards, home: Shard, queue: str) -> tuple[QueueState | None, bool]:
    """Return how a queue is set, and whether somebody holds it for longer than we want to wait."""
    fields = (queue, f"{queue}\0turns", f"{queue}\0hold")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAITED
    while True:
        patience = BRIEF if shards.are_many else None
        text, turns, hold = await shards.calls.command(home, "HMGET", home.key("queues"), *fields, patience=patience)
        state = None if text is None else _parsed(text, turns)
        is_held = state is not None and hold is not None and not await _is_over(shards, home, state, hold)
        if not is_held or loop.time() >= deadline:
            return state, is_held
        await asyncio.sleep(WAITED / 20)


async def _is_over(shards: Shards, home: Shard, state: QueueState, hold: bytes) -> bool:
    """Return whether a hold was not ended in time; then its turn is over everywhere, and it is ended."""
    turn, ends = map(int, hold.split(b":"))
    seconds, microseconds = await shards.calls.command(home, "TIME")
    now = int(seconds) * 1000 + int(microseconds) // 1000
    if now < ends <= now + HOLD:  # no hold is longer: one that seems to be was taken on a server with another clock
        return False

    async def end(shard: Shard) -> None:
        await shards.calls.run(shard, "end_turns", (state.name, turn), writes=True, patience=BRIEF)

    told = await asyncio.gather(*map(end, shards.all), return_exceptions=True)
    failed = [failure for failure in told if failure is not None]
    for failure in failed:
        if not isinstance(failure, StoreError):
            raise failure
    if failed and _counts_runs(state):  # one more may still be leased there
        return False
    await shards.calls.run(home, "end_hold", (state.name, turn), writes=True)
    return True


def _counts_runs(state: QueueState) -> bool:
    """Return whether it is to be known of every shard how many runs are leased."""
    return state.limits.bounds_places


def _gathered(
    shards: Shards, found: Sequence[Any], keys: int, each: int
) -> tuple[dict[str, int], list[Candidate], str | None, list[Candidate]]:
    """Put together what shards have told: admitted runs, candidates, the last key looked at, and who was begun."""
    admitted: dict[str, int] = {}
    by_key: dict[bytes, list[Candidate]] = {}
    ends: list[bytes] = []
    begun: list[Candidate] = []
    for shard, told in zip(shards.all, found, strict=True):
        if told is None:
            continue
        last_key, counts, candidates, lost = told
        if last_key is not None:
            ends.append(last_key)
        for key, count in zip(counts[::2], counts[1::2], strict=True):
            admitted[key.decode()] = admitted.get(key.decode(), 0) + count
        for row in candidates:
            by_key.setdefault(row[3], []).append(_candidate(row))
        begun += map(_candidate, lost)
        if shards.are_many:
            for row in (*candidates, *lost):
                shards.note(row[0].decode(), shard)
    # behind the first end there may be more than what was told
    end = min(ends, default=None)
    known = sorted(key for key in by_key if end is None or key <= end)
    if len(known) > keys:
        known, end = known[:keys], known[keys - 1]
    chosen = [run for key in known for run in sorted(by_key[key], key=_order)[:each]]
    begun.sort(key=lambda run: run.due_at)
    return admitted, chosen, None if end is None else end.decode(), begun[:each]


def _candidate(row: Sequence[Any]) -> Candidate:
    run_id, priority, due_at, key, is_first = row
    return Candidate(run_id.decode(), priority, due_at, key.decode(), bool(is_first))


def _order(run: Candidate) -> tuple[int, int]:
    return -run.priority, run.due_at


async def _paces(shards: Shards, home: Shard, queue: str, keys: Sequence[str]) -> dict[str, int]:
    if not keys:
        return {}
    members = [f"{queue}\0{key}" for key in keys]
    scores = await shards.calls.command(home, "ZMSCORE", home.key("paces"), *members)
    return {key: int(float(score)) for key, score in zip(keys, scores, strict=True) if score is not None}


async def admit(shards: Shards, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
    """Lease what was chosen, if nobody else has chosen meanwhile."""
    home = _home(shards, admission.queue)
    groups = await _by_shard(shards, home, admission.run_ids)
    (_, at_home), *others = groups
    turn = admission.turns + 1
    paces = [part for pace in admission.paces.items() for part in pace]

    async def lease(shard: Shard, run_ids: Sequence[str], *fence: Any) -> list[Claim] | None:
        paces_and_hold = fence or (None, None)
        asked = (admission.queue, worker, now, until, run_ids, turn, *paces_and_hold, RECORDS, PIECE_BYTES)
        patience = BRIEF if shards.are_many else None
        answer = await shards.calls.run(shard, "admit", asked, writes=True, patience=patience)
        return None if answer is None else await _claims(shards, shard, answer)

    claims = await lease(home, at_home, paces, HOLD if others else None)
    if claims is None or not others:
        return claims
    told = await asyncio.gather(*[lease(shard, run_ids) for shard, run_ids in others], return_exceptions=True)
    failed = [answer for answer in told if isinstance(answer, BaseException)]
    for answer in told:
        if isinstance(answer, list):
            claims += answer
    for failure in failed:
        if not isinstance(failure, StoreError):
            raise failure
    if not failed:  # else something may still be on its way: then the hold is left to end by itself
        with contextlib.suppress(StoreError):
            await shards.calls.run(home, "end_hold", (admission.queue, turn), writes=True, patience=BRIEF)
    order = {run_id: place for place, run_id in enumerate(dict.fromkeys(admission.run_ids))}
    return sorted(claims, key=lambda claimed: order[claimed.run.id])


async def _by_shard(shards: Shards, home: Shard, run_ids: Sequence[str]) -> list[tuple[Shard, Sequence[str]]]:
    """Return which runs are on which shard, in pieces; first those at home, of which there may be none."""
    unique = list(dict.fromkeys(run_ids))
    if not shards.are_many:
        found: dict[int, list[str]] = {home.index: unique}
    else:
        await shards.look_up(shards.unknown(unique))
        found = {home.index: []}
        for run_id in unique:
            found.setdefault(shards.of(run_id).index, []).append(run_id)
    return [(shards.all[index], piece) for index, some in found.items() for piece in (list(pieces(some)) or [[]])]


async def _claims(shards: Shards, shard: Shard, answer: list[Any]) -> list[Claim]:
    parts = iter(answer[1:])
    heads = [(row_of(next(parts)), next(parts), next(parts)) for _ in range(answer[0])]
    journals = [[record_of(record) for record in islice(parts, records)] for _, records, _ in heads]
    inboxes = [messages_of(row.id, list(islice(parts, length))) for row, _, length in heads]
    claims: list[Claim] = []
    for (row, _, _), journal, inbox in zip(heads, journals, inboxes, strict=True):
        claimed = Claim(run_from(row), journal, inbox)
        claims += [claimed] if is_whole(claimed, row.unread) else await completed(shards, shard, claimed, row.unread)
    return claims
