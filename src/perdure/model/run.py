"""A run: its row in the store, its states and the moves between them."""

from __future__ import annotations

from enum import Enum

import msgspec

from perdure.model.duration import Duration, milliseconds
from perdure.model.errors import UsageError
from perdure.model.record import Record


class RunStatus(str, Enum):
    """The state of a run: those of Cloudflare-style engines, and three of a saga that is undone.

    A compensating run undoes its steps: it is leased, or waits for its next attempt. One whose compensation failed
    waits for an operator, who has the failed undos tried again or marks them done; it has not ended yet. So does one
    whose code completed, but left a failed undo behind.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETE = "complete"
    ERRORED = "errored"
    TERMINATED = "terminated"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"

    def __str__(self) -> str:
        return self.value

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended."""
        return self in FINISHED


FINISHED = frozenset({RunStatus.COMPLETE, RunStatus.ERRORED, RunStatus.TERMINATED, RunStatus.COMPENSATED})

_ENDED = frozenset({RunStatus.QUEUED})

MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.TERMINATED}),
    RunStatus.RUNNING: frozenset(RunStatus) - {RunStatus.RUNNING},
    RunStatus.WAITING: frozenset({RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.PAUSED, RunStatus.TERMINATED}),
    RunStatus.PAUSED: frozenset({RunStatus.QUEUED, RunStatus.TERMINATED}),
    RunStatus.COMPLETE: _ENDED,
    RunStatus.ERRORED: _ENDED,
    RunStatus.TERMINATED: _ENDED,
    RunStatus.COMPENSATING: frozenset(RunStatus) - {RunStatus.COMPENSATING},
    RunStatus.COMPENSATED: _ENDED,
    RunStatus.COMPENSATION_FAILED: frozenset({RunStatus.COMPENSATING, RunStatus.QUEUED, RunStatus.TERMINATED}),
}
"""The legal moves. A finished run moves only by a restart, which makes it queued again."""


