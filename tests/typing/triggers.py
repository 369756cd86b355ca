"""How users write schedules, events, observers and webhooks, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, assert_type

from perdure import LifecycleEvent, Perdure, RunHandle, ScheduleSummary, Task, Workflow, flow, inbound, webhooks

app = Perdure("memory://")


@app.schedule("0 9 * * mon-fri", tz="Europe/Paris", jitter="5m", overlap="skip", catch_up="1d", args=("ada",))
@app.on("order.created", where="total > `100`")
@app.workflow
async def report(to: str) -> int:
    assert_type(await flow.emit("reported", {"to": to}, id="e"), list[str])
    return 1


@app.schedule(every="1h", start=dt.datetime(2030, 1, 1, tzinfo=dt.UTC), name="hourly")
@app.on("tick", where=lambda payload: payload > 1)
@app.task(queue="mail")
def mail(copies: int = 1) -> str:
    return "m" * copies


workflow: Workflow[[str], int] = report
task: Task[[int], str] = mail


@app.observe("workflow:failed", "workflow:parked", workflow="report")
async def hear(event: LifecycleEvent) -> None:
    print(event.run_id, event.error)


@app.observe("workflow:completed")
def hear_too(event: LifecycleEvent) -> None: ...


verify = inbound.stripe(["whsec_new", "whsec_old"], tolerance="5 minutes")


@app.webhook("/hooks/stripe", verify=verify, key=lambda event: event["id"], only=["invoice.paid"])
@app.webhook("/hooks/own", verify=lambda body, headers: body.decode(), within="7 days")
@app.workflow
async def paid(event: dict[str, Any]) -> str:
    return str(event["id"])


paid_too: Workflow[[dict[str, Any]], str] = paid
served = inbound.asgi(app, body_bytes=65_536, body_within="10 s")


app.webhook("https://example.com", events=["workflow:failed"], secret=["whsec_new", "whsec_old"], workflows=["report"])


async def main() -> None:
    assert_type(await app.emit("order.created", {"total": 1}, id="e"), list[RunHandle[Any]])
    assert_type(await app.schedules.create("x", report, "ada", cron="0 9 * * *"), ScheduleSummary)
    assert_type(await app.schedules.create("y", "report", input={"to": "ada"}, every=60, paused=True), ScheduleSummary)
    assert_type(await app.schedules.list(), list[ScheduleSummary])
    assert_type(await app.schedules.next("x", 3), Sequence[dt.datetime])
    assert_type(await app.schedules.backfill("x", 0, dt.datetime.now(dt.UTC)), Sequence[RunHandle[Any]])
    assert_type(await app.schedules.trigger("x"), RunHandle[Any])
    await app.schedules.pause("x")
    await app.schedules.resume("x")
    await app.schedules.delete("x")
    webhooks.verify(b"{}", {"webhook-id": "1"}, "whsec_x", tolerance="5 minutes")
    webhooks.verify(b"{}", [("webhook-id", "1")], ["whsec_x"], replays=webhooks.Replays(most=1_000))
