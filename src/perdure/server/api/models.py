"""What stands in requests about runs, read by pydantic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from perdure.authoring.enqueuing import HIGHEST_PRIORITY
from perdure.model.duration import seconds
from perdure.model.errors import UsageError
from perdure.model.limits import NAME_LENGTH, START_BATCH, TAGS
from perdure.model.name import check_name
from perdure.model.run import RunStatus

ACTED_ON = 1_000
"""How many runs one bulk action takes in."""

REASON_LENGTH = 1_000

ID_LENGTH = 4_000
"""How long the id of a run that is asked for may be."""

_DURATION = "seconds, or a text such as `30 seconds`, `1h 30m` or `250ms`; at most 100 years"


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it must be printable text, without control characters")
    return value


def _name(value: str) -> str:
    try:
        return check_name(value, "name")
    except UsageError as error:
        raise ValueError(str(error).partition(": ")[2]) from None


def _duration(value: float | str) -> float | str:
    try:
        seconds(value)
    except UsageError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return value


def _integral(value: object) -> object:
    """Return what JSON Schema takes for a whole number as one: 7.0 is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(least: int, most: int, format: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": least, "maxLength": most, "format": format})


Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=NAME_LENGTH, strict=True),
    AfterValidator(_printable),
    _text(1, NAME_LENGTH, "printable"),
]
"""An id or a key."""

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=NAME_LENGTH, strict=True),
    AfterValidator(_name),
    _text(1, NAME_LENGTH, "perdure-name"),
]
"""The name of a workflow or a queue."""

RunId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=ID_LENGTH, strict=True),
    AfterValidator(_printable),
    _text(1, ID_LENGTH, "printable"),
]
"""The id of a run that is there: those of children are longer than what anybody gives."""

TagText = Annotated[
    str,
    StringConstraints(max_length=NAME_LENGTH, strict=True),
    AfterValidator(_printable),
    _text(0, NAME_LENGTH, "printable"),
]
"""The value of a tag, or a limit key."""

Duration = Annotated[
    float | str,
    AfterValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 3_162_240_000},
                {"type": "string", "format": "perdure-duration"},
            ],
            "description": _DURATION,
        }
    ),
]

Reason = Annotated[
    str,
    StringConstraints(max_length=REASON_LENGTH, strict=True),
    Field(description="Why, in the operator's words; the audit log keeps it."),
]

Whole = Annotated[int, BeforeValidator(_integral)]
"""A whole number."""

Priority = Annotated[
    Whole,
    Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY),
    WithJsonSchema({"type": "integer", "minimum": -HIGHEST_PRIORITY, "maximum": HIGHEST_PRIORITY}),
]

Status = Annotated[RunStatus, Field(strict=False)]

Json = Annotated[Any, WithJsonSchema({"description": "any JSON value"})]


class Strict(BaseModel):
    """What a request's body is made of: no unknown fields, and no guessing at types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DedupBody(Strict):
    """Starts one run for all that are started under a key."""

    key: Text
    within: Duration | None = Field(
        default=None, description="For how long after the first; by default until that has ended."
    )


class DebounceBody(Strict):
    """Begins one run for all that are started under a key, with the last one's input, once there is a pause."""

    key: Text
    wait: Duration
    max_wait: Duration | None = None


class RetentionBody(Strict):
    """How long the run is kept after it ended, by how it ended; null keeps it for ever."""

    complete: Duration | None = "3 days"
    errored: Duration | None = "90 days"
    terminated: Duration | None = "90 days"


_ONE_KEY: dict[str, Any] = {
    "allOf": [
        {"not": {"properties": {a: {"not": {"type": "null"}}, b: {"not": {"type": "null"}}}, "required": [a, b]}}
        for a, b in (("id", "dedup"), ("id", "debounce"), ("dedup", "debounce"), ("debounce", "delay"))
    ]
}


