"""How users publish messages, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import assert_type

from perdure import Publisher, PublishError, PublishRefusedError
from perdure.publisher import (
    BlockingPublisher,
    Callback,
    DeadLetter,
    Endpoint,
    FlowControl,
    FlowControlSummary,
    Group,
    LogEntry,
    Message,
    MessageSummary,
    Notified,
    Published,
    QueueSummary,
    ScheduleSummary,
    SigningKeys,
    Waiter,
    WorkflowRun,
    WorkflowRunLog,
)

URL = "https://a.example"


async def main() -> None:
    async with Publisher("https://b.example", "token", namespace="acme", timeout="10s", patience=5) as pub:
        sent = await pub.publish(
            URL,
            json={"a": 1},
            method="PUT",
            headers={"X": "1"},
            delay="1m",
            not_before=dt.datetime.now(dt.UTC),
            retries=3,
            retry_delay="pow(2, retried) * 1000",
            timeout=dt.timedelta(seconds=5),
            callback=URL,
            failure_callback=Callback(URL, retries=1),
            dedup_id="x",
            labels=["a", "b"],
            flow_control=FlowControl("k", rate=5, per="1m", parallelism=3),
            redact="body",
        )
        assert_type(sent, Published)
        assert_type(sent.is_new, bool)
        assert_type(await pub.enqueue("q", URL, body=b"x", dedup_by_content=True), Published)
        assert_type(await pub.batch([Message(URL, queue="q"), Message(group="g", json=1)]), list[Published])
        assert_type(await pub.groups.publish("g", json=1), list[Published])
        assert_type(await pub.messages.get("msg_1"), MessageSummary)
        await pub.messages.run_now("msg_1")
        assert_type(await pub.messages.cancel_many(label=["a", "b"], since=0), int)
        async for entry in pub.logs(state="ERROR"):
            assert_type(entry, LogEntry)
        assert_type(await pub.dlq.list(status=500).page(), list[DeadLetter])
        assert_type(await pub.dlq.retry(["d"], changes={"retries": 5}), Sequence[Published])
        assert_type(await pub.dlq.resume(everything=True), Sequence[WorkflowRun])
        assert_type(await pub.dlq.retry_failure_function("wfr_1"), WorkflowRun)
        await pub.groups.add("g", [URL, Endpoint(URL, "name")])
        assert_type(await pub.groups.list(), list[Group])
        assert_type(await pub.queues.get("q"), QueueSummary)
        assert_type(await pub.schedules.create(URL, cron="* * * * *", tz="Europe/Paris", delay=1), str)
        assert_type(await pub.schedules.list(), list[ScheduleSummary])
        assert_type(await pub.flow_control.get("k"), FlowControlSummary)
        assert_type(await pub.keys.rotate(), SigningKeys)
        assert_type(await pub.workflows.trigger(URL, json=1, run_id="x", labels="l"), WorkflowRun)
        assert_type(await pub.workflows.notify("paid", {"total": 1}), list[Notified])
        assert_type(await pub.workflows.waiters("paid"), list[Waiter])
        async for run in pub.workflows.logs(url=URL):
            assert_type(run, WorkflowRunLog)
        await pub.publish(URL, dely="1m")  # type: ignore[call-arg]  # there is no such option
        await pub.publish(URL, delay=b"1m")  # type: ignore[arg-type]  # nor such a delay
        await pub.messages.cancel_many(status=500)  # type: ignore[call-arg]  # only dead letters have one


def blocking() -> None:
    with Publisher().blocking as pub:
        assert_type(pub, BlockingPublisher)
        assert_type(pub.publish(URL, json=1), Published)
        assert_type(pub.dlq.retry(everything=True), Sequence[Published])
        assert_type([entry for entry in pub.logs()], list[LogEntry])  # noqa: C416  # the type of each is asked
        assert_type(pub.queues.list(), list[QueueSummary])
        pub.publish(URL, dely="1m")  # type: ignore[call-arg]  # there is no such option
    try:
        pub.messages.cancel("msg_1")
    except PublishRefusedError:
        raise
    except PublishError as error:
        assert_type((error.status, error.field), tuple[int, str])
