"""Workflow runs of the official workflow SDKs (`@upstash/workflow`, `upstash-workflow`), which a server drives."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Unpack

import msgspec

from perdure.model import codec
from perdure.model.errors import UsageError
from perdure.publisher.answers import Notified, Waiter, WorkflowRun, WorkflowRunLog
from perdure.publisher.asking import Answer, Pages, Plan, Request
from perdure.publisher.filters import Meant, Query, RunFilter, in_bulk, pages_of, query_of
from perdure.publisher.messages import Sent
from perdure.publisher.options import MESSAGE_BYTES, Headers, Tries, carried, require_known
from perdure.publisher.values import destination, segment
from perdure.publisher.verbs import Area, Link, listing, verb

RUN = "wfr_"
"""What the ids of workflow runs begin with."""

# Without `LazyFetch`: the SDK for Python says that it can fetch steps, and cannot.
_FEATURES = "InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"
_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class Trigger(Tries, total=False):
    """What the start of a workflow run may have.

    Attributes:
        json: its input, sent as JSON.
        body: its input as text.
        not_before: when it is begun: an aware datetime, or seconds since the epoch.
    """

    json: object
    body: str | bytes
    not_before: dt.datetime | float


class Workflows(Area[Link]):
    """Workflow runs."""

    @verb
    def trigger(
        self, url: str, *, run_id: str | None = None, failure_url: str | None = None, **options: Unpack[Trigger]
    ) -> Plan[WorkflowRun]:
        """Begin a run of the workflow that is served at a URL.

        Args:
            url: where.
            run_id: its id; `wfr_` is put ahead of it. While a run of that id is active, this begins none.
            failure_url: who hears that it failed; the workflow itself by default.
            options: see `Trigger`; retries, flow control and headers hold for each of its steps.

        Raises:
            UsageError: an option cannot be. PublishError: the server refuses it.
        """
        require_known(options, Trigger, "trigger")
        where = destination(url)
        own = run_id if run_id is not None else self._link.settings.new_id()
        if not isinstance(own, str) or not _ID.fullmatch(own):
            raise UsageError(f"run_id: {own!r:.80} must be 1 to 200 of A-Z a-z 0-9 _ . -")
        known_as = own if own.startswith(RUN) else RUN + own
        said, content = carried(options)
        failure = where if failure_url is None else destination(failure_url, "failure_url")
        try:
            body = content.decode()
        except UnicodeDecodeError:
            raise UsageError("body: a workflow's input is text; give text, or json=") from None
        item = {"destination": where, "headers": dict(_headers(said, known_as, where, failure)), "body": body}
        content = msgspec.json.encode([item])
        answer = yield Request("POST", "/v2/batch", headers=(("Content-Type", "application/json"),), content=content)
        sent: list[Sent] = answer.read_each(Sent, 1)
        return WorkflowRun(known_as, run_id is None or not sent[0].deduplicated)

    @verb
    def cancel(self, id: str) -> Plan[None]:
        """Cancel a run.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        yield Request("DELETE", f"/v2/workflows/runs/{segment(id, 'id')}", (("cancel", "true"),))

    @verb
    def cancel_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        everything: bool = False,
        is_exact: bool = True,
        **chosen: Unpack[RunFilter],
    ) -> Plan[int]:
        """Cancel runs by their ids, by a filter, or all; return how many were.

        Args:
            ids, everything, chosen: which.
            is_exact: `url` is the whole one, rather than a beginning.

        Raises:
            UsageError: nothing is meant, or two things are. PublishError: the server refuses it.
        """
        meant: Query = query_of(chosen, RunFilter)
        if is_exact and "url" in chosen:
            meant = (*meant, ("workflowUrlExactMatch", "true"))
        request = Request("DELETE", "/v2/workflows/runs")
        return sum((yield from in_bulk(request, _cancelled, "workflowRunIds", Meant(ids, meant, everything))))

    @verb
    def notify(self, event: str, data: object = None, *, run_id: str | None = None) -> Plan[list[Notified]]:
        """Tell every run that waits for an event of it.

        It is asked for once: where the answer is lost, runs may have been told, and a second time may reach others.

        Args:
            event: its id.
            data: what comes with it, sent as JSON; text is sent as it is.
            run_id: the one run that is told; the event is kept for it until it waits.

        Raises:
            SerializationError: `data` has no JSON form. PublishError: the server refuses it.
        """
        where = "" if run_id is None else f"{segment(run_id, 'run_id')}/"
        content = b""
        headers: tuple[tuple[str, str], ...] = ()
        if isinstance(data, str):
            content, headers = data.encode(), (("Content-Type", "text/plain; charset=utf-8"),)
        elif data is not None:
            content = codec.encode(data, "data", MESSAGE_BYTES).encode()
            headers = (("Content-Type", "application/json"),)
        path = f"/v2/notify/{where}{segment(event, 'event')}"
        answer = yield Request("POST", path, headers=headers, content=content, may_repeat=False)
        found: list[Notified] | Notified = answer.read(list[Notified] | Notified)
        return found if isinstance(found, list) else [found]

    @verb
    def waiters(self, event: str) -> Plan[list[Waiter]]:
        """Return who waits for an event."""
        answer = yield Request("GET", f"/v2/waiters/{segment(event, 'event')}")
        found: list[Waiter] = answer.read(list[Waiter])
        return found

    @listing
    def logs(self, *, cursor: str = "", **chosen: Unpack[RunFilter]) -> Pages[WorkflowRunLog]:
        """List what happened in runs, latest first, from a cursor on."""
        return pages_of("/v2/workflows/logs", query_of(chosen, RunFilter), cursor, _logged)


def _headers(said: Headers, id: str, url: str, failure: str) -> Headers:
    """Return the headers that begin a run, as the official clients send them."""
    found = [
        ("Upstash-Method", "POST"),
        ("Upstash-Workflow-Init", "true"),
        ("Upstash-Workflow-RunId", id),
        ("Upstash-Workflow-Url", url),
        ("Upstash-Workflow-Sdk-Version", "1"),
        ("Upstash-Forward-Upstash-Workflow-Sdk-Version", "1"),
        ("Upstash-Feature-Set", _FEATURES),
        ("Upstash-Failure-Callback", failure),
    ]
    callback = [
        ("Workflow-RunId", id),
        ("Workflow-Init", "false"),
        ("Workflow-Url", url),
        ("Workflow-Calltype", "failureCall"),
        ("Feature-Set", _FEATURES),
        ("Forward-Upstash-Workflow-Is-Failure", "true"),
        ("Forward-Upstash-Workflow-Failure-Callback", "true"),
    ]
    for name, value in said:
        found.append((name, value))
        if name == "Upstash-Label":
            found.append(("Upstash-Forward-Upstash-Label", value))
        option = name.removeprefix("Upstash-")
        if option.startswith(("Forward-", "Retries", "Retry-Delay", "Flow-Control-")):
            callback.append((option, value))
    return found + [(f"Upstash-Failure-Callback-{name}", value) for name, value in callback]


class _Counted(msgspec.Struct, frozen=True):
    cancelled: int = 0
    cursor: str | None = None


class _LogPage(msgspec.Struct, frozen=True):
    runs: list[WorkflowRunLog] = []
    cursor: str | None = None


def _cancelled(answer: Answer) -> tuple[list[int], str]:
    found: _Counted = answer.read(_Counted)
    return [found.cancelled], found.cursor or ""


def _logged(answer: Answer) -> tuple[list[WorkflowRunLog], str]:
    found: _LogPage = answer.read(_LogPage)
    return found.runs, found.cursor or ""
