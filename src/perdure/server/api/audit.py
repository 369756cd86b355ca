"""The audit log of a namespace: what its operators did."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from perdure.server.access import Operator
from perdure.server.api.answers import Moment, Told
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.security.audit import Entry
from perdure.server.shown import moment

PAGE = 100
"""How many entries a page has where nothing else is asked for."""

PAGE_MOST = 1_000

router = routes("audit")


class EntryDocument(Told):
    """One thing that somebody did, was about to do, or was refused."""

    number: int
    at: Moment
    who: str
    kind: str = Field(description="How they proved who they are: key, token, session, local, or command line.")
    key: str = Field(description="The id of the key they proved it with; empty without one.")
    action: str
    target: str
    reason: str
    details: dict[str, Any]
    outcome: str = Field(description="Empty for what was about to be done; else how it was refused or failed.")


class AuditPage(Told):
    """Some entries."""

    items: list[EntryDocument]
    next: int | None = Field(description="The `cursor` of the next page.")


@router.get("/api/v1/audit", operation_id="list_audit", response_model=AuditPage)
async def list_audit(
    access: Operator,
    limit: Annotated[int, Query(ge=1, le=PAGE_MOST)] = PAGE,
    cursor: Annotated[int | None, Query(ge=1, le=10**15 - 1, description="`next` of the page before.")] = None,
) -> Response:
    """List what operators did, latest first."""
    entries = await access.server.auditor.log(access.namespace).page(limit + 1, cursor)
    following = entries[limit - 1].number if len(entries) > limit else None
    return reply({"items": [entry_document(entry) for entry in entries[:limit]], "next": following})


def entry_document(entry: Entry) -> dict[str, Any]:
    """Return what the API tells of an entry."""
    return {
        "number": entry.number,
        "at": moment(entry.at),
        "who": entry.who,
        "kind": entry.kind,
        "key": entry.key,
        "action": entry.action,
        "target": entry.target,
        "reason": entry.reason,
        "details": entry.details,
        "outcome": entry.outcome,
    }
