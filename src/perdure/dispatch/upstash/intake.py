"""Takes in what endpoints and clients of the workflow protocol hand in, and makes runs and events of it.

What is handed in twice has the same event id, so the store drops the second; whoever handed it in gets the first one's
answer. What comes with one request is written by one call.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.dispatch.messages.message import QUEUE, Message, text_or_base64
from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.messages.options import Options, destination, read
from perdure.dispatch.messages.outbox import BATCH, RETENTION, Publication
from perdure.dispatch.upstash.driving import tags_of
from perdure.dispatch.upstash.refusing import RefusedError, RunEndedError, RunFullError, refusing
from perdure.dispatch.upstash.submission import (
    EVENT,
    FINISHED,
    STEP_MOST,
    WORKFLOW,
    Again,
    Call,
    Finish,
    Invoke,
    Invoker,
    Step,
    Submission,
    Trigger,
    fields_of,
    message_id_of,
    step_event,
)
from perdure.engine.app import Perdure
from perdure.engine.env import new_id
from perdure.model.decision import Message as Mail
from perdure.model.decision import Posted
from perdure.model.errors import UsageError
from perdure.model.record import Record
from perdure.model.run import NewRun, Run

DEPTH = 12
"""How many runs may invoke one another, in a row: less than the runs that may be children of one another."""

KNOWN = 10_000
"""Of how many runs it is remembered that they are such of the protocol."""

ENDED = "the workflow run has ended, or is not there"

_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,150}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_PREFIX = "upstash-workflow-"
_STEP_ID, _STEP_NAME, _INVOKED = f"{_PREFIX}stepid", f"{_PREFIX}stepname", f"{_PREFIX}invoke-count"


class _Event(NamedTuple):
    """An event for a run, with its answer."""

    run_id: str
    id: str
    given: Submission
    message_id: str


class Intake:
    """What is handed in, in one namespace.

    Args:
        app: the namespace's engine.
        messages: its messages, which share connections, queues and bounds with the protocol.
        told: called with the ids of runs that there are events for.
    """

    def __init__(self, app: Perdure, messages: Messaging, told: Callable[[list[str]], None]) -> None:
        self._app = app
        self._messages = messages
        self._told = told
        self._known: OrderedDict[str, int] = OrderedDict()

    @staticmethod
    def hands_in(headers: Iterable[tuple[str, str]]) -> bool:
        """Return whether headers are those of what is handed in to a run that is there, rather than of a trigger."""
        found = {name.lower(): value for name, value in headers}
        begins = found.get("upstash-workflow-init") == "true" and found.get("upstash-workflow-invoke") != "true"
        return "upstash-workflow-runid" in found and not begins

    @staticmethod
    def is_meant(options: Options) -> bool:
        """Return whether a message is one of the protocol, rather than a plain one."""
        return any(name.lower().startswith(_PREFIX) for name, _ in options.message.extra)

    async def take_each(self, publications: Sequence[Publication], *, caller_ip: str = "") -> list[dict[str, Any]]:
        """Take in messages of the protocol, all or none; return QStash's answer to each, in order.

        Raises:
            RunEndedError, RefusedError, RunFullError, UsageError: see there; nothing was taken, but for events that a
                run had room for.
        """
        if len(publications) > BATCH:
            raise RefusedError(f"batch: {len(publications):,} messages, over {BATCH:,} (BATCH)")
        parsed = [self._parsed(each, caller_ip) for each in publications]
        events = [each for each in parsed if isinstance(each, _Event)]
        await self.require_runs([each.run_id for each in events])
        await self._note([each for given in parsed for each in _messages_of(given)])
        news = [each for each in parsed if isinstance(each, NewRun)]
        created = iter(await self._create_each(news) if news else ())
        posted = iter(await self.post([(each.run_id, each.id, each.given) for each in events]))
        answers = []
        for each in parsed:
            message_id = each.message_id if isinstance(each, _Event) else message_id_of(each.id, "init")
            is_new = next(posted) if isinstance(each, _Event) else next(created)
            answers.append({"messageId": message_id} if is_new else {"messageId": message_id, "deduplicated": True})
        return answers

    async def trigger(self, given: Publication, *, caller_ip: str = "") -> dict[str, Any]:
        """Begin a run whose client is unknown; return its id, and when it was created.

        Raises:
            UsageError: it cannot be begun.
        """
        extra = {name.lower(): value for name, value in given.options.message.extra}
        run_id = _run_id(extra.get("upstash-workflow-runid") or f"wfr_{new_id(self._app.world)}")
        self._messages.outbox.require_permitted(given.destination, given.options.message)
        trigger = self._trigger(run_id, given, caller_ip, is_unknown=True)
        created_at = await self.begin(run_id, trigger, given.options.due_at(self._app.world.now()))
        return {"workflowRunId": run_id, "workflowCreatedAt": created_at}

    async def begin(self, run_id: str, trigger: Trigger, due_at: int = 0) -> int:
        """Begin a run, unless there is one of that id; return when it was created, in milliseconds since the epoch.

        Raises:
            RefusedError: it is too large.
        """
        new = self._new_run(run_id, trigger, due_at)
        await self._note([trigger.message])
        await self._create_each([new])
        return (await self.require_runs([run_id]))[run_id]

    async def finish(self, run_id: str, response: bytes) -> bool:
        """End a run with what its function returned; return whether it was there.

        Raises:
            RefusedError: the response is too long.
        """
        given = Finish(response.decode(errors="replace") if response else None)
        try:
            await self.require_runs([run_id])
            await self.post([(run_id, FINISHED, given)])
        except RunEndedError:
            return await self.run(run_id) is not None
        return True

    async def run(self, run_id: str) -> Run | None:
        """Return a run of the protocol; None if there is none such."""
        (run,) = await self._app.store.get([run_id])
        return run if run is not None and run.workflow == WORKFLOW else None

    async def post(self, given: Sequence[tuple[str, str, Submission]]) -> list[bool]:
        """Put events into runs' inboxes; return of each whether it is new.

        Args:
            given: run, id of the event, and what it says.

        Raises:
            RunEndedError, RefusedError, RunFullError: one was not taken.
        """
        if not given:
            return []
        posted = await self.posted(given)
        if Posted.FULL in posted:
            raise RunFullError("the workflow run has too many unread events: try again later")
        if Posted.NO_RUN in posted or Posted.FINISHED in posted:
            raise RunEndedError(ENDED)
        return [each is Posted.NEW for each in posted]

    async def posted(self, given: Sequence[tuple[str, str, Submission]]) -> list[Posted]:
        """Do as `post`, and say what became of each."""
        now, limits = self._app.world.now(), self._app.settings.limits
        mails = []
        for run_id, event_id, submission in given:
            payload = msgspec.json.encode(submission)
            if len(payload) > limits.payload_bytes:
                raise RefusedError(
                    f"a step of {len(payload):,} bytes is longer than {limits.payload_bytes:,} "
                    "(Limits.payload_bytes): keep what is large elsewhere"
                )
            mails.append(Mail(run_id, event_id, "event", EVENT, payload.decode(), now))
        posted = await self._app.store.post(mails, now, limits.inbox_messages)
        self._told(list(dict.fromkeys(mail.run_id for mail in mails)))
        return posted

    async def require_runs(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Return when runs were created, in milliseconds since the epoch.

        Raises:
            RunEndedError: one is none of the protocol.
        """
        unknown = [each for each in dict.fromkeys(run_ids) if each not in self._known]
        if not all(map(_RUN_ID.fullmatch, unknown)):
            raise RunEndedError(ENDED)
        for run_id, run in zip(unknown, await self._app.store.get(unknown) if unknown else (), strict=True):
            if run is None or run.workflow != WORKFLOW:
                raise RunEndedError(ENDED)
            self._known[run_id] = run.created_at
        found = {each: self._known[each] for each in run_ids}
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return found

    # What messages mean.

    def _parsed(self, given: Publication, caller_ip: str) -> _Event | NewRun:
        with refusing(is_needed=self.hands_in(given.options.message.extra)):
            return self._read(given, caller_ip)

    def _read(self, given: Publication, caller_ip: str) -> _Event | NewRun:
        options = given.options
        extra = {name.lower(): value for name, value in options.message.extra}
        run_id = _run_id(extra.get("upstash-workflow-runid", ""))
        self._messages.outbox.require_permitted(given.destination, given.options.message)
        if extra.get("upstash-workflow-init") == "true":
            return self._begun(run_id, given, extra, caller_ip)
        kind = extra.get("upstash-workflow-calltype", "step")
        if kind == "toCallback":
            return self._call(run_id, given, caller_ip)
        if kind != "step":
            raise UsageError(
                f"Upstash-Workflow-CallType: {kind[:40]!r} is not supported; there are step and toCallback"
            )
        fields = fields_of(given.body, "step")
        event_id = step_event(fields)
        message_id = message_id_of(run_id, event_id)
        message = self.message(given, caller_ip, keeps_callback=False)
        due_at = options.due_at(self._app.world.now()) if options.delay or options.not_before else 0
        return _Event(run_id, event_id, Step(message_id, message, due_at), message_id)

    def _begun(self, run_id: str, given: Publication, extra: dict[str, str], caller_ip: str) -> _Event | NewRun:
        """Return what a trigger comes to: a run; or an event of the run that invokes it, or that is begun anew."""
        if extra.get("upstash-workflow-invoke") == "true":
            return self._invoked(run_id, given, caller_ip)
        trigger = self._trigger(run_id, given, caller_ip)
        if extra.get("upstash-workflow-trigger-by-sdk") == "true":
            return _Event(run_id, "again", Again(trigger), trigger.message_id)
        return self._new_run(run_id, trigger, given.options.due_at(self._app.world.now()))

    def _invoked(self, run_id: str, given: Publication, caller_ip: str) -> _Event:
        try:
            envelope = msgspec.json.decode(given.body, type=_Envelope)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"invoke: its body is no envelope with a step: {error}") from None
        parent = _run_id(envelope.workflow_run_id)
        fields = fields_of(bytes(envelope.step), "invoke.step")
        forwarded = {name.lower(): value for name, value in given.options.message.headers}
        count = forwarded.get(_INVOKED, "0")
        if not _NUMBER.fullmatch(count) or int(count) > DEPTH:
            raise RefusedError(f"invoke: {count[:20]} runs would invoke one another in a row, over {DEPTH} (DEPTH)")
        destination(envelope.workflow_url)
        trigger = self._trigger(run_id, given._replace(body=(envelope.body or "").encode()), caller_ip)
        trigger = replace(
            trigger, invoker=Invoker(parent, envelope.workflow_url, envelope.workflow_run_created_at or 0)
        )
        message_id = message_id_of(parent, step_event(fields))
        end = Publication(envelope.workflow_url, read(headers_given(envelope.headers)), b"")
        invoke = Invoke(
            message_id,
            fields.step_id,
            bytes(envelope.step).decode(),
            run_id,
            trigger,
            self.message(end, "", keeps_callback=False),
        )
        return _Event(parent, f"invoke {fields.step_id}", invoke, message_id_of(parent, f"invoke {fields.step_id}"))

    def _call(self, run_id: str, given: Publication, caller_ip: str) -> _Event:
        callback = given.options.message.callback
        headers = {} if callback is None else {name.lower(): value for name, value in callback.options}
        number = headers.get(f"upstash-forward-{_STEP_ID}", "")
        if callback is None or not _NUMBER.fullmatch(number) or int(number) > STEP_MOST:
            raise UsageError(
                f"Upstash-Callback-Forward-Upstash-Workflow-StepId: {number[:20]!r} is no step (STEP_MOST)"
            )
        event_id = f"call {int(number)}"
        message_id = message_id_of(run_id, event_id)
        name = headers.get(f"upstash-forward-{_STEP_NAME}", "")
        call = Call(message_id, int(number), name, self.message(given, caller_ip, keeps_callback=True))
        return _Event(run_id, event_id, call, message_id)

    def _trigger(self, run_id: str, given: Publication, caller_ip: str, *, is_unknown: bool = False) -> Trigger:
        extra = {name.lower(): value for name, value in given.options.message.extra}
        features = tuple(each.strip() for each in extra.get("upstash-feature-set", "").split(",") if each.strip())
        url = extra.get("upstash-workflow-url") or given.destination
        destination(url)
        message = self.message(given, caller_ip, keeps_callback=False)
        return Trigger(url, message_id_of(run_id, "init"), message, features[:50], is_unknown=is_unknown)

    def message(self, given: Publication, caller_ip: str, *, keeps_callback: bool) -> Message:
        """Return the message that a publication says, as a run keeps it."""
        now, options = self._app.world.now(), given.options
        text, encoded = text_or_base64(given.body)
        return replace(
            options.message,
            url=given.destination,
            body=text,
            body_base64=encoded,
            extra=[],
            queue="",
            callback=options.message.callback if keeps_callback else None,
            caller_ip=caller_ip,
            published_at=now,
            not_before=options.due_at(now),
        )

    def _new_run(self, run_id: str, trigger: Trigger, due_at: int) -> NewRun:
        now = self._app.world.now()
        payload = payload_of(trigger)
        if len(payload.encode()) > self._app.settings.limits.payload_bytes:
            raise RefusedError(
                f"a trigger may have {self._app.settings.limits.payload_bytes:,} bytes (Limits.payload_bytes), and "
                f"this one has {len(payload.encode()):,}: send where its body can be fetched"
            )
        return NewRun(
            id=run_id,
            workflow=WORKFLOW,
            created_at=now,
            due_at=max(now, due_at),
            records=(Record(0, "input", "input", "ok", now, payload),),
            queue=QUEUE,
            tags=tags_of(trigger),
            retention=RETENTION,
        )

    async def _create_each(self, news: Sequence[NewRun]) -> list[bool]:
        """Create runs, and return of each whether it is new."""
        await self._messages.begin()
        created = await asyncio.gather(*map(self._app.client.create, news))
        await self._messages.tell()
        self._known.update(
            {new.id: new.created_at for new, (_, made) in zip(news, created, strict=True) if made.is_new}
        )
        return [made.is_new for _, made in created]

    async def _note(self, messages: Sequence[Message]) -> None:
        """Have flow-control keys bound what messages say."""
        await self._messages.outbox.flows.note([replace(each, queue="") for each in messages if each.flow_control])


