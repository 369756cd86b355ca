"""Reads what Valkey keeps with plain commands, from one server or all masters of a cluster.

What stands where, `perdure/store/redis/keys.py` says; what this needs of it stands here once more. Each fact is kept in
several keys, which have to agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import redis

from tests.crash.kept import ENDED, Kept, Row, Stored

STATUS = {
    "q": "queued",
    "r": "running",
    "w": "waiting",
    "p": "paused",
    "c": "complete",
    "e": "errored",
    "t": "terminated",
    "u": "compensating",
    "d": "compensated",
    "f": "compensation_failed",
}
CLASS = {"c": "c", "e": "e", "t": "t", "d": "e"}
CAN_BECOME_DUE = "qwruf"
STAYS = b"\0"
"""In every key, so that none is ever empty."""
SETS = ("due", "created", "family", "expires", "mail", "limited")

Packed = dict[str, Any]


class Shard:
    """What one shard has, as it comes from the server."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.ids: dict[str, str] = {}
        self.rows: dict[str, Packed] = {}
        self.records: dict[bytes, bytes] = {}
        self.inbox: dict[bytes, bytes] = {}
        self.seen: dict[bytes, bytes] = {}
        self.counts: dict[str, int] = {}
        self.sets: dict[str, set[bytes]] = {}


def read(url: str) -> Kept:
    """Return every run with what belongs to it."""
    runs: dict[str, Stored] = {}
    contradictions: list[str] = []
    for shard in _shards(url):
        found, odd = _joined(shard)
        twice = [f"{run_id} is there twice, once in {shard.tag}" for run_id in runs.keys() & found.keys()]
        contradictions += [*odd, *twice, *_disagreements(shard)]
        runs.update(found)
    return Kept(runs, contradictions)


def unfinished(url: str) -> list[tuple[str, str]]:
    """Return the runs that have not ended, with their statuses."""
    rows = [row for tag, client in _places(url) for row in _rows(client, tag).values()]
    return [(row["y"], STATUS[row["S"]]) for row in rows if STATUS[row["S"]] not in ENDED]


def told(url: str, run_id: str) -> str:
    """Return all that a run's row says."""
    rows = [(tag, row) for tag, client in _places(url) for row in _rows(client, tag).values() if row["y"] == run_id]
    return repr(rows)


def tags(url: str) -> list[str]:
    """Return the hash tags of all shards."""
    return [tag for tag, _ in _places(url)]


# Reading.


def _places(url: str) -> Iterator[tuple[str, redis.Redis]]:
    """Every shard's tag, and a connection to the server that has it."""
    parts = urlsplit(url)
    (prefix,) = parse_qs(parts.query).get("prefix", ["perdure"])
    secret = unquote(parts.password) if parts.password else None
    for host, port in _servers(parts.hostname or "", parts.port or 6379, secret):
        with redis.Redis(host, port, password=secret) as client:
            for name in sorted(client.scan_iter(f"{{{prefix}:*}}:meta", 1000)):
                yield name.decode().removeprefix("{").removesuffix("}:meta"), client


def _servers(host: str, port: int, secret: str | None) -> list[tuple[str, int]]:
    with redis.Redis(host, port, password=secret, decode_responses=True) as client:
        client.response_callbacks.clear()
        if "cluster_enabled:1" not in client.execute_command("INFO", "cluster"):
            return [(host, port)]
        lines = [line.split() for line in client.execute_command("CLUSTER", "NODES").splitlines()]
    masters = [line[1] for line in lines if "master" in line[2].split(",") and "fail" not in line[2].split(",")]
    return [(place.partition(":")[0], int(place.partition(":")[2].partition("@")[0])) for place in masters]


def _shards(url: str) -> Iterator[Shard]:
    for tag, client in _places(url):
        shard = Shard(tag)
        everything = client.pipeline(transaction=True)
        for name in ("ids", "runs", "records", "inbox", "seen", "counts"):
            everything.hgetall(_key(tag, name))
        for name in SETS:
            everything.zrange(_key(tag, name), 0, -1)
        ids, rows, shard.records, shard.inbox, shard.seen, counts, *sets = everything.execute()
        for members in (ids, rows, shard.records, shard.inbox, shard.seen, counts):
            members.pop(STAYS, None)
        shard.ids = {run_id.decode(): number.decode() for run_id, number in ids.items()}
        shard.rows = _unpacked(rows)
        shard.counts = {letter.decode(): int(count) for letter, count in counts.items()}
        shard.sets = {name: set(members) - {STAYS} for name, members in zip(SETS, sets, strict=True)}
        yield shard


