"""Publishes messages by a server's message API: delivered to URLs, at least once, now or later.

async with Publisher("https://perdure.example.com", token) as pub:
    await pub.publish("https://shop.example.com/mails", json={"to": "ada"}, delay="1m", retries=5)
"""

from __future__ import annotations

from perdure.publisher.answers import (
    DeadLetter,
    Endpoint,
    FlowControlSummary,
    Group,
    LogEntry,
    MessageSummary,
    Notified,
    Parallelism,
    Published,
    QueueSummary,
    ScheduleSummary,
    SigningKeys,
    Waiter,
    WorkflowRun,
    WorkflowRunLog,
)
from perdure.publisher.options import Callback, FlowControl, Message
from perdure.publisher.publisher import BlockingPublisher, Publisher

__all__ = [
    "BlockingPublisher",
    "Callback",
    "DeadLetter",
    "Endpoint",
    "FlowControl",
    "FlowControlSummary",
    "Group",
    "LogEntry",
    "Message",
    "MessageSummary",
    "Notified",
    "Parallelism",
    "Published",
    "Publisher",
    "QueueSummary",
    "ScheduleSummary",
    "SigningKeys",
    "Waiter",
    "WorkflowRun",
    "WorkflowRunLog",
]
