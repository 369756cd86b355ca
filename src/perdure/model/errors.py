"""Every error Perdure raises, in one tree.

PerdureError
├── UsageError                 the caller's mistake: fix the code or the call
│   ├── DefinitionError        a workflow or step that cannot be registered
│   ├── UnknownWorkflowError   a name nobody registered
│   ├── ScheduleExistsError    a name that another schedule has
│   ├── SerializationError     a value that cannot be stored, or not read back as its type
│   ├── NotDurableError        I/O, threads or the wall clock in workflow code
│   └── LimitError             a bound was passed
│       ├── PayloadTooLargeError · JournalTooLongError · FanOutTooWideError
│       ├── NestingTooDeepError · InboxFullError · BatchTooLargeError
│       └── DocumentTooLargeError
├── RunError                   about one run
│   ├── RunNotFoundError · RunExistsError · RunFinishedError · RunNotFinishedError
│   ├── RunFailedError
│   │   └── RunCompensatedError    what the failed run did was undone
│   ├── RunTerminatedError · RunParkedError · CompensationFailedError
│   └── TaskExpiredError       a task was not begun in time
├── StepError                  raised into workflow code
│   ├── NonRetryableError      raise it in a step: no further attempt is made
│   ├── RetryAfterError        raise it in a step: the next attempt is made later
│   ├── StepTimeoutError       an attempt outran its timeout
│   ├── StepRetriesExceededError
│   ├── EventTimeoutError      no event came in time
│   ├── ChildFailedError       a child workflow did not complete
│   └── MapFailedError         more items of a map failed than it tolerates
├── WebhookVerificationError   a delivery that must not be believed
├── PublishError               a server of messages did not do something, or did not answer
│   └── PublishRefusedError    it would refuse it again; a NonRetryableError too
└── StoreError
    ├── StoreUnavailableError · StoreLockedError   try again
    ├── StoreConflictError                         a transaction was undone; try again
    ├── StoreFullError · StoreReadOnlyError        make room, or give access
    └── StoreCorruptError · SchemaTooNewError · DecryptionError    needs an operator
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PerdureError(Exception):
    """The root of every error that Perdure raises."""


class UsageError(PerdureError):
    """The code or the call is wrong; repeating it will not help."""


class DefinitionError(UsageError):
    """A workflow or a step cannot be registered as it is written; `found` has each mistake of a definition, by path."""

    def __init__(self, message: str, found: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.found = tuple(found)


class UnknownWorkflowError(UsageError):
    """No workflow of that name is registered here or known to the store."""


class ScheduleExistsError(UsageError):
    """Another schedule has that name."""


class SerializationError(UsageError):
    """A value cannot be stored as JSON, or does not fit its type; `found` has what is wrong inside it, by path."""

    def __init__(self, message: str, found: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.found = tuple(found)


class NotDurableError(UsageError):
    """Workflow code used I/O, a thread or the wall clock, which a replay could not repeat."""


class LimitError(UsageError):
    """A bound was passed; the message names the bound and its setting in `Limits`."""


class PayloadTooLargeError(LimitError):
    """One stored value is larger than `Limits.payload_bytes`."""


class JournalTooLongError(LimitError):
    """A run wrote more records than `Limits.journal_records`."""


class FanOutTooWideError(LimitError):
    """A run waits for more things at once than `Limits.fan_out`."""


class NestingTooDeepError(LimitError):
    """Steps inside steps, or children of children, deeper than `Limits.nesting`."""


class InboxFullError(LimitError):
    """A run has more unread messages than `Limits.inbox_messages`."""


class BatchTooLargeError(LimitError):
    """More runs in one call than the batch allows."""


class DocumentTooLargeError(LimitError):
    """One document's text is larger than `DOCUMENT_BYTES`."""


class RunError(PerdureError):
    """Something about one run."""


class RunNotFoundError(RunError):
    """The store has no run of that id: it never existed, or retention removed it."""


class RunExistsError(RunError):
    """A run of that id exists with another workflow or another input."""


class RunFinishedError(RunError):
    """The run has ended, so it takes no more events or control."""


class RunNotFinishedError(RunError):
    """The wait for the run ended before the run did."""


class RunFailedError(RunError):
    """The run ended `errored`; `__cause__` is the error its workflow raised, rebuilt where it can be."""


class RunCompensatedError(RunFailedError):
    """The run failed and what it did was undone; `__cause__` is the error its workflow raised, or why it was ended."""


class CompensationFailedError(RunError):
    """The run failed, and some of what it did could not be undone; an operator is asked. `__cause__`: why it failed."""


class RunTerminatedError(RunError):
    """The run was ended by an operator or by its parent."""


class RunParkedError(RunError):
    """The run is parked: its code and its journal disagree, or it keeps crashing. See `run.explain()`."""


class TaskExpiredError(RunError):
    """A task was not begun within its `expires`; a restart has it run all the same."""


class StepError(PerdureError):
    """A step, an event wait or a child did not give a result."""


class NonRetryableError(StepError):
    """Raise it, or a subclass, in a step: the step fails at once, with no further attempt."""


class RetryAfterError(StepError):
    """Raise it, or a subclass, in a step: the next attempt is made no sooner than `after` seconds later."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message, after)
        self.after = after

    def __str__(self) -> str:
        return str(self.args[0])


class StepTimeoutError(StepError):
    """An attempt of a step ran longer than its timeout and was stopped."""


class StepRetriesExceededError(StepError):
    """Every attempt of a step failed; `__cause__` is the last error."""


class EventTimeoutError(StepError):
    """No event of the awaited type arrived in time."""


class ChildFailedError(StepError):
    """A child workflow errored or was terminated; `__cause__` is its error, where there is one."""


class MapFailedError(StepError):
    """More items of a map failed than it tolerates; `__cause__` is the last one's error, where it is known."""


class WebhookVerificationError(PerdureError):
    """A delivery was not signed with the secret, or is too old; do not believe it."""


class PublishError(PerdureError):
    """A server did not do what its message API was asked for; `status` is that of its answer, 0 where none came."""

    def __init__(self, message: str, status: int = 0, field: str = "", published: Sequence[Any] = ()) -> None:
        super().__init__(message, status, field)
        self.status = status
        self.field = field
        self.published = tuple(published)

    def __str__(self) -> str:
        return str(self.args[0])


class PublishRefusedError(PublishError, NonRetryableError):
    """A server refused what its message API was asked for, and would refuse it again."""


class StoreError(PerdureError):
    """The store could not do what was asked."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached or is closed; what was asked may or may not have happened."""


class StoreLockedError(StoreUnavailableError):
    """Another program holds the store's lock for longer than the busy timeout."""


class StoreConflictError(StoreError):
    """Another transaction was in the way of this one, which was certainly undone; it may be tried again."""


class StoreFullError(StoreError):
    """The disk, or the store's quota, is full; nothing of the operation was kept."""


class StoreReadOnlyError(StoreError):
    """The store does not allow writing."""


class StoreCorruptError(StoreError):
    """The file is damaged, or it is not a Perdure store."""


class SchemaTooNewError(StoreError):
    """The store was written by a newer Perdure; upgrade this program."""


class DecryptionError(StoreError):
    """Something stored cannot be decrypted: its key is missing, or it was changed, or moved from another place."""
