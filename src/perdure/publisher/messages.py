"""Messages: published, looked at, cancelled; those that failed for good; and what happened to all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack

import msgspec

from perdure.publisher.answers import DeadLetter, LogEntry, MessageSummary, Published, WorkflowRun
from perdure.publisher.asking import Answer, Pages, Plan, Request
from perdure.publisher.filters import DeadFilter, Filter, LogFilter, Meant, RunFilter, in_bulk, pages_of, query_of
from perdure.publisher.options import Delivery, headers_of, require_known
from perdure.publisher.values import segment
from perdure.publisher.verbs import Area, Link, listing, verb


class Sent(msgspec.Struct, frozen=True, rename="camel"):
    """What a server answers of one message."""

    message_id: str
    url: str = ""
    deduplicated: bool = False

    def published(self, *, is_ours: bool, index: int = 0) -> Published:
        """Return it as it is told; one whose id we made is known to be new, whatever was asked twice."""
        return Published(self.message_id, is_ours or not self.deduplicated, self.url, index)


class Messages(Area[Link]):
    """Messages that wait, or are being delivered."""

    @verb
    def get(self, id: str) -> Plan[MessageSummary]:
        """Return a message.

        Raises:
            PublishError: with `status` 404: there is none, or it was delivered, or failed.
        """
        answer = yield Request("GET", f"/v2/messages/{segment(id, 'id')}")
        found: MessageSummary = answer.read(MessageSummary)
        return found

    @verb
    def run_now(self, id: str) -> Plan[None]:
        """Have a message that waits for its time, or for its next try, be delivered now.

        It is asked for once: where the answer is lost, it may have been.

        Raises:
            PublishError: with `status` 404: there is none that waits. With 400: it has its turn in a queue.
        """
        yield Request("POST", f"/v2/messages/{segment(id, 'id')}/retry", may_repeat=False)

    @verb
    def cancel(self, id: str) -> Plan[None]:
        """Cancel a message.

        Raises:
            PublishError: with `status` 404: there is none, or it was delivered, or failed.
        """
        yield Request("DELETE", f"/v2/messages/{segment(id, 'id')}")

    @verb
    def cancel_many(
        self, ids: Iterable[str] | None = None, *, everything: bool = False, **chosen: Unpack[Filter]
    ) -> Plan[int]:
        """Cancel messages by their ids, by a filter, or all; return how many were.

        Raises:
            UsageError: nothing is meant, or two things are. PublishError: the server refuses it.
        """
        request, meant = Request("DELETE", "/v2/messages"), query_of(chosen, Filter)
        return sum((yield from in_bulk(request, _cancelled, "messageIds", Meant(ids, meant, everything))))


class DeadLetters(Area[Link]):
    """Messages and workflow runs that failed for good."""

    @listing
    def list(self, *, cursor: str = "", **chosen: Unpack[DeadFilter]) -> Pages[DeadLetter]:
        """List messages that failed, from a cursor on."""
        return pages_of("/v2/dlq", query_of(chosen, DeadFilter), cursor, _dead)

    @listing
    def runs(self, *, cursor: str = "", **chosen: Unpack[RunFilter]) -> Pages[DeadLetter]:
        """List workflow runs that failed, from a cursor on."""
        return pages_of("/v2/workflows/dlq", query_of(chosen, RunFilter), cursor, _dead)

    @verb
    def get(self, id: str) -> Plan[DeadLetter]:
        """Return a dead letter.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        answer = yield Request("GET", f"/v2/dlq/{segment(id, 'id')}")
        found: DeadLetter = answer.read(DeadLetter)
        return found

    @verb
    def delete(self, id: str) -> Plan[None]:
        """Delete a dead letter.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        yield Request("DELETE", f"/v2/dlq/{segment(id, 'id')}")

    @verb
    def delete_many(
        self, ids: Iterable[str] | None = None, *, everything: bool = False, **chosen: Unpack[DeadFilter]
    ) -> Plan[int]:
        """Delete dead letters by their ids, by a filter, or all; return how many were.

        Raises:
            UsageError: nothing is meant, or two things are. PublishError: the server refuses it.
        """
        request, meant = Request("DELETE", "/v2/dlq"), query_of(chosen, DeadFilter)
        return sum((yield from in_bulk(request, _deleted, "dlqIds", Meant(ids, meant, everything))))

    @verb
    def retry(
        self,
        ids: Iterable[str] | None = None,
        *,
        everything: bool = False,
        changes: Delivery | None = None,
        **chosen: Unpack[DeadFilter],
    ) -> Plan[Sequence[Published]]:
        """Publish messages anew that failed: by the ids of their dead letters, by a filter, or all.

        Where the answer is lost, they may have been: a second request would find nothing, and tell nothing of them.

        Args:
            ids, everything, chosen: which.
            changes: options that they have from now on, as in `{"retries": 5}`.

        Raises:
            UsageError: nothing is meant, or two things are. PublishError: the server refuses it.
        """
        request = Request("POST", "/v2/dlq/retry", headers=_changes(changes), may_repeat=False)
        meant = query_of(chosen, DeadFilter)
        return (yield from in_bulk(request, _again, "dlqIds", Meant(ids, meant, everything)))

    @verb
    def resume(
        self,
        ids: Iterable[str] | None = None,
        *,
        everything: bool = False,
        changes: Delivery | None = None,
        **chosen: Unpack[RunFilter],
    ) -> Plan[Sequence[WorkflowRun]]:
        """Have workflow runs that failed go on, from the step that did: as new runs, with what was done before.

        Args:
            ids, everything, chosen: which: by the ids of their dead letters, by a filter, or all.
            changes: options that they have from now on, as in `{"retries": 5}`.

        Raises:
            UsageError: nothing is meant, or two things are. PublishError: the server refuses it.
        """
        meant = query_of(chosen, RunFilter)
        return (yield from _begun_again("resume", Meant(ids, meant, everything), changes))

    @verb
    def restart(
        self,
        ids: Iterable[str] | None = None,
        *,
        everything: bool = False,
        changes: Delivery | None = None,
        **chosen: Unpack[RunFilter],
    ) -> Plan[Sequence[WorkflowRun]]:
        """Begin workflow runs anew that failed; see `resume`."""
        meant = query_of(chosen, RunFilter)
        return (yield from _begun_again("restart", Meant(ids, meant, everything), changes))

    @verb
    def retry_failure_function(self, id: str) -> Plan[WorkflowRun]:
        """Have a workflow run's failure be told of once more, where telling it came to nothing; return the run.

        Args:
            id: of the run's dead letter.

        Raises:
            PublishError: with `status` 404: there is none. With 400: the telling has not failed.
        """
        answer = yield Request("POST", f"/v2/workflows/dlq/callback/{segment(id, 'id')}", may_repeat=False)
        found: _Begun = answer.read(_Begun)
        return WorkflowRun(found.workflow_run_id, is_new=False, created_at=found.workflow_created_at)

    @verb
    def get_run(self, id: str) -> Plan[DeadLetter]:
        """Return the dead letter of a workflow run.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        answer = yield Request("GET", f"/v2/workflows/dlq/{segment(id, 'id')}")
        found: DeadLetter = answer.read(DeadLetter)
        return found

    @verb
    def delete_runs(
        self, ids: Iterable[str] | None = None, *, everything: bool = False, **chosen: Unpack[RunFilter]
    ) -> Plan[int]:
        """Delete dead letters of workflow runs; see `delete_many`."""
        request, meant = Request("DELETE", "/v2/workflows/dlq"), query_of(chosen, RunFilter)
        return sum((yield from in_bulk(request, _deleted, "dlqIds", Meant(ids, meant, everything))))


