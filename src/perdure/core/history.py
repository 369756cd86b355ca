"""The journal of earlier turns, sorted out for a replay: what to deliver next, and what to look up."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.model.record import Record


class History:
    """The records behind a run's input.

    Args:
        journal: the whole journal, its input record first.

    Attributes:
        values: recorded values and patch markers, by key.
        opened: the last unsettled record of each key: a failed attempt, a started child.
        nested: settled records of steps inside steps, by key.
        begun: the keys of what was begun and neither settled nor, so far, asked for again.
        undos: the keys of what has an undo, as registered.
        registered: those of them that earlier turns registered.
        length: of the journal.
        is_undone: the code was left for undoing it, at a place that is still to come: nothing new may be done before.
    """

    def __init__(self, journal: Sequence[Record]) -> None:
        self.values: dict[str, Record] = {}
        self.opened: dict[str, Record] = {}
        self.nested: dict[str, Record] = {}
        self.begun: set[str] = set()
        self.undos: set[str] = set()
        self.is_undone = False
        self._next = 0
        self._used: set[str] = set()
        self._order = self._sorted(journal)
        self.registered = frozenset(self.undos)
        self.length = len(journal)

    def next(self) -> Record | None:
        """Return the record to deliver next, stepping over values that were used; None when none is left."""
        order = self._order
        while self._next < len(order):
            record = order[self._next]
            if record.kind not in ("value", "patch") or record.key not in self._used:
                return record
            self._next += 1
        return None

    def advance(self) -> None:
        """Step behind the record that was delivered."""
        self._next += 1

    def use(self, key: str) -> Record | None:
        """Return the recorded value or marker of a key, if there is one, and take it for asked for."""
        self._used.add(key)
        return self.values.get(key)

    def keys_left(self) -> set[str]:
        """Return the keys of the records that are left to deliver."""
        return {record.key for record in self._order[self._next :]}

    def _sorted(self, journal: Sequence[Record]) -> list[Record]:
        """Return the records to deliver, those that newer code inserted at the places they were inserted at."""
        placed: list[Record] = []
        inserted: dict[int, list[Record]] = {}
        for record in journal[1:]:
            if record.kind in ("value", "patch"):
                self.values[record.key] = record
            elif record.state == "open" and record.kind == "undo":
                self.undos.add(record.key.removeprefix("undo:"))
                continue
            elif record.state == "open":
                self.opened[record.key] = record
                self.begun.add(record.key.partition("/")[0])
                continue
            elif "/" in record.key:
                self.nested[record.key] = record
                self.begun.add(record.key.partition("/")[0])
                continue
            elif record.kind == "undo":
                self.is_undone = True
            self.begun.discard(record.key)
            if record.before is None:
                placed.append(record)
            else:
                inserted.setdefault(record.before, []).append(record)
        if not inserted:
            return placed
        order: list[Record] = []

        def place(record: Record) -> None:
            for late in inserted.get(record.position, ()):
                place(late)
            order.append(record)

        for record in placed:
            place(record)
        return order
