"""Waits for notifications: who waits for what, across runs; and what comes in at webhooks of runs.

A wait is an event of its run, and a document that says who waits for which event, written first. A notification is an
event of the run whose id is that of the wait: whoever is first resumes it, and whoever finds a document that is out of
date resumes nothing.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.dispatch.messages.message import Headers, canonical, digest
from perdure.dispatch.messages.options import destination, duration, read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.upstash.intake import Intake, headers_given
from perdure.dispatch.upstash.refusing import RunEndedError, RunFullError, refusing
from perdure.dispatch.upstash.submission import Notice, Wait, fields_of, message_id_of, step_event
from perdure.engine.app import Perdure
from perdure.engine.env import new_id
from perdure.model.decision import Posted
from perdure.model.document import Document
from perdure.model.errors import UsageError

COLLECTION = "workflows.waits"
"""The collection of waits; keys begin with the digest of what is waited for."""

TIMEOUT_MOST = 3_650 * 86_400.0
"""How long an event may be waited for, in seconds."""

EVENT_LENGTH = 1_000
"""How many characters the id of an event may have."""

HOOK_CALLS = 1_000
"""How many calls of webhooks a run takes: who calls them shows no token."""

HOOK_RUNS = 10_000
"""Of how many runs it is remembered how many calls there have been."""

HOOK_BYTES = 262_144
"""How long the body of a call of a webhook may be, in bytes."""

SWEPT = 50
"""How many waits are looked at with each new one, to remove those whose time is over."""

PAGE = 100


class _Request(msgspec.Struct, rename="camel"):
    """What a client sends to wait."""

    url: str
    step: msgspec.Raw
    timeout: str | int | float = "7d"
    timeout_url: str | None = None
    timeout_headers: dict[str, list[str] | str] = {}


class Waiter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A wait, as it is kept.

    Attributes:
        event_id: what is waited for.
        run_id, created_at: of the run, and when that was created (milliseconds since the epoch).
        step_id: of the step.
        deadline: until when, in milliseconds since the epoch.
        url, headers: where its end goes, and with what.
        late_url, late_headers: the same, if nobody notifies it.
    """

    event_id: str
    run_id: str
    created_at: int
    step_id: int
    deadline: int
    url: str
    headers: Headers = []
    late_url: str = ""
    late_headers: Headers = []

    def shown(self) -> dict[str, Any]:
        """Return it as QStash's API shows it."""
        return {
            "url": self.url,
            "deadline": self.deadline // 1000,
            "headers": canonical(self.headers),
            "timeoutUrl": self.late_url,
            "timeoutBody": None,
            "timeoutHeaders": canonical(self.late_headers),
        }


