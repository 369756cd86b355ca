"""Every key of the store, and what is in it.

A store has a prefix (`perdure` unless told otherwise) and one or more shards. The keys of a shard share a hash tag, so
that they are always on one server, and each script is given all of them: no script makes the name of a key, and there is
none per run. So a server can move a shard to another while it is used: a script that comes in between is told to try
again, and never sees half of the data.

Runs have numbers, from 1, in the order of their creation on their shard. A *number* below is such a number as text that
sorts like it: one character for how many digits there are, then the digits in hexadecimal (`14a2` is not a number, `34a2`
is). A *time* is milliseconds in twelve hexadecimal digits. `␀` is the character NUL.

Each key is `{<prefix>:<shard>}:<name>`:

| name      | type | holds |
|-----------|------|-------|
| `meta`    | hash | `schema`, on shard 0 `shards`, and `n`, the last number that was given |
| `ids`     | hash | id of a run → its number |
| `runs`    | hash | number → the run's row (`rows.Row`, MessagePack) |
| `records` | hash | `<number>:<position>` → a record (MessagePack) |
| `inbox`   | hash | `<number>:<seq>` → a message: `e` (event) or `c` (child), id, `␀`, the rest in MessagePack; once it is read: `E` or `C` and the id, to know it again |
| `seen`    | hash | `<number>:<id of a message>` → its seq |
| `due`     | sorted set by text | what can become due: queue `␀` priority (2³¹ less it, eight hexadecimal digits) `␀` workflow `␀` `r` (leased) or `w` (not) `␀` due_at number. All but the last two are a *lane*: claims leap from lane to lane |
| `family`  | sorted set by text | id of the parent `␀` number of the child |
| `created` | sorted set by text | `a` (unfinished), `c`, `e` or `t` (complete, errored, terminated), created_at, number |
| `expires` | sorted set by score | number, by expires_at |
| `counts`  | hash | status letter → how many runs have it |
| `places`  | hash | on the home shard of an id, if its run is elsewhere: id → shard, time (see below) |

On shard 0 there is one more, `catalog`: a hash of workflow `␀` version → the entry, as JSON. Changes are announced on the
channel `<prefix>:changed`.

A run's home shard follows from its id: from what is before the first `/`, so that children, whose ids begin with their
parent's, are where the parent is. A child that was given an id of its own is kept with its parent all the same; what
finds it there is an entry in `places` on its home shard, made before the run is. Whoever comes first makes it, and then
nobody changes it, so two runs of one id can never be created in two places.
"""  # noqa: E501 - a table's rows are single lines

from __future__ import annotations

import zlib
from binascii import crc_hqx
from functools import cached_property

SLOTS = 16_384
"""Into how many slots a cluster divides its keys."""

NAMES = (
    "meta",
    "ids",
    "runs",
    "records",
    "inbox",
    "seen",
    "due",
    "family",
    "created",
    "expires",
    "counts",
    "places",
)
"""The keys that every script is given, in their order."""


class Shard:
    """One shard's keys.

    Attributes:
        index: 0, 1, 2 … within the store.
        slot: of all its keys in a cluster.
        keys: see `NAMES`.
    """

    def __init__(self, prefix: str, index: int, shards: int) -> None:
        self.index = index
        self.tag = _tag(prefix, index, shards)
        self.slot = slot_of(self.tag)
        self.keys = tuple(self.key(name) for name in NAMES)

    def key(self, name: str) -> bytes:
        """Return one key."""
        return f"{{{self.tag}}}:{name}".encode()

    @cached_property
    def catalog(self) -> bytes:
        """The key of the catalog; see the module."""
        return self.key("catalog")

    @cached_property
    def meta(self) -> bytes:
        """The key of what is known of the shard itself."""
        return self.key("meta")


def home_of(run_id: str, shards: int) -> int:
    """Return the shard on which a run of this id is, unless its parent is elsewhere."""
    return 0 if shards == 1 else zlib.crc32(run_id.partition("/")[0].encode()) % shards


def slot_of(tag: str) -> int:
    """Return the slot of all keys with this hash tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def _tag(prefix: str, index: int, shards: int) -> str:
    """Return a hash tag whose slot lies in the shard's part of all slots: as many parts as shards, from shard 0's on.

    A cluster's servers have ranges of slots, so they get about as many shards each.
    """
    first = f"{prefix}:0"
    if index == 0:
        return first
    part = (slot_of(first) * shards // SLOTS + index) % shards
    suffix = 0
    while slot_of(f"{prefix}:{index}.{suffix}") * shards // SLOTS != part:
        suffix += 1
    return f"{prefix}:{index}.{suffix}"


def time_text(at: int) -> str:
    """Return a time as it stands in a sorted set."""
    return f"{max(0, min(at, (1 << 48) - 1)):012x}"


def number_text(n: int) -> str:
    """Return a run's number as it is kept."""
    digits = f"{n:x}"
    return chr(48 + len(digits)) + digits


def number_of(text: str | bytes) -> int:
    """Return the number that a text stands for."""
    return int(text[1:], 16)


def lane(queue: str, priority: int, workflow: str, *, is_leased: bool) -> str:
    """Return the beginning of an entry in `due`."""
    bounded = max(-0x7FFFFFFF, min(priority, 0x7FFFFFFF))
    return f"{queue}\0{0x80000000 - bounded:08x}\0{workflow}\0{'r' if is_leased else 'w'}\0"
