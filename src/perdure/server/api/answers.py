"""What stands in responses about runs, for the API's description; `perdure.server.shown` writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from perdure.model.run import RunStatus
from perdure.server.api.models import Json

Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in responses."""


class Told(BaseModel):
    """What stands in responses."""

    model_config = ConfigDict(extra="forbid")


class ProblemErrorDocument(Told):
    """One thing that is wrong."""

    path: str = Field(description="Where, as in `body.runs[3].workflow` or `query.limit`.")
    message: str


class ProblemDocument(Told):
    """What is wrong (RFC 9457)."""

    type: str = Field(description="`urn:perdure:error:` and a name that stays.")
    title: str
    status: int
    detail: str
    errors: list[ProblemErrorDocument]


class Started(Told):
    """A run that is there."""

    id: str
    workflow: str
    is_new: bool = Field(description="Whether this request started it.")


class BatchOutcome(Told):
    """What became of one run of a batch."""

    id: str
    is_new: bool
    problem: ProblemDocument | None = Field(description="Why it was refused; null where it was not.")


class BatchStarted(Told):
    """What became of each run, in the given order."""

    items: list[BatchOutcome]


class ErrorDocument(Told):
    """What a run or a step failed with."""

    type: str
    message: str
    step: str | None
    attempts: int
    cause: ErrorDocument | None


class WaitDocument(Told):
    """One thing that a run waits for."""

    kind: Literal["timer", "event", "child", "retry", "parked", "undo", "push"]
    key: str
    due_at: Moment | None
    detail: str = Field(description="The event's type, the child's id, the last error, or why it is parked.")
    attempt: int


class ListedRun(Told):
    """A run among others."""

    id: str
    workflow: str
    version: str
    queue: str
    status: RunStatus
    priority: int
    tags: dict[str, str]
    limit_key: str
    created_at: Moment
    updated_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    due_at: Moment | None = Field(description="When it is looked at next; while it runs, when its lease ends.")
    expires_at: Moment | None = Field(description="When it may be removed.")
    incarnation: int = Field(description="How often it began anew.")
    journal_length: int
    worker: str | None
    is_pausing: bool
    parent_id: str | None
    is_detached: bool
    depth: int
    waits: list[WaitDocument]
    error: ErrorDocument | None = Field(description="What it failed with, if it did.")


class RunDocument(ListedRun):
    """A run."""

    state: Json = Field(description="What its code made readable, by name; null for nothing.")
    progress: Json = Field(description="The last progress of each running step; null for nothing.")
    output: Json = Field(description="What it returned, if it is complete.")


class RunsPage(Told):
    """Runs, and where to go on."""

    items: list[ListedRun]
    next: str | None = Field(description="The `cursor` of the next page; null where there is none.")


class RecordDocument(Told):
    """One journaled fact of a run."""

    position: int
    key: str
    kind: Literal["input", "step", "timer", "event", "child", "value", "patch", "undo", "output"]
    state: Literal["ok", "error", "open"] = Field(
        description="`open` settles nothing: a failed attempt, a begun child."
    )
    at: Moment
    started_at: Moment | None
    due_at: Moment | None
    attempt: int
    ref: str | None
    before: int | None
    payload: Json
    error: ErrorDocument | None


class JournalPage(Told):
    """Records, and where to go on."""

    items: list[RecordDocument]
    next: int | None = Field(description="The `after` of the next page; null where there is none.")


class ExplanationDocument(Told):
    """Why a run is where it is."""

    run_id: str
    status: RunStatus
    reasons: list[str] = Field(description="Sentences, the most important first.")


class UndoDocument(Told):
    """An undo of a run."""

    key: str
    state: Literal["registered", "completed", "undone", "failed"]
    error: ErrorDocument | None


class UndosDocument(Told):
    """The undos of a run, in the order in which they were registered."""

    items: list[UndoDocument]


class ResultDocument(Told):
    """What a run came to."""

    id: str
    status: RunStatus
    is_over: bool = Field(description="Whether it will come to nothing else by itself.")
    output: Json
    error: ErrorDocument | None
    waits: list[WaitDocument]


class Moved(Told):
    """A run's status after it was moved."""

    id: str
    status: RunStatus


class EventTaken(Told):
    """Whether an event is new."""

    is_new: bool


class Emitted(Told):
    """Which runs an event started, or had started before."""

    runs: list[str]


class ActionFailed(Told):
    """Why something could not be done to a run."""

    id: str
    problem: ProblemDocument


class ActionsDone(Told):
    """What was done to many runs."""

    action: Literal["pause", "resume", "terminate", "restart"]
    dry_run: bool
    matched: int
    ids: list[str]
    done: int
    failed: list[ActionFailed]
    next: str | None = Field(description="The `cursor` to go on with; null where there is nothing more.")
