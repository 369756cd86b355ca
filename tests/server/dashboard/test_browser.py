"""The dashboard in a browser: what somebody sees, does by mouse or keyboard, and what nobody can make it do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure import Perdure, Retry
from perdure.model.decision import RunFilter, RunPage
from perdure.model.document import Document
from perdure.server.dashboard.pages import definitions
from perdure.store.finding import matches
from perdure.store.memory import MemoryStore
from tests.server.conftest import memory
from tests.server.dashboard.conftest import ETL, HOSTILE, SHOTS, Scene, settled
from tests.server.dashboard.test_pages import FOR_ADMINS, FOR_OPERATORS, PAGES

pytestmark = pytest.mark.browser

SOME = ["/", "/runs", "/runs/order-1", "/runs/etl%2F1%20%25", "/queues", "/definitions/order"]
EVERY = [*PAGES, *FOR_OPERATORS, *FOR_ADMINS, "/login"]


UNNAMED = """() => {
  const told = (each) => each.outerHTML.slice(0, 120);
  const isNamed = (each) => each.labels?.length || each.ariaLabel || each.textContent.trim();
  const fields = [...document.querySelectorAll("input:not([type=hidden], [hidden]), select, textarea, button, a")];
  const heads = document.querySelectorAll("h1").length === 1 ? [] : ["not one h1"];
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  const twice = ids.filter((id, at) => ids.indexOf(id) !== at);
  return [...fields.filter((each) => !isNamed(each)).map(told), ...heads, ...twice];
}"""
"""What a screen reader could not tell: fields, buttons and links without a name, and ids that are there twice."""


def named(path: str) -> str:
    return path.strip("/").replace("/", "-").replace("%", "").replace("?", "-") or "overview"


async def test_every_page_keeps_the_policy_and_fits_a_phone(live_scene, browse):
    SHOTS.mkdir(exist_ok=True)
    looks = {
        "light": ({"color_scheme": "light"}, EVERY),
        "dark": ({"color_scheme": "dark"}, SOME),
        "phone": ({"viewport": {"width": 360, "height": 740}, "is_mobile": True}, EVERY),
    }
    for look, (options, paths) in looks.items():
        browser = await browse(live_scene, **options)
        page = await browser.open("/")
        for path in paths:
            await page.goto(f"{browser.base}{path}", wait_until="domcontentloaded")
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert await page.evaluate(UNNAMED) == [], path
            assert wide <= options.get("viewport", {"width": 1280})["width"], (look, path, wide)
            if path in SOME or look == "light":
                await page.screenshot(
                    path=SHOTS / f"{named(path)}-{look}.png", full_page=look != "phone" and path in SOME
                )
        assert browser.is_clean()


async def test_a_run_is_started_from_the_form_and_followed_to_its_end_without_a_reload(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/definitions/order")
    await page.get_by_label("customer").fill("grace")
    await page.get_by_label("cents").fill("250")
    await page.get_by_role("button", name="Start", exact=True).click()
    await page.wait_for_url("**/runs/*")
    await page.locator("#why", has_text="waits for an event of type 'approved'").wait_for()
    await page.evaluate("window.isTheSamePage = true")
    await page.get_by_label("Payload").fill('{"by": "ada"}')
    await page.get_by_role("button", name="Send").click()
    await page.locator("#run-head .s-complete").wait_for()
    await page.locator("#output-card", has_text='"cents": 250').wait_for()
    assert await page.locator("#timeline .b-ok").count() >= 1
    assert await page.evaluate("window.isTheSamePage") is True
    assert browser.is_clean()


async def test_a_wrong_input_is_told_at_its_field(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/definitions/etl")
    start = page.get_by_role("button", name="Start", exact=True)
    await start.click()
    assert await page.evaluate("document.activeElement.id") == "input-day", "the browser asks for what is needed"
    await page.get_by_label("day").fill("monday")
    await page.get_by_text("Options").click()
    await page.get_by_label("Delay").fill("a while")
    await start.click()
    await page.locator("form .message", has_text="body.delay").wait_for()
    assert await page.get_by_label("Delay").get_attribute("aria-invalid") == "true"
    await page.get_by_label("Delay").fill("")
    await page.get_by_text("Give the input as JSON").click()
    await page.locator("#raw").fill("{no json")
    await start.click()
    await page.get_by_text("this is no JSON").wait_for()
    assert await page.locator("#raw").get_attribute("aria-invalid") == "true"
    await page.locator("#raw").fill('{"day": 5}')
    await start.click()
    await page.locator("form .message", has_text="day").wait_for()
    assert page.url.endswith("/definitions/etl")
    assert browser.is_clean()


async def test_a_run_is_terminated_with_a_reason_by_keyboard_alone(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/runs/order-1")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent") == "Terminate":
            break
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "what has the focus is seen"
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for()
    assert await page.evaluate("document.activeElement.id") == "confirm-reason"
    await page.keyboard.press("Escape")
    assert not await page.get_by_role("dialog").is_visible()
    await page.keyboard.press("Enter")
    await page.keyboard.type("the customer called")
    await page.keyboard.press("Control+Enter")
    await page.locator("#run-head .s-terminated").wait_for()
    await page.goto(f"{browser.base}/audit")
    row = page.get_by_role("row").filter(has_text="runs.terminate")
    assert "the customer called" in await row.inner_text()
    assert browser.is_clean()


async def test_what_is_refused_is_told_in_the_dialog(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/runs/order-1")
    await page.get_by_role("button", name="Pause").click()
    await live_scene.worker.run("order-1").terminate()
    await page.get_by_role("button", name="Confirm").click()
    await page.locator("#confirm-error", has_text="order-1").wait_for()


async def test_many_runs_are_moved_at_once(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/runs?workflow=letter")
    await live_scene.worker.start_many(live_scene.worker.registry.workflows["letter"], [("a",), ("b",)], queue="post")
    await page.locator("#runs tbody tr").nth(2).wait_for()
    await page.get_by_role("button", name="Terminate").click()
    await page.get_by_text("Terminate 3 runs?").wait_for()
    await page.get_by_role("button", name="Confirm").click()
    await page.locator("#runs .s-terminated").nth(2).wait_for()
    await page.get_by_label("Select all on this page").check()
    assert await page.locator("[data-bulk-count]").inner_text() == "3 selected"
    await page.get_by_role("button", name="Restart").click()
    await page.get_by_role("button", name="Confirm").click()
    await page.locator("#runs .s-queued").nth(2).wait_for()
    assert browser.is_clean()


async def test_a_queue_is_resumed_and_limited(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/queues/post")
    await page.get_by_label("Runs at once").fill("3")
    await page.get_by_role("button", name="Set limits").click()
    await page.get_by_text("The limits are set").wait_for()
    limits = await live_scene.served.app.queue("post").limits()
    assert (limits.concurrency, limits.rate) == (3, None)
    await page.get_by_role("button", name="Resume").click()
    await page.get_by_role("button", name="Confirm").click()
    await page.get_by_role("button", name="Pause").wait_for()
    assert browser.is_clean()


async def test_a_definition_is_checked_and_published(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/definitions")
    await page.get_by_label("A workflow as data").fill(json.dumps({"name": "more", "steps": [{"task": "gone"}]}))
    await page.get_by_role("button", name="Check").click()
    await page.locator("form .message", has_text="gone").wait_for()
    await page.get_by_label("A workflow as data").fill(json.dumps({**ETL, "name": "more"}))
    await page.get_by_role("button", name="Publish").click()
    await page.get_by_role("link", name="more", exact=True).wait_for()
    await page.get_by_label("A workflow as data").fill("name: [")
    await page.get_by_role("button", name="Publish").click()
    await page.locator("form .message", has_text="the definition cannot be read").wait_for()
    await page.get_by_label("A workflow as data").fill("name: other\nsteps:\n  - task: fetch\n")
    await page.get_by_role("textbox", name="Reason").fill("the new shop")
    await page.get_by_role("button", name="Publish").click()
    await page.get_by_role("link", name="other", exact=True).wait_for()
    await page.goto(f"{browser.base}/audit")
    assert "the new shop" in await page.get_by_role("row").filter(has_text="other").inner_text()
    assert browser.is_clean()


async def test_what_a_worker_announces_later_comes_by_itself(live_scene, browse, monkeypatch):
    monkeypatch.setattr(definitions, "ANNOUNCED_EVERY", 1)
    browser = await browse(live_scene)
    page = await browser.open("/definitions")
    for _ in range(3):
        await page.wait_for_event("requestfinished", timeout=9_000)
    later = Perdure(live_scene.worker.url, hold=0.0)

    @later.task
    async def latecomer() -> None: ...

    async with later:
        await page.get_by_role("link", name="latecomer", exact=True).wait_for()
    assert browser.is_clean()


async def test_a_view_is_saved_and_the_colours_are_switched(live_scene, browse):
    browser = await browse(live_scene, color_scheme="light")
    page = await browser.open("/runs?status=errored")
    await page.get_by_text("Views", exact=True).click()
    await page.get_by_label("Name of the view").fill("What failed")
    await page.get_by_role("button", name="Save this").click()
    await page.get_by_text("Views (1)").click()
    assert await page.get_by_role("link", name="What failed").get_attribute("href") == "/runs?status=errored"
    await page.get_by_label("Light or dark").click()
    await page.reload()
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 21)"


async def test_somebody_logs_in_and_out(live_scene, browse):
    made = await live_scene.served.server.authenticator.keys.create("ada", "operator", ["default"])
    browser = await browse(live_scene)
    page = await browser.open("/runs")
    assert page.url.endswith("/login")
    await page.get_by_label("API key").fill("pdk_wrong")
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_text("this is no API key").wait_for()
    await page.get_by_label("API key").fill(made.token)
    await page.keyboard.press("Enter")
    await page.get_by_text("ada · operator").wait_for()
    await page.get_by_role("link", name="Runs", exact=True).click()
    await page.get_by_role("link", name="order-1", exact=True).click()
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_role("button", name="Confirm").click()
    await page.locator("#run-head .s-paused").wait_for()
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login")
    await page.goto(f"{browser.base}/runs")
    assert page.url.endswith("/login")
    assert browser.dialogs == browser.violations == []


async def test_a_key_is_made_and_shown_once(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/keys")
    await page.get_by_label("Name", exact=True).fill("for the nightly import")
    await page.get_by_role("button", name="Make").click()
    shown = page.locator("#confirm-result")
    await shown.wait_for()
    assert (await shown.inner_text()).startswith("pdk_")


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
        await app.schedules.create(name[:100], "<b>returns", input={text: text}, cron="0 0 1 1 *", paused=True)
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
        from perdure import flow

        for number, text in enumerate(HOSTILE):
            flow.set(f"state-{number}", {text: text})
        return {value: value}

    fails.__doc__ = every
    return app


async def test_nothing_that_anybody_wrote_becomes_anything_but_text(serving, browse):
    worker = a_hostile_app()
    served = await serving(worker)
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
    from urllib.parse import quote

    return quote(text, safe="")


async def test_where_few_of_many_runs_are_meant_it_is_looked_further_by_itself(live_scene, browse, monkeypatch):
    whole = MemoryStore.find

    async def two_at_once(self: MemoryStore, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        found = await whole(self, RunFilter(), 2, cursor)
        return RunPage([run for run in found.runs if matches(run, where)], found.cursor)

    monkeypatch.setattr(MemoryStore, "find", two_at_once)
    browser = await browse(live_scene)
    page = await browser.open("/runs?workflow=order")
    await page.locator("[data-further]").wait_for(state="detached")
    ids = await page.locator("td[data-label=Run] a").all_text_contents()
    assert "order-1" in " ".join(ids)
    assert len(ids) == len(set(ids))
    page = await browser.open("/runs?workflow=nobody")
    await page.get_by_text("No run is like that.").wait_for()
    assert browser.is_clean()
