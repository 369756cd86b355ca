"""Schedules, which publish a message again and again."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from msgspec.structs import replace
from starlette.responses import Response

from perdure.dispatch.messages.options import read, with_body
from perdure.dispatch.messages.plans import PlanStanding
from perdure.dispatch.messages.showing import about, content
from perdure.server.access import Operator, Viewer
from perdure.server.qstash.masking import masked
from perdure.server.qstash.routes import caller_of, destination_of, done, headers_of, messaging_of
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


@router.post("/v2/schedules/{id}/pause", operation_id="qstash_pause_schedule")
@router.patch("/v2/schedules/{id}/pause", operation_id="qstash_pause_schedule")
async def pause_schedule(access: Operator, id: str) -> Response:
    """Have a schedule publish no more."""
    await access.audit("schedules.pause", id)
    await messaging_of(access).plans.set_paused(id, True)
    return done()


@router.post("/v2/schedules/{id}/resume", operation_id="qstash_resume_schedule")
@router.patch("/v2/schedules/{id}/resume", operation_id="qstash_resume_schedule")
async def resume_schedule(access: Operator, id: str) -> Response:
    """Have a schedule go on from now."""
    await access.audit("schedules.resume", id)
    await messaging_of(access).plans.set_paused(id, False)
    return done()


@router.post("/v2/schedules/{destination:path}", operation_id="qstash_create_schedule")
async def create_schedule(access: Operator, request: Request) -> Response:
    """Make a schedule; one of that id is replaced."""
    options = read(headers_of(request))
    options = replace(options, message=with_body(options.message, await request.body()))
    await access.audit("schedules.create", options.schedule_id, cron=options.cron)
    target, caller_ip = destination_of(request), caller_of(access, request)
    return reply({"scheduleId": await messaging_of(access).schedule(target, options, caller_ip=caller_ip)})


@router.get("/v2/schedules", operation_id="qstash_list_schedules")
async def list_schedules(access: Viewer) -> Response:
    """List the schedules."""
    return reply([masked(access, _document(each)) for each in await messaging_of(access).plans.all()])


@router.get("/v2/schedules/{id}", operation_id="qstash_get_schedule")
async def get_schedule(access: Viewer, id: str) -> Response:
    """Return a schedule."""
    return reply(masked(access, _document(await messaging_of(access).plans.get(id))))


@router.delete("/v2/schedules/{id}", operation_id="qstash_delete_schedule")
async def delete_schedule(access: Operator, id: str) -> Response:
    """Remove a schedule; what it published is delivered."""
    await access.audit("schedules.delete", id)
    await messaging_of(access).plans.delete(id)
    return done()


def _document(standing: PlanStanding) -> dict[str, Any]:
    plan = standing.plan
    options, message = plan.options, plan.options.message
    shown: dict[str, Any] = {
        "delay": round(options.delay),
        "timeout": round(message.timeout or 0),
        "callerIP": plan.caller_ip,
        "lastScheduleTime": standing.last_at,
        "nextScheduleTime": standing.next_at,
        "lastScheduleStates": standing.last_states,
        "error": standing.error,
    }
    return {
        "scheduleId": plan.id,
        "destination": plan.destination,
        "cron": plan.cron,
        "createdAt": plan.made_at,
        "method": message.method,
        "retries": message.retries,
        "isPaused": standing.is_paused,
        **about(message),
        **content(message),
        **{name: value for name, value in shown.items() if value},
    }
