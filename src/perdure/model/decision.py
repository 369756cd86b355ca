"""What passes between a turn and the store: claims, decisions, messages, leases and control."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus

MessageKind = Literal["event", "child"]


class Message(msgspec.Struct, frozen=True, gc=False):
    """Something that arrives at a run from outside.

    Attributes:
        run_id: the run it is for.
        id: unique within that run; a second message of that id is dropped.
        kind: `event` (sent by a user) or `child` (the end of a child run).
        type: the event's type, or the record key of the child.
        payload: JSON text; for a child, its output or its `ErrorInfo`.
        at: when it was sent, in milliseconds since the epoch.
        state: for a child, whether it completed (`ok`) or not (`error`).
        ref: where it comes from, if that is known: for a child its run id, for an event the trace that it was sent in,
            as a W3C `traceparent`.
        seq: 1, 2, 3, … within the run, given by the store.
    """

    run_id: str
    id: str
    kind: MessageKind
    type: str
    payload: str | None
    at: int
    state: Literal["ok", "error"] = "ok"
    ref: str | None = None
    seq: int = 0


class Posted(str, Enum):
    """What became of one posted message."""

    NEW = "new"
    DUPLICATE = "duplicate"
    NO_RUN = "no_run"
    FINISHED = "finished"
    FULL = "full"


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A run handed to a worker.

    Attributes:
        run: under its fresh epoch.
        journal: the whole of it.
        inbox: its unread messages.
        unreadable: why the run cannot be worked, where some of this cannot be read; None where all can.
    """

    run: Run
    journal: list[Record]
    inbox: list[Message]
    unreadable: str | None = None


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Everything one commit changes about a run, and because of it.

    Attributes:
        run_id, epoch, seq: the fence: the claim's epoch, and the number of this commit within it, from 1.
        at: when it was decided, in milliseconds since the epoch.
        records: to append, their positions following the journal's.
        status: `running` keeps the lease, and so does `compensating` without a `due_at`; everything else gives it up.
        due_at: when the run is due next; None for never by itself. Nothing where the lease is kept: it stays as it is.
        seen: the greatest `Message.seq` the turn has been given.
        consumed: ids of messages that are now read.
        children: runs to create; where an id is taken, that run is left as it is and the child is refused.
        posts: messages to other runs; one whose run is gone or ended is dropped.
        terminate: ids of its children to end, with their descendants.
        unclaimed: ids of its children to end if they were never claimed.
        wait: the new `Run.wait`.
        state: the new `Run.state`; None leaves it.
        renew: begin anew (continue-as-new): the whole journal is replaced by these records; None keeps it.
    """

    run_id: str
    epoch: int
    seq: int
    at: int
    status: RunStatus
    due_at: int | None
    records: tuple[Record, ...] = ()
    seen: int = 0
    consumed: tuple[str, ...] = ()
    children: tuple[NewRun, ...] = ()
    posts: tuple[Message, ...] = ()
    terminate: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    wait: str | None = None
    state: str | None = None
    renew: tuple[Record, ...] | None = None

    @property
    def keeps_lease(self) -> bool:
        """Whether the worker has the run afterwards."""
        status = self.status
        return status is RunStatus.RUNNING or (status is RunStatus.COMPENSATING and self.due_at is None)

    @property
    def gives_back(self) -> bool:
        """Whether any worker is to go on with the run, as it stands."""
        return self.status is RunStatus.QUEUED and self.renew is None

    @property
    def reaches_others(self) -> bool:
        """Whether it changes anything about other runs than its own."""
        return bool(self.children or self.posts or self.terminate or self.unclaimed)


class Committed(msgspec.Struct, frozen=True, gc=False):
    """What became of one decision.

    Attributes:
        run_id: the run.
        is_lost: the lease was lost: nothing of the decision was kept, and the turn must stop.
        arrived: unread messages with a `seq` above the decision's `seen`.
        is_pausing: an operator asked for a pause.
    """

    run_id: str
    is_lost: bool = False
    arrived: tuple[Message, ...] = ()
    is_pausing: bool = False


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A claim to extend until `until` (milliseconds since the epoch), with the progress of its steps, if it changed."""

    run_id: str
    epoch: int
    until: int
    progress: str | None = None


