"""Workflows that are posted as data, one that succeeds and one that fails: `python examples/sample_flows.py`.

The bodies have no more in them than each step's task and its data: the steps run one after another, each on a queue,
each tried again as its task says. A step that has failed for good ends the run, and those behind it never run.
"""

import asyncio
import contextlib
import tempfile
from typing import Any

from perdure import Perdure, Retry, RunFailedError, RunNotFoundError, flow

app = Perdure("sqlite:///flows.db")

HELLO_WORLD = """
{
  "name":"hello_world",
  "definition":{
    "steps":[
      {"taskName":"step1","data":{}}
    ]
  }
}
"""
SAMPLE_FLOW = {
    "name": "sample_flow",
    "definition": {
        "steps": [
            {"taskName": "step1", "data": {"message": "first"}},
            {"taskName": "step2", "data": {"message": "second"}},
        ]
    },
}
SAMPLE_FAILING_FLOW = {
    "name": "sample_failing_flow",
    "definition": {
        "steps": [
            {"taskName": "step1", "data": {}},
            {"taskName": "fails-twice", "data": {}},
            {"taskName": "fails", "data": {"message": "no luck today"}},
            {"taskName": "step2", "data": {}},
        ]
    },
}

again = Retry(attempts=3, delay="100ms", backoff="exponential")


@app.task
def step1(data: dict[str, Any]) -> str:
    return f"step1 did {data}"


@app.task
def step2(data: dict[str, Any]) -> str:
    return f"step2 did {data}"


@app.task(name="fails-twice", retry=again)
def fails_twice(data: dict[str, Any]) -> str:
    if flow.attempt() < 3:
        raise OSError(f"attempt {flow.attempt()} found nobody")
    return f"it worked on attempt {flow.attempt()}"


@app.task(retry=again)
def fails(data: dict[str, Any]) -> str:
    raise OSError(data["message"])


async def tell(name: str) -> None:
    """Run a workflow, then print what became of it, and of each of its steps: every one is a run of its own."""
    run = await app.start(name, input={}, id=name)
    with contextlib.suppress(RunFailedError):
        await run.result(timeout="1 minute")
    print(f"{name} is {(await run.get()).status.value}")
    (published,) = [each for each in await app.definitions() if each.name == name]
    for step in published.data["definition"]["steps"]:
        task = app.run(f"{name}/{step['name']}")
        try:
            status = (await task.get()).status.value
        except RunNotFoundError:
            print(f"  {step['name']}: never began")
            continue
        end = (await task.journal())[-1]
        print(f"  {step['name']}: {status}, attempts: {end.attempt}")


async def main() -> None:
    async with app:
        for body in (HELLO_WORLD, SAMPLE_FLOW, SAMPLE_FAILING_FLOW):
            published = await app.publish(body)
            await tell(published.name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        asyncio.run(main())