class StartBody(Strict):
    """A run to start."""

    model_config = ConfigDict(
        json_schema_extra={
            **_ONE_KEY,
            "examples": [{"workflow": "order", "input": {"customer": 7, "items": ["tea"]}, "id": "order-1042"}],
        }
    )

    workflow: Name = Field(description="The name of the workflow, as workers announce it, or of a definition.")
    input: Json = Field(
        default=None, description="Its arguments by name; for a graph, its input. None is no arguments."
    )
    id: Text | None = Field(
        default=None,
        description="Of the run; a new one by default. A second start of one id and input finds the first run.",
    )
    queue: Name | None = Field(default=None, description="Where it goes; the workflow's own queue by default.")
    priority: Priority | None = Field(default=None, description="Higher is begun first; 0 by default.")
    delay: Duration | None = Field(default=None, description="Start after this duration.")
    expires: Duration | None = Field(default=None, description="The run fails if it is not begun within this duration.")
    tags: dict[Text, TagText] | None = Field(default=None, max_length=TAGS, description="Labels to find it by.")
    limit_key: TagText | None = Field(default=None, description="What it counts as under its queue's limits per key.")
    dedup: DedupBody | None = None
    debounce: DebounceBody | None = None
    retention: RetentionBody | None = None
    anyway: bool = Field(
        default=False,
        description="Start it whatever workers have announced: even others, and not this one, or another input.",
    )


class BatchBody(Strict):
    """Runs to start in one go."""

    runs: list[StartBody] = Field(min_length=1, max_length=START_BATCH)


class EventBody(Strict):
    """An event."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "approved", "payload": {"by": "ada"}}]})

    type: Text = Field(description="What the code waits for.")
    payload: Json = None
    id: Text | None = Field(default=None, description="To tell a repeated event by: a second one of an id is dropped.")


class ReasonBody(Strict):
    """Why something is done."""

    reason: Reason = ""


class TerminateBody(ReasonBody):
    """How a run is ended."""

    undo: bool = Field(default=False, description="Have a worker undo first what it did; it then ends compensated.")


class ForkBody(ReasonBody):
    """From where a run is begun once more."""

    from_step: str = Field(min_length=1, max_length=10_000, description="The step's key, as the journal shows it.")
    id: Text | None = Field(default=None, description="Of the new run; a new one by default.")


class UndoBody(ReasonBody):
    """Which failed undo is meant."""

    key: str | None = Field(
        default=None,
        min_length=1,
        max_length=10_000,
        description="Of the step that it undoes; all that failed by default.",
    )


class FilterBody(Strict):
    """Which runs; everything given must hold."""

    status: list[Status] = Field(default=[], description="Any of these; all by default.")
    workflow: Name | None = None
    queue: Name | None = None
    parent: RunId | None = None
    prefix: Text | None = Field(default=None, description="Whose id begins so.")
    tags: dict[Text, TagText] = Field(default={}, max_length=20)
    since: Duration | None = Field(default=None, description="Created within the last so long.")


class ActionsBody(ReasonBody):
    """What to do to many runs: those of a filter, or those of these ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["ids"]}, {"required": ["filter"]}],
            "if": {"properties": {"undo": {"const": True}}, "required": ["undo"]},
            "then": {"properties": {"action": {"const": "terminate"}}},
            "examples": [
                {"action": "restart", "filter": {"status": ["errored"], "workflow": "order"}, "dry_run": True}
            ],
        }
    )

    action: Literal["pause", "resume", "terminate", "restart"]
    ids: list[RunId] = Field(default=[], min_length=1, max_length=ACTED_ON)
    filter: FilterBody = FilterBody()
    undo: bool = Field(default=False, description="With terminate: have workers undo first what the runs did.")
    dry_run: bool = Field(default=False, description="Only say which runs it would be.")
    limit: Whole = Field(default=ACTED_ON, ge=1, le=ACTED_ON, description="How many runs at most; `next` goes on.")
    cursor: str | None = Field(
        default=None, min_length=1, max_length=200, description="`next` of the answer before, with the same filter."
    )

    @model_validator(mode="after")
    def _fits(self) -> ActionsBody:
        if ("ids" in self.model_fields_set) == ("filter" in self.model_fields_set):
            raise ValueError("give ids or a filter, and not both")
        if self.undo and self.action != "terminate":
            raise ValueError(f"undo goes with terminate, and not with {self.action}")
        return self
