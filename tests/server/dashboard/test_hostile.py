"""What people write is shown in a browser as what they wrote, and does nothing there."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from perdure import Perdure, Retry, flow
from perdure.model.document import Document
from tests.server.conftest import memory
from tests.server.dashboard.conftest import HOSTILE, Scene, settled

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def poison(app: Perdure) -> None:
    """Put hostile texts wherever a text is taken."""
    for number, text in enumerate(HOSTILE):
        name = text.replace("/", "∕").replace("#", "＃")
        await app.start(
            name,
            input={text: text},
            id=f"{number}{text}",
            tags={text: text},
            queue=name,
            limit_key=text,
            anyway=True,
        )
        await app.run(f"{number}{text}").send_event(text, {text: text})
        await app.schedules.create(name[:100], "<b>takes", input={text: text}, cron="0 0 1 1 *", paused=True)
        await app.queue(name).pause()


def a_hostile_app() -> Perdure:
    app = Perdure(memory(), hold=0.0)
    every = " ".join(HOSTILE)

    @app.workflow(name="<b>fails")
    async def fails(value: str) -> None:
        await app_step(value)

    @app.step(name="<i>step", retry=Retry(attempts=1))
    async def app_step(value: str) -> None:
        raise ValueError(value)

    @app.workflow(name="<b>returns")
    async def returns(value: str) -> dict[str, Any]:
        for number, text in enumerate(HOSTILE):
            flow.set(f"state-{number}", {text: text})
        return {value: value}

    @app.workflow(name="<b>takes")
    async def takes(data: Any) -> Any:
        return data

    fails.__doc__ = every
    return app


async def test_nothing_that_anybody_wrote_becomes_anything_but_text(live_serving, browse):
    worker = a_hostile_app()
    served = await live_serving(worker)
    scene = Scene(served, worker)
    every = " ".join(HOSTILE)
    async with Perdure(worker.url, mode="client") as app:
        await poison(app)
        await app.start(worker.registry.workflows["<b>fails"].name, input={"value": every}, id="fails")
        await app.start("<b>returns", input={"value": every}, id="returns")
        steps = [
            {"task": "<b>returns", "name": f"s{n} {t}".replace("/", "∕").replace("#", "＃"), "data": {"value": t}}
            for n, t in enumerate(HOSTILE)
        ]
        await app.publish(
            {
                "name": "<b>graph",
                "description": every,
                "steps": steps,
                "input": {
                    "type": "object",
                    "properties": {t: {"type": "string", "title": t, "description": t, "default": t} for t in HOSTILE},
                },
            }
        )
        await app.store.put(
            [Document("workers", f"w{n} {t}", json.dumps(about(t)), 0, app.world.now()) for n, t in enumerate(HOSTILE)]
        )
        await settled(app, "fails", "errored")
        await settled(app, "returns", "complete")
    for text in HOSTILE:
        await served.server.auditor.log("default").add(text, "local", text, text, text, {text: text}, outcome=text)
        await served.http.post("/runs/views", json={"name": text[:60], "query": f"prefix={text}"[:200]})
    browser = await browse(scene)
    page = await browser.open("/")
    shown = {
        "/runs": HOSTILE,
        "/failures": ["<b>fails", "<script>alert(…)</script"],
        "/queues": ["<script>alert(1)<∕script>"],
        "/schedules": ["<script>alert(1)<∕script>"],
        "/definitions": ["<b>fails", HOSTILE[0]],
        "/definitions/%3Cb%3Egraph": HOSTILE[:8],
        "/definitions/%3Cb%3Efails": [],
        "/workers": HOSTILE,
        "/audit": HOSTILE,
        "/runs/fails": HOSTILE,
        "/runs/returns": HOSTILE[:5],
        "/": [],
        "/undos": [],
        "/keys": [],
    }
    shown |= {f"/runs?prefix={quoted(text)}&workflow={quoted(text)}&tag={quoted(text)}": [] for text in HOSTILE[:6]}
    shown |= {f"/runs/{quoted(f'{number}{text}')}": [text] for number, text in enumerate(HOSTILE)}
    shown |= {f"/queues/{quoted(text.replace('/', '∕').replace('#', '＃'))}": [] for text in HOSTILE[:6]}
    shown |= {f"/schedules/{quoted(text.replace('/', '∕').replace('#', '＃')[:100])}": [] for text in HOSTILE[:6]}
    for path, texts in shown.items():
        answer = await page.goto(f"{browser.base}{path}", wait_until="domcontentloaded")
        assert answer.status in (200, 422), (path, answer.status)
        body = await page.evaluate("document.body.textContent")
        for text in texts:
            assert text in body, (path, text)
    await page.goto(f"{browser.base}/runs/fails", wait_until="domcontentloaded")
    await page.evaluate("document.dispatchEvent(new Event('perdure:look'))")
    await page.wait_for_event("requestfinished")
    keys = [await served.server.authenticator.keys.create(text, "admin", ["default"]) for text in HOSTILE]
    for key in keys[:3]:
        await browser.context.set_extra_http_headers({"Authorization": f"Bearer {key.token}"})
        await page.goto(f"{browser.base}/keys", wait_until="domcontentloaded")
        body = await page.evaluate("document.body.textContent")
        assert [text for text in HOSTILE if text not in body] == []
    assert browser.is_clean()


def about(text: str) -> dict[str, Any]:
    given = dict.fromkeys(("id", "host", "python", "perdure"), text)
    numbers = dict.fromkeys(("pid", "started_at", "seen_at", "concurrency", "in_hand", "lag_ms"), 1)
    return {**given, **numbers, "workflows": {text: [text]}, "queues": [text]}


def quoted(text: str) -> str:
    return quote(text, safe="")
