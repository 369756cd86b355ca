"""Flows that succeed and fail, and one that is posted as data: `python examples/sample_flows.py`.

The steps of each run one after another, each on a queue, each tried again as its task says. A step that has failed for
good ends the run, and those behind it never run. `perdure dev examples/sample_flows.py` serves them: with
`GET /tasks/sample-flow`, `GET /tasks/sample-failing-flow`, `POST /workflows` and `POST /workflows/hello_world/execute`.
"""

import asyncio
import contextlib
import tempfile
from typing import Any

from perdure import Perdure, Retry, RunFailedError, RunNotFoundError, flow, workflow

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
again = Retry(attempts=3, delay="100ms", backoff="exponential")


def make_app(url: str) -> Perdure:
    app = Perdure(url)

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

    app.add(
        workflow("sample_flow")
        .step("step1", step1, data={"message": "first"})
        .step("step2", step2, after="step1", data={"message": "second"})
        .build(),
        workflow("sample_failing_flow")
        .step("step1", step1, data={})
        .step("fails-twice", fails_twice, after="step1", data={})
        .step("fails", fails, after="fails-twice", data={"message": "no luck today"})
        .step("step2", step2, after="fails", data={})
        .build(),
    )
    return app


app = make_app("sqlite:///flows.db")


async def tell(name: str, *steps: str) -> None:
    """Run a workflow, then print what became of it, and of each of its steps: every one is a run of its own."""
    run = await app.start(name, input={}, id=name)
    with contextlib.suppress(RunFailedError):
        await run.result(timeout="1 minute")
    print(f"{name} is {(await run.get()).status.value}")
    for step in steps:
        task = app.run(f"{name}/{step}")
        try:
            status = (await task.get()).status.value
        except RunNotFoundError:
            print(f"  {step}: never began")
            continue
        end = (await task.journal())[-1]
        print(f"  {step}: {status}, attempts: {end.attempt}")


async def main() -> None:
    async with app:
        await app.publish(HELLO_WORLD)
        await tell("hello_world", "step1")
        await tell("sample_flow", "step1", "step2")
        await tell("sample_failing_flow", "step1", "fails-twice", "fails", "step2")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        asyncio.run(main())