class Waiting:
    """The waits of one namespace.

    Args:
        app: the namespace's engine.
        intake: what puts events into runs.
    """

    def __init__(self, app: Perdure, intake: Intake) -> None:
        self._app = app
        self._intake = intake
        self._swept: str | None = None
        self._calls: OrderedDict[str, int] = OrderedDict()

    async def wait(self, event_id: str, headers: Headers, body: bytes) -> dict[str, Any]:
        """Have a run wait; return the id of the message that will carry the end.

        Args:
            event_id: what for.
            headers: of the request, with those of the protocol.
            body: of the request.

        Raises:
            RunEndedError, RefusedError, RunFullError: it cannot.
        """
        with refusing():
            return await self._wait(event_id, headers, body)

    async def _wait(self, event_id: str, headers: Headers, body: bytes) -> dict[str, Any]:
        _require_event(event_id)
        try:
            given = msgspec.json.decode(body, type=_Request, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"wait: the body is none with a step: {error}") from None
        run_id = next((value for name, value in headers if name.lower() == "upstash-workflow-runid"), "")
        fields = fields_of(bytes(given.step), "wait.step")
        for url in (given.url, given.timeout_url or given.url):
            destination(url)
        created_at = (await self._intake.require_runs([run_id]))[run_id]
        timeout = str(given.timeout)
        deadline = self._app.world.now() + round(duration(timeout, "wait.timeout", TIMEOUT_MOST) * 1000)
        end, late = _carried(headers), _carried(headers_given(given.timeout_headers))
        message_id = message_id_of(run_id, step_event(fields))
        wait = Wait(
            message_id,
            fields.step_id,
            bytes(given.step).decode(),
            event_id,
            timeout,
            deadline,
            self._intake.message(Publication(given.url, read(end)), "", keeps_callback=False),
            self._intake.message(Publication(given.timeout_url or given.url, read(late)), "", keeps_callback=False),
        )
        waiter = Waiter(
            event_id,
            run_id,
            created_at,
            fields.step_id,
            deadline,
            given.url,
            end,
            given.timeout_url or given.url,
            late,
        )
        key = _key(event_id, run_id, fields.step_id)
        await self._sweep()
        text = msgspec.json.encode(waiter).decode()
        await self._app.store.put([Document(COLLECTION, key, text, 0, self._app.world.now())])
        try:
            (is_new,) = await self._intake.post([(run_id, f"wait {fields.step_id}", wait)])
        except (RunEndedError, RunFullError):
            await self._forget(key)
            raise
        return {"messageId": message_id} if is_new else {"messageId": message_id, "deduplicated": True}

    async def waiters(self, event_id: str) -> list[dict[str, Any]]:
        """Return who waits for an event."""
        return [waiter.shown() for _, waiter in await self._found(event_id)]

    async def notify(self, event_id: str, body: bytes, run_id: str = "") -> list[dict[str, Any]]:
        """Resume what waits for an event; return which.

        Args:
            event_id: which.
            body: what is told.
            run_id: the only run that is meant, which keeps it until it waits for it; empty for all that wait.

        Raises:
            RunEndedError, RefusedError, RunFullError, UsageError: nobody was notified.
        """
        _require_event(event_id)
        if run_id:
            await self._intake.require_runs([run_id])
        encoded = base64.b64encode(body).decode()
        answers = []
        found = [each for each in await self._found(event_id) if not run_id or each[1].run_id == run_id]
        for first in range(0, len(found), PAGE):
            part = found[first : first + PAGE]
            posted = await self._intake.posted(
                [
                    (each.run_id, f"notified {each.step_id}", Notice(event_id, encoded, each.step_id, bool(run_id)))
                    for _, each in part
                ]
            )
            for (document, waiter), came in zip(part, posted, strict=True):
                if came is Posted.FULL:
                    continue
                await self._app.store.put([msgspec.structs.replace(document, text=None)])
                if came is Posted.NEW:
                    answers.append(_resumed(waiter))
        if run_id and not answers:
            await self._intake.post(
                [(run_id, f"kept {new_id(self._app.world)}", Notice(event_id, encoded, None, True))]
            )
            created_at = (await self._intake.require_runs([run_id]))[run_id]
            kept = {"messageId": message_id_of(run_id, f"notice {digest(event_id)}"), "error": ""}
            answers.append({**kept, "workflowRunId": run_id, "workflowCreatedAt": created_at})
        return answers

    async def called(self, run_id: str, event_id: str, call: Mapping[str, Any], body: bytes) -> None:
        """Take in a call of a run's webhook, which is kept until the run waits for it.

        Args:
            run_id, event_id: what the webhook's address names.
            call: what the run's code is to see of the request, but for its body.
            body: of the request.

        Raises:
            RunEndedError, RefusedError, RunFullError, UsageError: it was not taken.
        """
        _require_event(event_id)
        await self._intake.require_runs([run_id])
        if len(body) > HOOK_BYTES:
            raise UsageError(f"webhook: a body of {len(body):,} bytes is longer than {HOOK_BYTES:,} (HOOK_BYTES)")
        seen = {**call, "body": base64.b64encode(body).decode()}
        encoded = base64.b64encode(msgspec.json.encode(seen)).decode()
        notice = Notice(event_id, encoded, None, is_kept=True)
        # What is found is remembered at once, so that nobody has the store asked for as many calls again and again.
        while (number := self._calls.get(run_id, 0) + 1) <= HOOK_CALLS:
            (is_new,) = await self._intake.post([(run_id, f"called {number}", notice)])
            self._calls[run_id] = max(number, self._calls.get(run_id, 0))
            self._calls.move_to_end(run_id)
            if len(self._calls) > HOOK_RUNS:
                self._calls.popitem(last=False)
            if is_new:
                return
        raise RunFullError(f"webhook: the run has taken {HOOK_CALLS:,} calls (HOOK_CALLS)")

    async def _found(self, event_id: str) -> list[tuple[Document, Waiter]]:
        """Return the waits for an event whose time is not over."""
        beginning = f"{digest(event_id)} "
        found: list[tuple[Document, Waiter]] = []
        after: str | None = beginning
        while page := await self._app.store.documents(COLLECTION, PAGE, after):
            for each in page:
                if not each.key.startswith(beginning):
                    return found
                waiter = _WAITER.decode(each.text or "{}")
                if waiter.event_id == event_id and waiter.deadline > self._app.world.now():
                    found.append((each, waiter))
            after = page[-1].key
        return found

    async def _forget(self, key: str) -> None:
        (kept,) = await self._app.store.read(COLLECTION, [key])
        if kept is not None:
            await self._app.store.put([msgspec.structs.replace(kept, text=None)])

    async def _sweep(self) -> None:
        """Remove some waits whose time is over, so that none stays of runs that were not notified."""
        page = await self._app.store.documents(COLLECTION, SWEPT, self._swept)
        now = self._app.world.now()
        over = [each for each in page if _WAITER.decode(each.text or "{}").deadline <= now]
        for each in over:
            await self._app.store.put([msgspec.structs.replace(each, text=None)])
        self._swept = page[-1].key if len(page) == SWEPT else None


_WAITER = msgspec.json.Decoder(Waiter)


def _key(event_id: str, run_id: str, step_id: int) -> str:
    return f"{digest(event_id)} {run_id} {step_id}"


def _resumed(waiter: Waiter) -> dict[str, Any]:
    return {
        "waiter": waiter.shown(),
        "messageId": message_id_of(waiter.run_id, f"step {waiter.step_id}"),
        "workflowRunId": waiter.run_id,
        "workflowCreatedAt": waiter.created_at,
        "error": "",
    }


def _carried(headers: Headers) -> Headers:
    """Return the headers that the end of a wait is to go with: those of the client's own request are none of them."""
    return [
        (name, value)
        for name, value in headers
        if name.lower().startswith("upstash-") or name.lower() == "content-type"
    ]


def _require_event(event_id: str) -> None:
    if not 0 < len(event_id) <= EVENT_LENGTH or not event_id.isprintable():
        raise UsageError(f"event id {event_id[:80]!r} must be printable text of 1 to {EVENT_LENGTH:,} characters")
