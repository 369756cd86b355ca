"""The scripts that the server runs: each is one operation on one shard, and one transaction.

The files beside this one are Lua; each says what it is given and what it returns. They are put together of parts.
"""

from __future__ import annotations

import hashlib
from importlib import resources

_ENDING = ("inbox", "ending")
_INSERTING = ("dedup", "inserting")
_LOOKING = ("lanes", "first_due")
_LEASING = ("inbox", "reading", "leasing")
_PARTS: dict[str, tuple[str, ...]] = {
    "create": (*_INSERTING, "offers", "handing"),
    "load": _INSERTING,
    "post": ("inbox",),
    "claim": (*_LEASING, *_LOOKING),
    "offer": ("lanes", "offers"),
    "withdraw": ("offers",),
    "admit": _LEASING,
    "look_into": _LOOKING,
    "held": ("inbox", "reading"),
    "commit": (*_ENDING, *_INSERTING),
    "extend": (),
    "control": (*_ENDING, *_INSERTING),
    "prune": ("dedup",),
    "get": (),
    "journal": (),
    "unread": ("inbox",),
    "find": (),
    "children": (),
    "stats": ("lanes",),
    "next_due": ("lanes",),
    "dump": (),
    "ready": ("lanes",),
    "check": (),
    "place": (),
    "old_places": (),
    "forget_places": (),
    "queues": (),
    "set_queue": (),
    "end_turns": (),
    "end_hold": (),
    "put": (),
    "reword": ("inbox",),
    "reword_document": (),
    "read": (),
    "documents": (),
    "collections": (),
}
"""Of what each script is made, between the prelude and its own file."""


class Script:
    """One script, and the name that the server knows it by.

    Attributes:
        name: of its file.
        text: all of it.
        sha: the SHA-1 of the text, in hexadecimal.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        begin = map(_text, ("prelude", *_PARTS[name]))
        self.text = b"\n".join([*begin, b"local function work()", _text(name), b"end", _text("marking")])
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


def _text(part: str) -> bytes:
    return resources.files(__name__).joinpath(f"{part}.lua").read_bytes()


def load_scripts() -> dict[str, Script]:
    """Return every script by its name."""
    return {name: Script(name) for name in _PARTS}
