"""How users build graphs of steps and map over items, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

from typing import Any, assert_type

from perdure import (
    Context,
    Dag,
    DagBuilder,
    ItemFailure,
    MapSummary,
    Perdure,
    PublishedDefinition,
    Retry,
    RunHandle,
    flow,
    workflow,
)

app = Perdure("memory://", definitions=False)


@app.task
async def double(n: int) -> float:
    return n * 2


@app.step
async def shout(text: str) -> str:
    return text.upper()


async def validate(ctx: Context) -> dict[str, int]:
    return {"total": len(ctx.input) + len(ctx.results) + ctx.attempt}


def refund(ctx: Context) -> None:
    print(ctx.workflow.workflow_id, ctx.job.payload)


builder = workflow("order", version="1", queue="q", input=dict[str, int], output="charge")
assert_type(builder, DagBuilder)
assert_type(builder.step("validate", validate, retry=Retry(attempts=2), timeout="1m"), DagBuilder)
builder.step("charge", double, after=["validate"], data={"n": 1}, when=lambda ctx: True, compensate=refund)
builder.step("wrong", validate, afterr="x")  # type: ignore[call-overload]  # options are checked
builder.map("all", shout, over="${input.names}", limit=3, tolerate="5%")


@builder.step(after="charge")
async def ship(charge: float) -> str:
    return str(charge)


@builder.map(over="charge")
async def notify(item: str) -> str:
    return item


dag = builder.build()
assert_type(dag, Dag)
app.add(dag, double)


@app.workflow
async def album(names: list[str]) -> list[str]:
    assert_type(await flow.map(double, range(3)), list[float])
    assert_type(await flow.map(double, [1, 2], tolerate=1), list[float | ItemFailure])
    assert_type(await flow.map(double, iter([1, 2]), tolerate=1, collect=False), MapSummary)
    assert_type(await ship(2.0), str)
    return await flow.map(shout, names, limit=5, name="shouting")


async def main() -> None:
    run = await app.start(dag, {"a": 1})
    assert_type(run, RunHandle[Any])
    published = await app.publish("invoice.yaml")
    assert_type(published, PublishedDefinition)
    assert_type([each.name for each in await app.definitions()], list[str])
    assert_type(dag.to_json() + dag.to_mermaid(), str)
