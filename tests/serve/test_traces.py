"""What an endpoint does stands below the run's own span, whoever else traces its requests."""

from __future__ import annotations

import asyncio

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.telemetry import OpenTelemetry
from tests.serve.test_serving import WITHIN, three

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_push_carries_the_place_of_the_runs_own_span(scene):
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    made = await scene(three, telemetry=[OpenTelemetry(tracer_provider=provider)])
    run = await made.app.start("sum_up", input={"n": 1}, tags={"traceparent": GIVEN})
    assert await run.result(timeout=WITHIN) == 1
    while not (found := [span for span in exported.get_finished_spans() if span.name == "sum_up"]):
        await asyncio.sleep(0.01)
    (own,) = found
    assert {push["traceparent"] for push in made.faulty.pushes} == {
        f"00-{own.context.trace_id:032x}-{own.context.span_id:016x}-01"
    }
    assert f"{own.context.trace_id:032x}" == GIVEN.split("-")[1]


async def test_without_a_trace_a_push_carries_none(scene):
    made = await scene(three)
    run = await made.app.start("sum_up", input={"n": 1})
    assert await run.result(timeout=WITHIN) == 1
    assert not any("traceparent" in push for push in made.faulty.pushes)
