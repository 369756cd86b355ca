"""The rows in Valkey, by hiredis alone: what the engine's scripts write, in pipelines of plain commands."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import hiredis
import msgspec

from bench.floor.rows import INPUT, KEEP, NOW, RESULT, UNTIL, WORKER, fingerprint, key, run_id

Command = tuple[str | bytes | int, ...]

_pack = msgspec.msgpack.Encoder().encode
META, IDS, RUNS, RECORDS, DUE, CREATED, EXPIRES, COUNTS = (
    "{perdure:0}:" + name for name in ("meta", "ids", "runs", "records", "due", "created", "expires", "counts")
)


class Redis:
    """See `Bare`."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "", place.port or 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = hiredis.Reader()

    async def create(self, runs: Sequence[int]) -> None:
        """See `Bare`."""
        self._send(
            ("HINCRBY", META, "n", len(runs)),
            ("HSET", IDS, *_flat((run_id(n), _number(n)) for n in runs)),
            ("HSET", RUNS, *_flat((_number(n), _row(n, "r", 0, 1)) for n in runs)),
            ("HSET", RECORDS, *_flat((f"{_number(n)}:0", _record(0, "input", "input", INPUT)) for n in runs)),
            ("ZADD", DUE, *_flat((0, _due(n)) for n in runs)),
            ("ZADD", CREATED, *_flat((0, _created(n, "a")) for n in runs)),
            ("HINCRBY", COUNTS, "r", len(runs)),
        )

    async def keep(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        self._send(
            ("HSET", RECORDS, *_steps(runs, places)),
            ("HSET", RUNS, *_flat((_number(n), _row(n, "r", 1, places[-1] + 1)) for n in runs)),
        )

    async def end(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        last = places[-1] + 1
        outputs = _flat((f"{_number(n)}:{last}", _record(last, "output", "output", RESULT)) for n in runs)
        self._send(
            ("HSET", RECORDS, *_steps(runs, places), *outputs),
            ("HSET", RUNS, *_flat((_number(n), _row(n, "c", 1, last + 1)) for n in runs)),
            ("ZREM", DUE, *(_due(n) for n in runs)),
            ("ZREM", CREATED, *(_created(n, "a") for n in runs)),
            ("ZADD", CREATED, *_flat((0, _created(n, "c")) for n in runs)),
            ("ZADD", EXPIRES, *_flat((NOW + KEEP, _number(n)) for n in runs)),
            ("HINCRBY", COUNTS, "r", -len(runs)),
            ("HINCRBY", COUNTS, "c", len(runs)),
        )

    async def close(self) -> None:
        """See `Bare`."""
        self._socket.close()

    def _send(self, *commands: Command) -> None:
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # stub: of one part
        self._socket.sendall(b"".join(packed))
        awaited = len(commands)
        while awaited:
            self._answers.feed(self._socket.recv(1 << 16))
            while (answer := self._answers.gets()) is not False:
                if isinstance(answer, Exception):
                    raise answer
                awaited -= 1


def _flat(pairs: Iterable[Command]) -> list[str | bytes | int]:
    return [part for pair in pairs for part in pair]


def _steps(runs: Sequence[int], places: Sequence[int]) -> list[str | bytes | int]:
    return _flat((f"{_number(n)}:{at}", _record(at, key(at), "step", RESULT)) for at in places for n in runs)


def _number(n: int) -> str:
    digits = f"{n:x}"
    return chr(48 + len(digits)) + digits


def _record(position: int, name: str, kind: str, payload: str) -> bytes:
    return _pack((position, name, kind, "ok", NOW, payload, 1, NOW, None, None, None))


def _due(n: int) -> str:
    return f"default\0{2**31:08x}\0hello\0r\0{UNTIL:012x}{_number(n)}"


def _created(n: int, status: str) -> str:
    return f"{status}{NOW:012x}{_number(n)}"


def _row(n: int, status: str, seq: int, journal_length: int) -> bytes:
    row = {
        "y": run_id(n),
        "s": f'["",0,"{fingerprint(n)}",{{}}]',
        "w": "hello",
        "q": "default",
        "h": f"{KEEP},,",
        "a": NOW,
        "t": NOW,
        "S": status,
        "j": journal_length,
        "b": NOW,
        "e": 1,
        "i": seq,
    }
    if status == "c":
        return _pack({**row, "f": NOW, "x": NOW + KEEP})
    return _pack({**row, "d": UNTIL, "o": WORKER})