def logs_from(cursor: str, chosen: LogFilter) -> Pages[LogEntry]:
    """Return the pages of what happened to messages, latest first."""
    return pages_of("/v2/logs", query_of(chosen, LogFilter), cursor, _logged)


def _begun_again(what: str, meant: Meant, changes: Delivery | None) -> Plan[list[WorkflowRun]]:
    request = Request("POST", f"/v2/workflows/dlq/{what}", headers=_changes(changes), may_repeat=False)
    return (yield from in_bulk(request, _begun, "dlqIds", meant))


def _changes(changes: Delivery | None) -> tuple[tuple[str, str], ...]:
    if changes is None:
        return ()
    require_known(changes, Delivery, "changes")
    return tuple(headers_of(changes))


class _Counted(msgspec.Struct, frozen=True):
    cancelled: int = 0
    deleted: int = 0
    cursor: str | None = None


class _Again(msgspec.Struct, frozen=True):
    responses: list[Sent] = []
    cursor: str | None = None


class _Begun(msgspec.Struct, frozen=True, rename="camel"):
    workflow_run_id: str
    workflow_created_at: int | None = None


class _AllBegun(msgspec.Struct, frozen=True, rename="camel"):
    workflow_runs: list[_Begun] = []
    cursor: str | None = None


class _DeadPage(msgspec.Struct, frozen=True):
    messages: list[DeadLetter] = []
    cursor: str | None = None


class _LogPage(msgspec.Struct, frozen=True):
    logs: list[LogEntry] = []
    cursor: str | None = None


def _cancelled(answer: Answer) -> tuple[list[int], str]:
    found: _Counted = answer.read(_Counted)
    return [found.cancelled], found.cursor or ""


def _deleted(answer: Answer) -> tuple[list[int], str]:
    found: _Counted = answer.read(_Counted)
    return [found.deleted], found.cursor or ""


def _dead(answer: Answer) -> tuple[list[DeadLetter], str]:
    found: _DeadPage = answer.read(_DeadPage)
    return found.messages, found.cursor or ""


def _logged(answer: Answer) -> tuple[list[LogEntry], str]:
    found: _LogPage = answer.read(_LogPage)
    return found.logs, found.cursor or ""


def _again(answer: Answer) -> tuple[list[Published], str]:
    found: _Again = answer.read(_Again)
    return [each.published(is_ours=False) for each in found.responses], found.cursor or ""


def _begun(answer: Answer) -> tuple[list[WorkflowRun], str]:
    found: _AllBegun = answer.read(_AllBegun)
    runs = [WorkflowRun(each.workflow_run_id, created_at=each.workflow_created_at) for each in found.workflow_runs]
    return runs, found.cursor or ""
