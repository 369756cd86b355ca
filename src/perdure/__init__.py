"""Durable workflows for Python: ordinary functions that survive crashes, deploys and months of waiting."""

from perdure.authoring import flow
from perdure.authoring.dag import Dag
from perdure.authoring.dag_builder import DagBuilder, workflow
from perdure.authoring.dag_context import Context
from perdure.authoring.entrypoint import WorkflowEntrypoint, WorkflowEvent, WorkflowStep
from perdure.authoring.mapping import ItemFailure
from perdure.authoring.purity import DeterminismWarning
from perdure.authoring.step import Step
from perdure.authoring.workflow import Workflow
from perdure.engine.app import Perdure
from perdure.engine.explain import Explanation
from perdure.engine.handle import RunHandle, RunSummary
from perdure.model.decision import RunPage, Stats, StoreInfo
from perdure.model.errors import (
    BatchTooLargeError,
    ChildFailedError,
    DefinitionError,
    EventTimeoutError,
    FanOutTooWideError,
    InboxFullError,
    JournalTooLongError,
    LimitError,
    MapFailedError,
    NestingTooDeepError,
    NonRetryableError,
    NotDurableError,
    PayloadTooLargeError,
    PerdureError,
    RetryAfterError,
    RunError,
    RunExistsError,
    RunFailedError,
    RunFinishedError,
    RunNotFinishedError,
    RunNotFoundError,
    RunParkedError,
    RunTerminatedError,
    SchemaTooNewError,
    SerializationError,
    StepError,
    StepRetriesExceededError,
    StepTimeoutError,
    StoreConflictError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UnknownWorkflowError,
    UsageError,
)
from perdure.model.limits import Limits
from perdure.model.record import Record
from perdure.model.retry import Retry
from perdure.model.run import Retention, Run, RunStatus

__all__ = [
    "BatchTooLargeError",
    "ChildFailedError",
    "Context",
    "Dag",
    "DagBuilder",
    "DefinitionError",
    "DeterminismWarning",
    "EventTimeoutError",
    "Explanation",
    "FanOutTooWideError",
    "InboxFullError",
    "ItemFailure",
    "JournalTooLongError",
    "LimitError",
    "Limits",
    "MapFailedError",
    "NestingTooDeepError",
    "NonRetryableError",
    "NotDurableError",
    "PayloadTooLargeError",
    "Perdure",
    "PerdureError",
    "Record",
    "Retention",
    "Retry",
    "RetryAfterError",
    "Run",
    "RunError",
    "RunExistsError",
    "RunFailedError",
    "RunFinishedError",
    "RunHandle",
    "RunNotFinishedError",
    "RunNotFoundError",
    "RunPage",
    "RunParkedError",
    "RunStatus",
    "RunSummary",
    "RunTerminatedError",
    "SchemaTooNewError",
    "SerializationError",
    "Stats",
    "Step",
    "StepError",
    "StepRetriesExceededError",
    "StepTimeoutError",
    "StoreConflictError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreInfo",
    "StoreLockedError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "UnknownWorkflowError",
    "UsageError",
    "Workflow",
    "WorkflowEntrypoint",
    "WorkflowEvent",
    "WorkflowStep",
    "flow",
    "workflow",
]
