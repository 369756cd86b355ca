"""The rows in Valkey, by redis-py alone: what the engine's scripts write, in pipelines of plain commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import redis.asyncio

from bench.floor.rows import INPUT, KEEP, NOW, RESULT, UNTIL, WORKER, fingerprint, key, run_id

_TAG = "{perdure:0}:"
RUNS, RECORDS, DUE, CREATED, EXPIRES, COUNTS, META = (
    _TAG + name for name in ("runs", "records", "due", "created", "expires", "counts", "meta")
)


class Redis:
    """See `Bare`."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.asyncio.Redis.from_url(url, single_connection_client=True)

    async def create(self, runs: Sequence[int]) -> None:
        """See `Bare`."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hincrby(META, "n", len(runs))
        pipe.hset(RUNS, items=_flat((run_id(n), _row(n, "running", 0, 1)) for n in runs))
        pipe.hset(RECORDS, items=_flat((f"{n:x}:0", _record(0, "input", "input", INPUT)) for n in runs))
        pipe.zadd(DUE, {_due(n): 0 for n in runs})
        pipe.zadd(CREATED, {f"{n:010x}{run_id(n)}": NOW for n in runs})
        pipe.hincrby(COUNTS, "running", len(runs))
        await pipe.execute()

    async def keep(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(RECORDS, items=_steps(runs, places))
        pipe.hset(RUNS, items=_flat((run_id(n), _row(n, "running", 1, places[-1] + 1)) for n in runs))
        await pipe.execute()

    async def end(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        last = places[-1] + 1
        outputs = _flat((f"{n:x}:{last}", _record(last, "output", "output", RESULT)) for n in runs)
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(RECORDS, items=_steps(runs, places) + outputs)
        pipe.hset(RUNS, items=_flat((run_id(n), _row(n, "complete", 1, last + 1)) for n in runs))
        pipe.zrem(DUE, *(_due(n) for n in runs))
        pipe.zadd(EXPIRES, {f"{n:010x}{run_id(n)}": NOW + KEEP for n in runs})
        pipe.hincrby(COUNTS, "running", -len(runs))
        pipe.hincrby(COUNTS, "complete", len(runs))
        await pipe.execute()

    async def close(self) -> None:
        """See `Bare`."""
        await self._client.aclose()


def _flat(pairs: Iterable[tuple[str, bytes]]) -> list[str | bytes]:
    return [part for pair in pairs for part in pair]


def _steps(runs: Sequence[int], places: Sequence[int]) -> list[str | bytes]:
    return _flat((f"{n:x}:{at}", _record(at, key(at), "step", RESULT)) for at in places for n in runs)


def _record(position: int, name: str, kind: str, payload: str) -> bytes:
    return msgspec.json.encode((position, name, kind, "ok", NOW, payload, 1, NOW))


def _due(n: int) -> str:
    return f"default\0{2**31:08x}\0hello\0r{UNTIL:012x}{n:010x}{run_id(n)}"


def _row(n: int, status: str, seq: int, journal_length: int) -> bytes:
    return msgspec.msgpack.encode(
        {
            "n": n,
            "st": status,
            "q": "default",
            "wf": "hello",
            "c": NOW,
            "u": NOW,
            "d": UNTIL,
            "b": NOW,
            "e": 1,
            "sq": seq,
            "j": journal_length,
            "w": WORKER,
            "kc": KEEP,
            "s": f'["","{fingerprint(n)}"]',
        }
    )
