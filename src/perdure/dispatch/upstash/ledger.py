"""What a run of the protocol has come to, worked out from what it was told, in that order: pure.

The run's own code keeps one while it goes on; whoever reads the run's journal makes one of its records, which is alike.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.dispatch.upstash.submission import (
    Call,
    Entry,
    Finish,
    Invoke,
    Notice,
    Step,
    StepFields,
    Submission,
    Trigger,
    Wait,
    fields_of,
)
from perdure.model import failure
from perdure.model.record import Record

SAVED = 1_000
"""How many notifications a run keeps that nothing waits for yet; further ones are dropped."""

_TERMINATED = "RunTerminatedError"


class Noted:
    """An entry of a run, and what it came of.

    Attributes:
        entry: as it is sent.
        fields: the step; None for the initial entry.
        source: what was handed in; the trigger for the initial entry, and for those of an earlier run.
        at: when, in milliseconds since the epoch; 0 where that is not known.
        is_late: it is the end of a wait that nobody notified.
    """

    def __init__(
        self,
        entry: Entry,
        fields: StepFields | None,
        source: Trigger | Step | Wait | Invoke,
        at: int = 0,
        *,
        is_late: bool = False,
    ) -> None:
        self.entry = entry
        self.fields = fields
        self.source = source
        self.at = at
        self.is_late = is_late


class Ledger:
    """See the module's text.

    Args:
        trigger: what the run begins with.

    Attributes:
        trigger: see above.
        entries: in the order in which they were accepted.
        calls, invokes, waits: what was handed in of these kinds, by step.
        is_finished: the endpoint ended the run.
    """

    def __init__(self, trigger: Trigger, at: int = 0) -> None:
        self.trigger = trigger
        self.entries: list[Noted] = []
        self._lengths: list[int] = []
        self.calls: dict[int, Call] = {}
        self.invokes: dict[int, Invoke] = {}
        self.waits: dict[int, Wait] = {}
        self.is_finished = False
        self.at = at
        self._waiting: dict[int, Wait] = {}
        self._saved: list[Notice] = []
        self._keys: set[tuple[int, int | None]] = set()
        self._begun: set[int] = set()
        self._planned: set[int] = set()
        self._last_of_group: dict[int, int] = {}
        for number, entry in enumerate(trigger.entries or [initial(trigger)]):
            if number:
                self._note(entry, fields_of(entry.content, "entry"), trigger)
            else:
                self._append(Noted(entry, None, trigger, at))

    # What the run is told.

    def take(self, given: Submission) -> list[int]:
        """Take in what was handed in; return the indices of the entries that it made, which are to be delivered."""
        if isinstance(given, Step):
            return self._take_step(given)
        if isinstance(given, Call):
            self.calls.setdefault(given.step_id, given)
            self._begun.add(given.step_id)
        elif isinstance(given, Invoke):
            self.invokes.setdefault(given.step_id, given)
            self._begun.add(given.step_id)
        elif isinstance(given, Wait):
            return self._take_wait(given)
        elif isinstance(given, Notice):
            return self._take_notice(given)
        elif isinstance(given, Finish):
            self.is_finished = True
        return []

    def expire(self, step_id: int) -> list[int]:
        """End a wait that nobody notified."""
        wait = self._waiting.pop(step_id, None)
        return [] if wait is None else self._end_wait(wait, None)

    def child_ended(self, step_id: int, payload: str | None, error: str | None) -> list[int]:
        """Take in the end of an invoked run: its output as a payload, or its error."""
        invoke = self.invokes.get(step_id)
        if invoke is None:
            return []
        body = None
        if error is None and payload is not None:
            body = msgspec.json.decode(payload).get("response")
        is_cancelled = error is not None and error.rpartition(":")[2] == _TERMINATED
        out = {"body": body, "isFailed": error is not None and not is_cancelled, "isCanceled": is_cancelled}
        return self._made(invoke, {"out": json.dumps(out, ensure_ascii=False)})

    # What is known.

    def is_waiting(self, step_id: int) -> bool:
        """Return whether a wait has not ended."""
        return step_id in self._waiting

    def has_result(self, step_id: int) -> bool:
        """Return whether a step has a result."""
        return (step_id, None) in self._keys

    def is_behind(self, index: int) -> bool:
        """Return whether what the delivery of an entry is for has happened: what comes behind it was handed in.

        Then it need not be tried again, and it is no matter that it failed.
        """
        if self.is_finished:
            return True
        fields = self.entries[index].fields
        if fields is None:
            return self._has_begun(1)
        if fields.target_step is not None:
            return fields.target_step in self._begun
        return self._has_begun(self._last_of_group.get(fields.step_id, fields.step_id) + 1)

    def body_of(self, index: int) -> str:
        """Return what the delivery of an entry carries: all up to it."""
        return msgspec.json.encode([noted.entry for noted in self.entries[: index + 1]]).decode()

    def length_of(self, index: int) -> int:
        """Return how long that is, more or less, in bytes."""
        return self._lengths[index]

    def name_of(self, index: int) -> str:
        """Return what the delivery of an entry is called in the journal."""
        fields = self.entries[index].fields
        return named("deliver", index, "" if fields is None else fields.step_name)

    def unfinished(self) -> list[int]:
        """Return which entries are to be delivered for a run to go on from here: planned steps, else the last one."""
        planned = [
            index
            for index, noted in enumerate(self.entries)
            if noted.fields is not None
            and noted.fields.target_step is not None
            and not self.has_result(noted.fields.target_step)
        ]
        return planned or [len(self.entries) - 1]

    # Inside.

    def _has_begun(self, step_id: int) -> bool:
        return step_id in self._begun or step_id in self._planned

    def _take_step(self, step: Step) -> list[int]:
        fields = fields_of(step.message.content, "step")
        call = self.calls.get(fields.step_id)
        body = step.message.content
        if call is not None and fields.step_type == "Call" and call.name and fields.step_name != call.name:
            # The name went to the endpoint in a header, which letters beyond Latin-1 do not survive.
            named = msgspec.json.decode(body)
            named["stepName"] = call.name
            body = json.dumps(named, ensure_ascii=False).encode()
        return self._note(Entry(step.message_id, base64.b64encode(body).decode()), fields, step)

    def _note(
        self, entry: Entry, fields: StepFields, source: Trigger | Step | Wait | Invoke, *, is_late: bool = False
    ) -> list[int]:
        key = (fields.step_id, fields.target_step)
        if key in self._keys:
            return []
        self._keys.add(key)
        target = fields.target_step
        if target is None:
            self._begun.add(fields.step_id)
        else:
            self._planned.add(target)
            if target not in self._last_of_group:  # the first of its group, whose steps are numbered on from it
                for number in range(target, target + fields.concurrent):
                    self._last_of_group[number] = target + fields.concurrent - 1
        self._append(Noted(entry, fields, source, self.at, is_late=is_late))
        return [len(self.entries) - 1]

    def _append(self, noted: Noted) -> None:
        before = self._lengths[-1] if self._lengths else 0
        self._lengths.append(before + len(noted.entry.body) + 80)
        self.entries.append(noted)

    def _take_wait(self, wait: Wait) -> list[int]:
        if wait.step_id in self.waits:
            return []
        self.waits[wait.step_id] = self._waiting[wait.step_id] = wait
        self._begun.add(wait.step_id)
        for saved in self._saved:
            is_meant = saved.is_kept or saved.step_id == wait.step_id
            if is_meant and saved.event_id == wait.event_id:
                self._saved.remove(saved)
                del self._waiting[wait.step_id]
                return self._end_wait(wait, saved.body)
        return []

    def _take_notice(self, notice: Notice) -> list[int]:
        waits = [wait for wait in self._waiting.values() if wait.event_id == notice.event_id]
        meant = [wait for wait in waits if notice.step_id in (None, wait.step_id)]
        for wait in meant or (waits if notice.is_kept else ()):
            del self._waiting[wait.step_id]
            return self._end_wait(wait, notice.body)
        # That a run waits is known ahead of the run itself: what it is notified of may come between the two.
        is_early = notice.step_id is not None and notice.step_id not in self.waits
        if (notice.is_kept or is_early) and len(self._saved) < SAVED:
            self._saved.append(notice)
        return []

    def _end_wait(self, wait: Wait, body: str | None) -> list[int]:
        more = {"waitEventId": wait.event_id, "timeout": wait.timeout, "waitTimeout": body is None}
        return self._made(wait, more if body is None else {**more, "out": body}, is_late=body is None)

    def _made(self, source: Wait | Invoke, more: dict[str, Any], *, is_late: bool = False) -> list[int]:
        """Note a step that the server itself makes."""
        step = {**msgspec.json.decode(source.step), **more}
        body = json.dumps(step, ensure_ascii=False).encode()
        entry = Entry(source.message_id, base64.b64encode(body).decode())
        return self._note(entry, fields_of(body, "step"), source, is_late=is_late)


def initial(trigger: Trigger) -> Entry:
    """Return the entry that a run begins with."""
    return Entry(trigger.message_id, base64.b64encode(trigger.message.content).decode())


def trigger_of(record: Record) -> Trigger:
    """Return what a run began with, of its first record."""
    return _INPUT.decode(record.payload or "{}").trigger


def ledger_of(records: Iterable[Record]) -> Ledger:
    """Return what a run has come to, of its journal."""
    records = iter(records)
    first = next(records)
    ledger = Ledger(trigger_of(first), first.at)
    for record in records:
        ledger.at = record.at
        name, _, number = what_of(record).partition(" ")
        if record.kind == "event" and record.state == "ok":
            ledger.take(_SUBMISSION.decode(record.payload or "{}"))
        elif record.kind == "timer" and name == EXPIRY:
            ledger.expire(int(number))
        elif record.kind == "child" and name == INVOKED and record.state != "open":
            is_ok = record.state == "ok"
            ledger.child_ended(int(number), record.payload, None if is_ok else error_of(record.payload))
    return ledger


def named(what: str, number: int, name: str) -> str:
    """Return what something is called in the journal: with its number, and then a name for those who read it."""
    shown = "".join(each if each.isprintable() and each not in "/#" else " " for each in name[:NAMED])
    return f"{what} {number}: {shown}" if shown else f"{what} {number}"


def what_of(record: Record) -> str:
    """Return of what a record is, without the name and the count of repetitions."""
    return record.key.partition("#")[0].partition(":")[0]


NAMED = 100
"""How many characters of names stand in the journal."""

EXPIRY = "wait"
"""What the names of the timers begin with that end waits; the step's number follows."""

INVOKED = "invoke"
"""What the names of invoked runs begin with; the step's number follows."""


def error_of(payload: str | None) -> str:
    """Return the type of the error that a child ended with."""
    if payload is None:
        return "StepError"
    info = failure.decode_error(payload)
    return info.type if info.cause is None else info.cause.type


class _Input(msgspec.Struct):
    trigger: Trigger


_INPUT = msgspec.json.Decoder(_Input)
_SUBMISSION: msgspec.json.Decoder[Submission] = msgspec.json.Decoder(Submission)