class Retention(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long an ended run is kept, per outcome, in milliseconds; None keeps it for ever.

    A compensated run is kept like an errored one.
    """

    complete: int | None = 3 * 86_400_000
    errored: int | None = 90 * 86_400_000
    terminated: int | None = 90 * 86_400_000

    @classmethod
    def of(
        cls,
        complete: Duration | None = "3 days",
        errored: Duration | None = "90 days",
        terminated: Duration | None = "90 days",
    ) -> Retention:
        """Return a retention from durations; None keeps runs of that outcome for ever."""
        return cls(
            *(None if age is None else milliseconds(age, field="retention") for age in (complete, errored, terminated))
        )

    @staticmethod
    def check(value: object, field: str) -> Retention:
        """Return a retention.

        Raises:
            UsageError: the value is none.
        """
        if not isinstance(value, Retention):
            raise UsageError(f'{field}: {value!r} is no Retention; write Retention.of("3 days", errored="90 days")')
        return value

    def of_at_least(self, age: int) -> Retention:
        """Return a retention that keeps runs of no outcome for less than `age` milliseconds."""
        kept = (self.complete, self.errored, self.terminated)
        return Retention(*(None if each is None else max(each, age) for each in kept))


class Run(msgspec.Struct, frozen=True, gc=False):
    """One execution of a workflow, as the store holds it. All times are milliseconds since the epoch, UTC.

    Attributes:
        id: unique in the store.
        workflow, version, queue: what it runs, and where.
        status: see `RunStatus`.
        priority: higher is claimed first.
        created_at, updated_at, started_at, finished_at: when; the last two None until they happen.
        due_at: when a worker should look at it next; for a running run, when its lease ends; None for never by itself.
        expires_at: when retention may remove it; None before it ends, or for ever.
        epoch: how often it has been claimed: the fencing token.
        seq: how many commits that claim has made.
        incarnation: how often it began anew (restart, continue-as-new).
        crashes: claims in a row that ended without a commit.
        journal_length: the number of records.
        inbox_seq: the number of messages it was ever sent.
        worker: who holds the lease; None for nobody. A run is leased if and only if it has a worker.
        is_pausing: a pause was asked for while a worker held it.
        parent_id, parent_key: the run and record key that wait for it; None for a run started from outside.
        is_detached: it goes on when its parent ends.
        depth: how many parents stand above it.
        fingerprint: what it was started with, hashed, to tell a repeated start from another run of the same id.
        tags: labels to find it by.
        retention: how long it is kept after it ends.
        limit_key: what it counts as under its queue's limits per key (a tenant, say); empty for none.
        is_admitted: its lease came from `admit`, so it counts under its queue's limits as long as it holds; what is
            given back stays admitted, so that it is told from what was never begun.
        wait: why it is not moving, as JSON text (see `perdure.core.wait`); None for no particular reason.
        state: what `flow.set` made readable, as the JSON text of an object; None for nothing.
        progress: the last heartbeat of each running step, as the JSON text of an object; None for nothing.
        output: for an ended run, the payload of its output record; None otherwise.
    """

    id: str
    workflow: str
    status: RunStatus
    created_at: int
    updated_at: int
    version: str = ""
    queue: str = "default"
    priority: int = 0
    due_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    expires_at: int | None = None
    epoch: int = 0
    seq: int = 0
    incarnation: int = 0
    crashes: int = 0
    journal_length: int = 1
    inbox_seq: int = 0
    worker: str | None = None
    is_pausing: bool = False
    parent_id: str | None = None
    parent_key: str | None = None
    is_detached: bool = False
    depth: int = 0
    fingerprint: str = ""
    tags: dict[str, str] = {}
    retention: Retention = Retention()
    limit_key: str = ""
    is_admitted: bool = False
    wait: str | None = None
    state: str | None = None
    progress: str | None = None
    output: str | None = None


class Dedup(msgspec.Struct, frozen=True, gc=False):
    """What keeps a second run of one kind from being created.

    Attributes:
        key: of what is not to be there twice; unique in the store, so it begins with what the run is of.
        until: to when, in milliseconds since the epoch, the first run stands for all of this key; None for as long as
            it has not ended.
        is_replacing: it stands for them only until it has been claimed for the first time, and takes over their input
            and their due time.
        latest_due_at: for one that is replacing, the latest due time that later ones may give the first; None for any.
    """

    key: str
    until: int | None = None
    is_replacing: bool = False
    latest_due_at: int | None = None


class NewRun(msgspec.Struct, frozen=True, gc=False):
    """A run to create; the attributes are those of `Run`.

    Attributes:
        records: the journal it begins with: its input record, and for a fork what it takes over.
        worker: who claims it at once, until `due_at`, with epoch 1; None leaves it queued for anyone at `due_at`.
        dedup: what it must not be there twice as; None for nothing. Runs with one dedup key have ids that are alike up
            to their first `/`.
        refusal: for a child, the `ErrorInfo` as JSON text that its parent is sent if the id is taken.
    """

    id: str
    workflow: str
    created_at: int
    due_at: int
    records: tuple[Record, ...]
    version: str = ""
    queue: str = "default"
    priority: int = 0
    worker: str | None = None
    parent_id: str | None = None
    parent_key: str | None = None
    is_detached: bool = False
    depth: int = 0
    fingerprint: str = ""
    tags: dict[str, str] = {}
    retention: Retention = Retention()
    limit_key: str = ""
    dedup: Dedup | None = None
    refusal: str | None = None


class Created(msgspec.Struct, frozen=True, gc=False):
    """What became of one `NewRun`.

    Attributes:
        id: the run; with a dedup that was in force, the one that stands for it.
        is_new: False when a run of that id, or one that stands for it, was there already.
        fingerprint: the stored run's.
        is_leased: it was new, and is leased to the worker that it was created for.
    """

    id: str
    is_new: bool
    fingerprint: str
    is_leased: bool = False
