"""An endpoint of the workflow protocol that does what the SDK does, without a socket, so that virtual time passes.

Its function is a list of steps; a list within it is taken at once. What it hands in has the form that the SDK's has.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

from perdure import Perdure
from perdure.dispatch.messages.delivery import delivery_workflow
from perdure.dispatch.messages.message import FLOWS, QUEUE, Answer, Message
from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.upstash.driving import Programs
from perdure.dispatch.upstash.refusing import RunEndedError
from perdure.dispatch.upstash.workflows import Workflows
from tests.engine.world import NOW

URL = "http://endpoint/"
THIRD = "http://third/"
OK = Answer(200, [("upstash-workflow-sdk-version", "1"), ("Upstash-Workflow-Sdk", "v1.3.2")], body="{}")
JAVASCRIPT = "LazyFetch,InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"

Steps = list[Any]


class Endpoint:
    """What is delivered to, and what it hands in.

    Attributes:
        plans: the steps of each workflow, by the last part of its URL.
        spoil: says what becomes of an answer to a delivery whose work is done.
        before: says what is answered without doing anything; None to go on.
        got: every delivery: when (seconds), what kind, and how many entries or which URL.
        ran: the steps that were executed, by run.
        headers: of the last delivery.
    """

    def __init__(self, world: Any, features: str = JAVASCRIPT) -> None:
        self.world = world
        self.features = features
        self.plans: dict[str, Steps] = {}
        self.spoil: Callable[[Message, Answer], Answer] = lambda message, answer: answer
        self.before: Callable[[Message], Answer | None] = lambda message: None
        self.got: list[tuple[float, str, Any]] = []
        self.ran: list[tuple[str, str]] = []
        self.failures: list[dict[str, Any]] = []
        self.third: Callable[[Message], Answer] = lambda message: Answer(200, body=f"third:{message.body}")
        self.headers: dict[str, str] = {}
        self.children = 0
        self.workflows: Workflows = None  # type: ignore[assignment]  # see `engine`

    def app(self, url: str, **options: Any) -> Perdure:
        """An engine that delivers to it."""
        app = self.world.app(url, queues=[QUEUE, FLOWS], **options)

        async def keys() -> Any:
            raise AssertionError("nothing is signed here")

        async def changed() -> None:
            pass

        messages = Messaging(app, keys, changed, lambda: None, None)
        self.workflows = Workflows(app, messages, lambda run_ids: app.client.posted(run_ids))
        told = delivery_workflow(self.send, self.world, asyncio.Event())
        programs = Programs(self.send, told, app.store)
        for each in (told, *programs.workflows):
            app.registry.add_workflow(each)
        self.workflows.programs = programs
        return app

    # What it is sent.

    async def send(
        self, message: Message, message_id: str, retried: int, *, is_due: bool = False, held: int = 0
    ) -> Answer:
        headers = {name.lower(): value for name, value in [*message.headers, *message.extra]}
        at = (self.world.now() - NOW) / 1000
        if message.url.startswith(THIRD):
            self.got.append((at, "third", message.url))
            return self.third(message)
        self.headers = headers
        if "upstash-workflow-is-failure" in headers:
            self.got.append((at, "failure", message_id))
            self.failures.append(json.loads(message.content))
            return self.before(message) or OK
        if "upstash-workflow-callback" in headers:
            self.got.append((at, "callback", headers["upstash-workflow-stepid"]))
        else:
            self.got.append((at, "step", len(json.loads(message.content))))
        answer = self.before(message)
        if answer is None:
            try:
                answer = await self.work(message, headers)
            except RunEndedError:
                answer = OK
        return self.spoil(message, answer)

    async def work(self, message: Message, headers: dict[str, str]) -> Answer:
        run_id = headers["upstash-workflow-runid"]
        if "upstash-workflow-callback" in headers:
            told = json.loads(message.content)
            out = json.dumps({"status": told["status"], "body": base64.b64decode(told["body"]).decode()})
            step = {
                "stepId": int(headers["upstash-workflow-stepid"]),
                "stepName": headers["upstash-workflow-stepname"],
                "stepType": "Call",
                "out": out,
                "concurrent": int(headers["upstash-workflow-concurrent"]),
            }
            await self.submit(run_id, message.url, [step])
            return OK
        entries = json.loads(message.content)
        steps = [json.loads(base64.b64decode(each["body"])) for each in entries[1:]]
        keys = [(each["stepId"], each.get("targetStep")) for each in steps]
        assert len(set(keys)) == len(keys), f"an entry is there twice: {keys}"
        await self.go_on(run_id, message.url, steps)
        return OK

    async def go_on(self, run_id: str, url: str, steps: list[dict[str, Any]]) -> None:
        plan = self.plans[url.rpartition("/")[2]]
        results = {each["stepId"]: each for each in steps if each.get("targetStep") is None}
        last = steps[-1] if steps else None
        number = 1
        for group in plan:
            branches = group if isinstance(group, list) else [group]
            ids = range(number, number + len(branches))
            number += len(branches)
            if all(each in results for each in ids):
                if len(branches) > 1 and last is not None and last["stepId"] in ids and last is not steps[-1]:
                    return
                continue
            if len(branches) == 1:
                await self.do(run_id, url, branches[0], ids[0], 1)
            elif last is not None and last.get("targetStep") in ids:
                target = last["targetStep"]
                await self.do(run_id, url, branches[target - ids[0]], target, len(branches))
            elif not any(each.get("targetStep") in ids for each in steps):
                plans = [
                    {
                        "stepId": 0,
                        "stepName": what[1],
                        "stepType": "Run" if what[0] == "run" else "SleepFor",
                        "concurrent": len(branches),
                        "targetStep": target,
                    }
                    for target, what in zip(ids, branches, strict=True)
                ]
                delays = [what[2] if what[0] == "sleep" else "" for what in branches]
                await self.submit(run_id, url, plans, delays)
            return
        if len(plan) and isinstance(plan[-1], list) and last is not None and last.get("targetStep") is not None:
            return
        await self.workflows.intake.finish(run_id, json.dumps(sorted(results)).encode())

    async def do(self, run_id: str, url: str, what: Any, step_id: int, concurrent: int) -> None:
        kind, name, *more = what
        step = {"stepId": step_id, "stepName": name, "stepType": kind.capitalize(), "concurrent": concurrent}
        self.ran.append((run_id, name))
        if kind == "run":
            await self.submit(run_id, url, [{**step, "out": json.dumps(more[0])}])
        elif kind == "sleep":
            step = {**step, "stepType": "SleepFor", "sleepFor": more[0]}
            await self.submit(run_id, url, [step], [more[0] if concurrent == 1 else ""])
        elif kind == "call":
            await self.call(run_id, url, step, **more[0])
        elif kind == "wait":
            body = {"url": url, "timeout": more[1], "timeoutUrl": url, "timeoutHeaders": {}, "step": step}
            body["step"]["stepType"] = "Wait"
            headers = list(self.own(run_id, url).items())
            await self.workflows.waiting.wait(more[0], headers, json.dumps(body).encode())
        elif kind == "invoke":
            await self.invoke(run_id, url, step, more[0])

    # What it hands in.

    def own(self, run_id: str, url: str) -> dict[str, str]:
        return {
            "Upstash-Workflow-Init": "false",
            "Upstash-Workflow-RunId": run_id,
            "Upstash-Workflow-Url": url,
            "Upstash-Workflow-Sdk-Version": "1",
            "Upstash-Feature-Set": self.features,
            "Upstash-Forward-Upstash-Workflow-Sdk-Version": "1",
            "content-type": "application/json",
        }

    async def submit(self, run_id: str, url: str, steps: list[dict[str, Any]], delays: list[str] | None = None) -> Any:
        publications = []
        for step, delay in zip(steps, delays or [""] * len(steps), strict=True):
            headers = {**self.own(run_id, url), **({"Upstash-Delay": delay} if delay else {})}
            publications.append(Publication(url, read(headers.items()), json.dumps(step).encode()))
        return await self.workflows.publish_each(publications)

    async def call(self, run_id: str, url: str, step: dict[str, Any], **options: str) -> Any:
        forwarded = {"callback": "true", "stepid": step["stepId"], "stepname": step["stepName"], "steptype": "Call"}
        forwarded |= {"concurrent": step["concurrent"], "contenttype": "application/json"}
        headers = {
            **self.own(run_id, url),
            "Upstash-Workflow-CallType": "toCallback",
            "Upstash-Retries": "0",
            "Upstash-Callback": url,
            "Upstash-Callback-Workflow-CallType": "fromCallback",
            **{f"Upstash-Callback-Forward-Upstash-Workflow-{name}": str(value) for name, value in forwarded.items()},
            **options,
        }
        del headers["Upstash-Forward-Upstash-Workflow-Sdk-Version"]
        return await self.workflows.publish_each([Publication(THIRD, read(headers.items()), b"question")])

    async def invoke(self, run_id: str, url: str, step: dict[str, Any], child: str) -> Any:
        self.children += 1
        name, there = f"wfr_child{self.children}", url.rpartition("/")[0] + "/" + child
        envelope = {
            "body": json.dumps({"n": 1}),
            "headers": {name: [value] for name, value in self.own(run_id, url).items()},
            "workflowRunId": run_id,
            "workflowRunCreatedAt": NOW,
            "workflowUrl": url,
            "step": step,
        }
        headers = {
            **self.own(name, there),
            "Upstash-Workflow-Init": "true",
            "Upstash-Workflow-Invoke": "true",
            "Upstash-Forward-Upstash-Workflow-Invoke-Count": "1",
        }
        publication = Publication(there, read(headers.items()), json.dumps(envelope).encode())
        return await self.workflows.publish_each([publication])

    async def trigger(self, name: str, run_id: str = "wfr_1", body: str = '{"name":"ann"}', **options: str) -> Any:
        """Trigger a workflow, as the SDK's client does; `X_Y` as an option is the header `Upstash-X-Y`."""
        url = URL + name
        headers = {
            **self.own(run_id, url),
            "Upstash-Workflow-Init": "true",
            "Upstash-Forward-X-User": "bob",
            **{f"Upstash-{name.replace('_', '-')}": value for name, value in options.items()},
        }
        (answer,) = await self.workflows.publish_each([Publication(url, read(headers.items()), body.encode())])
        return answer
