"""Every key of the store, and what is in it.

A store has a prefix (`perdure` unless told otherwise) and one or more shards. The keys of a shard share a hash tag, so
that they are always on one server, and every script is given all of them: no script makes up the name of a key, and
there are none per run. So a server can hand a shard to another while it is used: a script that comes in between is told
to try again, and never sees half of the data.

Runs have numbers, from 1, in the order of their creation on their shard. A *number* below is that as text that sorts
like it: one character for how many hexadecimal digits there are, then the digits. So run 18 is `212`. A *time* is in
milliseconds, as twelve hexadecimal digits. `0` in angle brackets, `<0>`, is the character NUL.

Each key is `{<prefix>:<shard>}:<name>`:

    meta     hash   `schema`, on shard 0 `shards`, `n`, the last number that was given, and `mark`, see `marking.lua`;
                    `offers`: a list of offers (MessagePack), oldest first, each a channel, a worker, for how long it
                    leases, until when the offer stands, <0> and queue <0> and so on, the same of workflows or false
    ids      hash   id of a run: its number
    runs     hash   number: the run's row (`rows.Row`, MessagePack)
    records  hash   `<number>:<position>`: a record (MessagePack)
    inbox    hash   `<number>:<seq>`: a message: `e` (event) or `c` (child), its id, <0>, the rest (MessagePack); once
                    it is read `E` or `C` and its id, to know it again
    seen     hash   `<number>:<id of a message>`: its seq
    mail     zset   number `:u` seq of an unread message, and number `:c` seq of one of a child, read or not; the seq is
                    written like a number
    due      zset   what can become due: queue <0> priority <0> workflow <0> `r` (leased) or `w` (not) <0> due_at
                    number; for the priority 2^31 less it, as eight hexadecimal digits. All but the last two are a
                    *lane*: who looks for what is due leaps from lane to lane. A run with a limit key has `R` or `W`
    limited  zset   `l` queue <0> limit key <0> and the rest of the entry in `due`, for each run with a limit key; `a`
                    queue <0> limit key <0> due_at number, for each admitted run
    queues   hash   queue: `p` (paused), `g` (limited) or `-` (neither), version, `:`, its state (JSON without `turns`),
                    on every shard; queue <0> `turns`: the fence, which counts on the queue's home; queue <0> `hold`:
                    `<turn>:<its end, in milliseconds>`, there too, while somebody admits runs on several shards;
                    queue <0> `over`: the last turn that was given up: nothing more of it may happen on this shard
    paces    zset   queue <0> limit key, with its pace as score; on the queue's home
    dedup    hash   dedup key: number of the run that has it, `:` until, `:` 1 if replacing or 0, `:` latest_due_at
    documents zset  collection <0> key <0> revision `:` at `:` text, for each document; on the collection's home
    family   zset   id of the parent <0> number of the child
    created  zset   `a` (unfinished), `c`, `e` or `t` (complete, errored or compensated, terminated), created_at, number
    expires  zset   number, with expires_at as its score
    counts   hash   letter of a status: how many runs have it
    places   hash   on the home shard of an id whose run is elsewhere: id: `<shard>:<when, in milliseconds>`

Every key has one more member, <0>, which is never removed. A key without members would be gone, and while its slot is
moved to another node, a script may not use a key that is gone: it would end half way.

A zset is sorted by its text, all scores being 0, but for `expires` and `paces`. On shard 0 there are two more keys:
`catalog`, a hash of workflow <0> version: the entry (JSON), and `definitions`, name <0> version: the definition (JSON).
Changes are announced on the channel `<prefix>:changed`, by who made them (and `.` where runs ended, and no more), and
what is handed over on one for each process behind `<prefix>:changed:`.

A run's home follows from its id: from what is before the first `/`, so that children, whose ids begin with their
parent's, are where the parent is. A child with an id of its own is kept with its parent all the same; what finds it
is an entry in `places` at its home, made before the run is. Who comes first makes it, whoever else wants that id
follows it, and nobody changes where it leads: so there are never two runs of one id. An entry that leads to no run,
because that was pruned or its parent's decision was never carried out, is removed once nobody has asked for that place
for an hour: by then nothing can still be on its way.

A queue's home follows from its name. What its runs need in common is there: its turns, and who has one. So does that
of a collection, all of whose documents are there.
"""

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
    "mail",
    "limited",
    "queues",
    "dedup",
    "paces",
    "documents",
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
    def definitions(self) -> bytes:
        """The key of the definitions; see the module."""
        return self.key("definitions")

    @cached_property
    def meta(self) -> bytes:
        """The key of what is known of the shard itself."""
        return self.key("meta")


def home_of(run_id: str, shards: int) -> int:
    """Return the shard on which a run of this id is, unless its parent is elsewhere."""
    return 0 if shards == 1 else zlib.crc32(run_id.partition("/")[0].encode()) % shards


def home_of_name(name: str, shards: int) -> int:
    """Return the shard on which the turns of a queue are taken, or the documents of a collection are."""
    return 0 if shards == 1 else zlib.crc32(name.encode()) % shards


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


def lane(queue: str, priority: int, workflow: str, *, is_leased: bool, has_key: bool) -> str:
    """Return the beginning of an entry in `due`; `has_key` is whether the run has a limit key."""
    bounded = max(-0x7FFFFFFF, min(priority, 0x7FFFFFFF))
    letter = "r" if is_leased else "w"
    return f"{queue}\0{0x80000000 - bounded:08x}\0{workflow}\0{letter.upper() if has_key else letter}\0"
