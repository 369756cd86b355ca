"""Durable workflows for Python: ordinary functions that survive crashes, deploys and months of waiting."""

import importlib
import typing

from perdure.authoring import flow
from perdure.authoring.enqueuing import Batch, Debounce, Dedup
from perdure.authoring.entrypoint import WorkflowEntrypoint, WorkflowEvent, WorkflowStep
from perdure.authoring.graphs.builder import DagBuilder, workflow
from perdure.authoring.graphs.context import Context
from perdure.authoring.graphs.dag import Dag
from perdure.authoring.purity import DeterminismWarning
from perdure.authoring.spreading import ItemFailure, MapSummary
from perdure.authoring.step import Step
from perdure.authoring.task import Task
from perdure.authoring.workflow import Workflow
from perdure.core.undos import UndoInfo
from perdure.engine.app import Perdure
from perdure.engine.client.explain import Explanation
from perdure.engine.client.handle import RunHandle, RunSummary
from perdure.engine.client.listing import WorkflowSummary
from perdure.engine.definitions import PublishedDefinition
from perdure.engine.lifecycle import LifecycleEvent
from perdure.engine.queues import Queue, QueueOverview
from perdure.engine.triggers import webhooks
from perdure.engine.triggers.schedule_summary import ScheduleSummary
from perdure.engine.worker.status import WorkerStatus
from perdure.model.decision import RunPage, Stats, StoreInfo
from perdure.model.encryption import Encryption
from perdure.model.errors import (
    BatchTooLargeError,
    ChildFailedError,
    CompensationFailedError,
    DecryptionError,
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
    PublishError,
    PublishRefusedError,
    RetryAfterError,
    RunCompensatedError,
    RunError,
    RunExistsError,
    RunFailedError,
    RunFinishedError,
    RunNotFinishedError,
    RunNotFoundError,
    RunParkedError,
    RunTerminatedError,
    ScheduleExistsError,
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
    TaskExpiredError,
    UnknownWorkflowError,
    UsageError,
    WebhookVerificationError,
)
from perdure.model.limits import Limits
from perdure.model.queue import KeyLimits, QueueLimits, Rate
from perdure.model.record import Record
from perdure.model.retry import Retry
from perdure.model.run import Retention, Run, RunStatus

if typing.TYPE_CHECKING:
    from perdure.publisher import Publisher

__all__ = [
    "Batch",
    "BatchTooLargeError",
    "ChildFailedError",
    "CompensationFailedError",
    "Context",
    "Dag",
    "DagBuilder",
    "Debounce",
    "DecryptionError",
    "Dedup",
    "DefinitionError",
    "DeterminismWarning",
    "Encryption",
    "EventTimeoutError",
    "Explanation",
    "FanOutTooWideError",
    "InboxFullError",
    "ItemFailure",
    "JournalTooLongError",
    "KeyLimits",
    "LifecycleEvent",
    "LimitError",
    "Limits",
    "MapFailedError",
    "MapSummary",
    "NestingTooDeepError",
    "NonRetryableError",
    "NotDurableError",
    "PayloadTooLargeError",
    "Perdure",
    "PerdureError",
    "PublishError",
    "PublishRefusedError",
    "PublishedDefinition",
    "Publisher",
    "Queue",
    "QueueLimits",
    "QueueOverview",
    "Rate",
    "Record",
    "Retention",
    "Retry",
    "RetryAfterError",
    "Run",
    "RunCompensatedError",
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
    "ScheduleExistsError",
    "ScheduleSummary",
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
    "Task",
    "TaskExpiredError",
    "UndoInfo",
    "UnknownWorkflowError",
    "UsageError",
    "WebhookVerificationError",
    "WorkerStatus",
    "Workflow",
    "WorkflowEntrypoint",
    "WorkflowEvent",
    "WorkflowStep",
    "WorkflowSummary",
    "flow",
    "webhooks",
    "workflow",
]


def __getattr__(name: str) -> typing.Any:
    """Load the publisher, with httpx, where it is asked for."""
    if name != "Publisher":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module("perdure.publisher")
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise UsageError("perdure.Publisher needs httpx: pip install 'perdure[http]'") from error
    return module.Publisher