def _rows(client: redis.Redis, tag: str) -> dict[str, Packed]:
    return _unpacked(client.hgetall(_key(tag, "runs")))


def _unpacked(rows: Mapping[bytes, bytes]) -> dict[str, Packed]:
    return {number.decode(): msgspec.msgpack.decode(row) for number, row in rows.items() if number != STAYS}


def _key(tag: str, name: str) -> str:
    return f"{{{tag}}}:{name}"


# Joining.


def _joined(shard: Shard) -> tuple[dict[str, Stored], list[str]]:
    """The runs of a shard, and what belongs to none."""
    contradictions: list[str] = []
    journals: dict[str, list[Row]] = defaultdict(list)
    inboxes: dict[str, list[tuple[int, str, bool]]] = defaultdict(list)
    for field, packed in shard.records.items():
        number, _, position = field.decode().partition(":")
        record = msgspec.msgpack.decode(packed)
        journals[number].append(Row(*record[:7], ref=record[9]))
        if int(position) != record[0]:
            contradictions.append(f"record {record[0]} of run number {number} stands at {position}")
    for field, message in shard.inbox.items():
        number, _, seq = field.decode().partition(":")
        kind, is_read = chr(message[0]).lower(), chr(message[0]).isupper()
        message_id = message[1:].partition(b"\0")[0].decode()
        inboxes[number].append((int(seq), message_id, is_read))
        if kind not in "ec" or shard.seen.get(f"{number}:{message_id}".encode()) != seq.encode():
            contradictions.append(f"message {message_id} of run number {number} is not among those seen")
    runs = {}
    for number, row in shard.rows.items():
        journal, inbox = sorted(journals.pop(number, [])), sorted(inboxes.pop(number, []))
        listed = [(message_id, is_read) for _, message_id, is_read in inbox]
        runs[row["y"]] = Stored(STATUS[row["S"]], row.get("e", 0), row["j"], row.get("P"), journal, listed)
        unread = sum(not is_read for _, is_read in listed)
        if row.get("u", 0) != unread:
            contradictions.append(f"{row['y']} says it has {row.get('u', 0)} unread messages, and has {unread}")
    contradictions += [f"the run number {number} that there is not has records" for number in journals]
    contradictions += [f"the run number {number} that there is not has messages" for number in inboxes]
    if len(shard.seen) != len(shard.inbox):
        contradictions.append(f"{shard.tag} has seen {len(shard.seen)} messages, and has {len(shard.inbox)}")
    return runs, contradictions


def _disagreements(shard: Shard) -> Iterator[str]:
    """Where a shard's lists say something else than its rows."""
    if shard.ids != {row["y"]: number for number, row in shard.rows.items()}:
        yield f"{shard.tag}: the ids are not those of the rows"
    counts = Counter(row["S"] for row in shard.rows.values())
    if {letter: count for letter, count in shard.counts.items() if count} != counts:
        yield f"{shard.tag}: counts {shard.counts} where there are {dict(counts)}"
    sets: dict[str, set[bytes]] = {name: set() for name in SETS}
    for field, message in shard.inbox.items():
        number, _, seq = field.decode().partition(":")
        kind, digits = chr(message[0]), f"{int(seq):x}"
        if kind in "ec":
            sets["mail"].add(f"{number}:u{len(digits)}{digits}".encode())
        if kind in "cC":
            sets["mail"].add(f"{number}:c{len(digits)}{digits}".encode())
    for number, row in shard.rows.items():
        sets["created"].add(f"{CLASS.get(row['S'], 'a')}{row['a']:012x}{number}".encode())
        if row["S"] in CAN_BECOME_DUE and row.get("d") is not None:
            letter, key = "r" if row.get("o") else "w", row.get("L")
            lane = f"{0x80000000 - row.get('p', 0):08x}\0{row['w']}\0{letter.upper() if key else letter}\0"
            rest = f"{lane}{row['d']:012x}{number}"
            sets["due"].add(f"{row['q']}\0{rest}".encode())
            if key:
                sets["limited"].add(f"l{row['q']}\0{key}\0{rest}".encode())
            if row.get("A"):
                sets["limited"].add(f"a{row['q']}\0{key or ''}\0{row['d']:012x}{number}".encode())
        if row.get("P") is not None:
            sets["family"].add(f"{row['P']}\0{number}".encode())
        if row.get("x") is not None:
            sets["expires"].add(number.encode())
    for name, expected in sets.items():
        if shard.sets[name] != expected:
            missing, extra = expected - shard.sets[name], shard.sets[name] - expected
            yield f"{shard.tag}: {name} lacks {sorted(missing)[:3]} and has {sorted(extra)[:3]} too much"
