"""Flow-control keys: how they stand, and what an operator sets of them."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.flow_control import Pins
from perdure.dispatch.messages.message import QUEUE
from perdure.dispatch.messages.options import PERIOD_MOST, duration
from perdure.dispatch.messages.paces import FlowStanding, flow_standings, reset_rate
from perdure.engine.settings import Settings
from perdure.model.errors import UsageError
from perdure.model.queue import KeyLimits
from perdure.server.access import Operator, Viewer
from perdure.server.qstash.filters import flag_of, whole_of
from perdure.server.qstash.routes import dispatcher_of, done, messaging_of, query_of
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

LISTED = 100
"""How many keys are listed: each costs a look at its queue."""

router = routes()


@router.get("/v2/flowControl", operation_id="qstash_list_flow_control")
async def list_keys(access: Viewer, request: Request) -> Response:
    """List the flow-control keys that hold a text, or all: the first hundred of them."""
    search = query_of(request).get("search", [""])[0]
    every = await messaging_of(access).outbox.flows.all()
    found = [(key, about) for key, about in every.items() if search in key][:LISTED]
    standings = await flow_standings(access.app, [key for key, _ in found])
    return reply([_document(key, standings[key], *about) for key, about in found])


@router.get("/v2/flowControl/{key}", operation_id="qstash_get_flow_control")
async def get_key(access: Viewer, key: str) -> Response:
    """Return how a flow-control key stands."""
    about = await messaging_of(access).outbox.flows.get(key)
    return reply(_document(key, (await flow_standings(access.app, [key]))[key], *about))


@router.post("/v2/flowControl/{key}/pause", operation_id="qstash_pause_flow_control")
async def pause_key(access: Operator, key: str) -> Response:
    """Have no message of a key be begun."""
    await access.audit("flow-control.pause", key)
    await messaging_of(access).outbox.flows.set_paused(key, True)
    return done()


@router.post("/v2/flowControl/{key}/resume", operation_id="qstash_resume_flow_control")
async def resume_key(access: Operator, key: str) -> Response:
    """Have the messages of a key be begun again."""
    await access.audit("flow-control.resume", key)
    await messaging_of(access).outbox.flows.set_paused(key, False)
    dispatcher_of(access).wake()
    return done()


@router.post("/v2/flowControl/{key}/pin", operation_id="qstash_pin_flow_control")
async def pin_key(access: Operator, key: str, request: Request) -> Response:
    """Set what a key bounds, whatever messages say from then on."""
    query = query_of(request)
    period = query.get("period")
    seconds = None if period is None else round(duration(period[0], "period", PERIOD_MOST))
    parallelism, rate = whole_of(query, "parallelism"), whole_of(query, "rate")
    await access.audit("flow-control.pin", key, parallelism=parallelism, rate=rate, period=seconds)
    await messaging_of(access).outbox.flows.pin(key, parallelism=parallelism, rate=rate, period=seconds)
    if rate is not None:
        await reset_rate(access.app, key)
    return done()


@router.post("/v2/flowControl/{key}/unpin", operation_id="qstash_unpin_flow_control")
async def unpin_key(access: Operator, key: str, request: Request) -> Response:
    """Let messages say again what a key bounds."""
    query = query_of(request)
    parallelism, rate = flag_of(query, "parallelism"), flag_of(query, "rate")
    if not parallelism and not rate:
        raise UsageError("unpin: give parallelism=true, rate=true or both")
    await access.audit("flow-control.unpin", key, parallelism=parallelism, rate=rate)
    await messaging_of(access).outbox.flows.unpin(key, parallelism=parallelism, rate=rate)
    return done()


@router.post("/v2/flowControl/{key}/reset", operation_id="qstash_reset_flow_control")
@router.post("/v2/flowControl/{key}/resetRate", operation_id="qstash_reset_rate")
async def reset_key(access: Operator, key: str) -> Response:
    """Have the rate of a key begin anew."""
    await access.audit("flow-control.reset", key)
    await messaging_of(access).outbox.flows.get(key)
    await reset_rate(access.app, key)
    dispatcher_of(access).wake()
    return done()


@router.get("/v2/globalParallelism", operation_id="qstash_get_parallelism")
async def get_parallelism(access: Viewer) -> Response:
    """Return how many messages can be under way at once here, and how many are in the namespace."""
    engine = dispatcher_of(access).engine
    settings = Settings() if engine is None else engine.settings
    queues = await access.app.queues()
    leased = sum(each.leased for each in queues if each.name.split(".")[0] == QUEUE)
    return reply({"parallelismMax": settings.concurrency, "parallelismCount": leased})


def _document(key: str, standing: FlowStanding, limits: KeyLimits, pins: Pins) -> dict[str, Any]:
    rate = limits.rate
    return {
        "flowControlKey": key,
        "waitListSize": standing.waiting,
        "parallelismMax": limits.concurrency or 0,
        "parallelismCount": standing.under_way,
        "rateMax": 0 if rate is None else rate.count,
        "rateCount": standing.used,
        "ratePeriod": 0 if rate is None else round(rate.period_ms / 1000),
        "ratePeriodStart": standing.since // 1000,
        "isPaused": limits.is_paused,
        "isPinnedParallelism": pins.parallelism,
        "isPinnedRate": pins.rate,
    }
