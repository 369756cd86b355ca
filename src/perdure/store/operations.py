"""What of the contract a Perdure server does for its clients, and how that is spelt in JSON.

Both sides take it from the contract itself: the arguments of an operation are the fields of an object, and its answer
is the body of the response. `wait` is another one over HTTP: who asks says what was heard last, since there is nobody
on the other side who would remember it. Where values are large, `journal` and `get` answer with the first of what was
asked for, and are asked again for the rest: an answer has a bound, and nothing is cut without a word.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import msgspec

from perdure.model.record import Record
from perdure.store.contract import Store

PATH = "/api/v1/store/"
"""What the path of an operation begins with."""

TURNS = "/api/v1/turns/"
"""What the path begins with of what an endpoint asks in the middle of a turn."""

TURN = "Perdure-Turn"
"""The header that carries the token of that turn."""

MOST = 1_000
"""How many items one request may hold; longer lists are cut."""

RECORDS = 500
"""How many records of a journal one answer may hold; it holds fewer, and says so, where their values are large."""

DOCUMENTS = 100
"""How many documents one answer may hold."""

WAIT = 20.0
"""Seconds that one request waits for a change at most."""

READING = (
    *("get", "journal", "inbox", "find", "stats", "catalog", "definitions", "read", "documents", "collections"),
    *("queues", "look_into", "describe", "clock"),
)
"""The operations that change nothing."""

CHANGING = ("create", "post", "control", "prune", "publish", "define", "put", "set_queue")
"""The others."""


class Operation:
    """One operation, as both sides write and read it.

    Args:
        name: the contract's.

    Attributes:
        name: see above.
        arguments: a type whose fields are its arguments.
    """

    def __init__(self, name: str) -> None:
        function = getattr(Store, name)
        hints = get_type_hints(function)
        fields: list[Any] = [
            (field, hints[field]) if each.default is each.empty else (field, hints[field], each.default)
            for field, each in inspect.signature(function).parameters.items()
            if field != "self"
        ]
        self.name = name
        self.arguments: Any = msgspec.defstruct(name, fields, forbid_unknown_fields=True, frozen=True, kw_only=True)
        self.read: Any = msgspec.json.Decoder(self.arguments).decode
        self.read_answer: Any = msgspec.json.Decoder(_ANSWERS.get(name, hints["return"])).decode


class Records(msgspec.Struct, frozen=True):
    """The answer to `journal`.

    Attributes:
        records: the first of those that were asked for.
        is_last: whether there are none behind them; else they are asked for one answer after the other.
    """

    records: list[Record]
    is_last: bool


_ANSWERS = {"journal": Records}
"""What an operation answers that is not what the contract returns."""

OPERATIONS = {name: Operation(name) for name in (*READING, *CHANGING)}


class Heard(msgspec.Struct, frozen=True):
    """The answer to `Wait`: what was heard last, to be given the next time."""

    last: str


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks to be told as soon as something may have ended.

    Attributes:
        timeout: seconds after which it is told all the same.
        last: `Heard.last` of the answer before; empty for the first time, which is answered at once.
    """

    timeout: float
    last: str = ""