class _Envelope(msgspec.Struct, rename="camel"):
    """What an invoking client sends: what the other run begins with, and what becomes of its end."""

    workflow_run_id: str
    workflow_url: str
    step: msgspec.Raw
    body: str | None = None
    headers: dict[str, list[str] | str] = {}
    workflow_run_created_at: int | None = None


def headers_given(headers: dict[str, list[str] | str]) -> list[tuple[str, str]]:
    """Return headers as clients put them into bodies, with one value each."""
    found = []
    for name, values in headers.items():
        value = values if isinstance(values, str) else values[0] if values else ""
        found.append((name, value))
    return found


def payload_of(trigger: Trigger) -> str:
    """Return the input payload of a run."""
    return msgspec.json.encode({"trigger": trigger}).decode()


def _messages_of(given: _Event | NewRun) -> list[Message]:
    """Return the messages whose flow-control keys are to bound something."""
    if isinstance(given, NewRun):
        return [msgspec.json.decode(given.records[0].payload or "", type=_Input).trigger.message]
    if isinstance(given.given, Invoke | Again):
        return [given.given.trigger.message]
    return [given.given.message] if isinstance(given.given, Step | Call) else []


class _Input(msgspec.Struct):
    trigger: Trigger


def _run_id(text: str) -> str:
    """Return the id of a run.

    Raises:
        UsageError: it is none.
    """
    if not _RUN_ID.fullmatch(text):
        raise UsageError(f"Upstash-Workflow-RunId: {text[:80]!r} must be 1 to 150 of A-Z a-z 0-9 _ . -")
    return text