class Extended(msgspec.Struct, frozen=True, gc=False):
    """What became of one lease; `inbox_seq` above what the turn has seen means that there is mail."""

    run_id: str
    is_lost: bool = False
    is_pausing: bool = False
    inbox_seq: int = 0


class Action(str, Enum):
    """What an operator can do to a run."""

    PAUSE = "pause"
    RESUME = "resume"
    TERMINATE = "terminate"
    RESTART = "restart"
    DISCARD = "discard"


class Control(msgspec.Struct, frozen=True, gc=False):
    """One action on one run.

    Attributes:
        run_id, action: which run, and what.
        notice: for `terminate`, the `ErrorInfo` as JSON text that a waiting parent is told.
        told: for `terminate` and `restart`, by id, each run that may be ended with the runs, without dedup keys, that
            are to be created if it is; None to end whatever there is, and create nothing.
    """

    run_id: str
    action: Action
    notice: str | None = None
    told: dict[str, tuple[NewRun, ...]] | None = None


class Controlled(msgspec.Struct, frozen=True, gc=False):
    """What became of one control: the status before and after; both None when there is no such run.

    Attributes:
        ended: ids of every run that a `terminate` or a `restart` ended, descendants included.
        epoch: the run's epoch afterwards: a turn under an earlier one is over.
        untold: ids of the runs that it would have ended and that `Control.told` does not name: nothing was done.
    """

    run_id: str
    before: RunStatus | None = None
    after: RunStatus | None = None
    ended: tuple[str, ...] = ()
    epoch: int = 0
    untold: tuple[str, ...] = ()


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs to find; everything given must hold.

    Attributes:
        status: any of these; empty for all.
        workflow, queue, parent_id: exactly this; None for all.
        id_prefix: ids that begin with it.
        tags: each of these tags with this value.
        created_from, created_until: created at or after, and before (milliseconds since the epoch).
    """

    status: tuple[RunStatus, ...] = ()
    workflow: str | None = None
    queue: str | None = None
    parent_id: str | None = None
    id_prefix: str | None = None
    tags: dict[str, str] = {}
    created_from: int | None = None
    created_until: int | None = None


class RunPage(msgspec.Struct, frozen=True):
    """Runs, newest first, and the cursor of the next page; None when this was the last."""

    runs: list[Run]
    cursor: str | None


class QueueStats(msgspec.Struct, frozen=True):
    """A queue: runs due now, runs due later, runs leased, and since when the oldest due one waits (milliseconds)."""

    queue: str
    due: int
    later: int
    leased: int
    oldest_due_at: int | None


class Stats(msgspec.Struct, frozen=True):
    """Counts of the runs per status and per queue."""

    status: dict[RunStatus, int]
    queues: list[QueueStats]


class CatalogEntry(msgspec.Struct, frozen=True):
    """A workflow as workers announce it.

    Attributes:
        workflow, version, queue: its name, the version they run, the queue its runs go to.
        input_schema: JSON Schema of the input, as JSON text.
        seen_at: when a worker last announced it, in milliseconds since the epoch.
        worker: which one that was.
        details: more about it, as the JSON text of an object: what kind it is of, what it is subscribed to.
    """

    workflow: str
    version: str
    queue: str
    input_schema: str
    seen_at: int
    worker: str
    details: str = "{}"


class StoredDefinition(msgspec.Struct, frozen=True):
    """A workflow that is written as data; a version never changes.

    Attributes:
        name, version: which; unique together.
        text: the definition, as JSON text.
        created_at: when it was published, in milliseconds since the epoch.
    """

    name: str
    version: str
    text: str
    created_at: int


class StoreInfo(msgspec.Struct, frozen=True):
    """What a store is, for `perdure doctor`.

    Attributes:
        url: where, without a password.
        engine: which software, with its version.
        schema_version: of the stored tables.
        durability: the class of an acknowledgement: `D0 memory`, `D1 relaxed`, `D2 local` or `D3 replicated`.
        survives: what an acknowledged write survives, in one sentence.
        settings: the settings that this follows from.
        warnings: what an operator had better change, each a sentence with its cure.
    """

    url: str
    engine: str
    schema_version: int
    durability: str
    survives: str
    settings: dict[str, str]
    warnings: tuple[str, ...] = ()
