"""How users write tasks and use queues, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

from typing import assert_type

from perdure import (
    Batch,
    Debounce,
    Dedup,
    Perdure,
    Queue,
    QueueLimits,
    QueueOverview,
    Rate,
    Retry,
    RunHandle,
    RunPage,
)

app = Perdure("memory://", queues={"default": None, "pdf": 4})
app.limit("pdf", concurrency=20, per_key=2, rate=Rate.of(100, per="1m"), fair=True)


@app.task
async def double(n: int, *, by: int = 2) -> float:
    return n * by


@app.task(queue="pdf", priority=3, retry=Retry(attempts=2), expires="1h", limit_key=lambda name: name)
def render(name: str) -> bytes:
    return name.encode()


@app.task(batch=Batch(max=10, wait="2s"))
async def index(items: list[int]) -> str:
    return str(items)


@app.task(batch=Batch())
def count(items: list[str]) -> int:
    return len(items)


async def main() -> None:
    assert_type(await double(2, by=3), float)
    assert_type(await render("a"), bytes)
    assert_type(await (await double.enqueue(2, by=3)).result(), float)
    assert_type(await (await double.options(delay="1m", dedup=Dedup("k")).enqueue(2)).result(), float)
    assert_type((await render.options(debounce=Debounce(1, key="k")).enqueue("a")).id, str)
    assert_type([await run.result() for run in await render.enqueue_many([("a",)])], list[bytes])
    assert_type(await app.enqueue(double, 2, by=3), RunHandle[float])
    assert_type(await app.enqueue_many(render, [("a",)]), list[RunHandle[bytes]])
    assert_type(await (await app.start(double, 2)).result(), float)
    assert_type(await index(5), str)
    assert_type(await (await index.enqueue(5)).result(), str)
    assert_type(await count("a"), int)
    assert_type(await render.options(queue="x")("a"), bytes)

    assert_type((await render.enqueue("a")).is_new, bool | None)
    await app.start(double, 2, dedup=Dedup("k"), expires="1h", limit_key="a")
    await app.start("double", input={"n": 2}, debounce=Debounce(1, key="k"), anyway=True)
    await app.start(double, 2, speed=5)  # type: ignore[call-overload]  # nor may a start's options be made up

    await double.enqueue("two")  # type: ignore[arg-type]  # an argument's type is checked
    await double.enqueue(2, delay=5)  # type: ignore[call-arg]  # options are no arguments
    await double.options(speed=5)  # type: ignore[call-arg,misc]  # nor may they be made up
    await index.enqueue([5])  # type: ignore[arg-type]  # a batch is enqueued item by item


async def operate() -> None:
    queue = app.queue("pdf")
    assert_type(queue, Queue)
    assert_type(await queue.stats(), QueueOverview)
    assert_type(await queue.set_limits(concurrency=3), QueueLimits)
    assert_type(await queue.dead(), RunPage)
    assert_type(await queue.retry_dead(), int)
    assert_type(await app.queues(), list[QueueOverview])
