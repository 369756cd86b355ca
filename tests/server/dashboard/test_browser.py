"""The dashboard in a browser: what somebody does, by mouse or keyboard."""

from __future__ import annotations

import json

import pytest

from perdure import Perdure, Rate, RunNotFoundError, serve
from perdure.server.dashboard.pages import definitions
from tests.serve.conftest import listening
from tests.server.dashboard.conftest import ETL

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


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


async def test_an_input_that_the_workflow_does_not_take_is_told_before_there_is_a_run(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/definitions/order")
    await page.get_by_text("Give the input as JSON").click()
    await page.locator("#raw").fill('{"customer": "ada", "cents": "x"}')
    await page.get_by_role("button", name="Start", exact=True).click()
    message = page.locator("form .message", has_text="body.input.cents")
    await message.wait_for()
    assert await message.inner_text() == "body.input.cents: 'x' must be of type integer"
    assert await page.get_by_label("cents").get_attribute("aria-invalid") == "true"
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
    page = await browser.open("/runs?workflow=letter&prefix=nobody")
    await page.get_by_text("No runs here").wait_for()
    assert not await page.get_by_role("button", name="Terminate").is_visible()
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


async def test_a_rate_that_is_set_is_kept_or_taken_away(live_scene, browse):
    queue = live_scene.served.app.queue("post")
    await queue.set_limits(rate=Rate.of(100, "1 day"))
    browser = await browse(live_scene)
    page = await browser.open("/queues/post")
    await page.get_by_label("Runs at once").fill("3")
    await page.get_by_role("button", name="Set limits").click()
    await page.get_by_text("The limits are set").wait_for()
    limits = await queue.limits()
    assert (limits.concurrency, limits.rate) == (3, Rate.of(100, "1 day"))
    await page.reload()
    await page.get_by_label("Begun per period").fill("")
    await page.get_by_role("button", name="Set limits").click()
    await page.get_by_text("The limits are set").wait_for()
    limits = await queue.limits()
    assert (limits.concurrency, limits.rate) == (3, None)
    assert browser.is_clean()


async def test_dead_letters_are_tried_again_and_discarded(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/queues/default")
    dead = page.locator("#dead")
    row = dead.get_by_role("row").filter(has_text="broken-1")
    await row.get_by_role("button", name="Discard").click()
    await page.get_by_label("Reason").last.fill("it was a test")
    await page.get_by_role("button", name="Confirm").click()
    await row.wait_for(state="detached")
    assert await dead.get_by_role("row").filter(has_text="broken-2").count() == 1
    await dead.get_by_role("button", name="Retry all").click()
    await page.get_by_role("button", name="Confirm").click()
    await page.goto(f"{browser.base}/runs/broken-2")
    await page.locator("#run-head .s-errored").wait_for()
    assert (await live_scene.worker.run("broken-2").get()).incarnation == 1
    with pytest.raises(RunNotFoundError):
        await live_scene.worker.run("broken-1").get()
    assert browser.is_clean()


async def test_a_schedule_is_paused_started_made_up_for_and_removed(live_scene, browse):
    browser = await browse(live_scene)
    page = await browser.open("/schedules/nightly")

    async def press(name: str) -> None:
        await page.get_by_role("button", name=name, exact=True).click()
        await page.get_by_role("button", name="Confirm").click()

    await press("Pause")
    await page.get_by_role("button", name="Resume").wait_for()
    await press("Start now")
    await page.get_by_label("From").fill("2026-01-01T00:00")
    await page.get_by_label("Until").fill("2026-01-03T12:00")
    await page.get_by_role("button", name="Backfill").click()
    await page.get_by_text("The fires of that time were started").wait_for()
    started = (await live_scene.worker.runs(tags={"schedule": "nightly"})).runs
    assert len({run.id for run in started if run.workflow == "nightly"}) >= 3
    await press("Delete")
    await page.wait_for_url("**/schedules")
    await page.get_by_role("link", name="nightly").wait_for(state="detached")
    assert browser.is_clean()


async def test_what_a_page_shows_is_copied(live_scene, browse):
    browser = await browse(live_scene, permissions=["clipboard-read", "clipboard-write"])
    page = await browser.open("/runs/broken-1")
    await page.get_by_role("region", name="Input").get_by_role("button").first.click()
    await page.get_by_text("Copied").wait_for()
    assert json.loads(await page.evaluate("navigator.clipboard.readText()")) == {"number": 1}
    assert browser.is_clean()


async def test_an_endpoint_is_added_asked_again_and_removed(live_scene, browse):
    browser = await browse(live_scene)
    app = Perdure(browser.base, mode="serve")

    @app.workflow
    async def served_elsewhere() -> None: ...

    signing = (await live_scene.served.server.dispatchers["default"].keys()).signing
    page = await browser.open("/endpoints")
    await page.get_by_label("Where it is").fill("http://127.0.0.1:9/")
    await page.get_by_role("button", name="Add").click()
    await page.locator("form .message", has_text="127.0.0.1:9").wait_for()
    async with listening(serve.asgi(app, keys=(signing.current, signing.next))) as url:
        await page.get_by_label("Where it is").fill(url)
        await page.get_by_role("button", name="Add").click()
        await page.get_by_role("link", name="served_elsewhere").wait_for()
        await page.get_by_role("button", name="Ask again").click()
        await page.get_by_role("button", name="Confirm").click()
        await page.get_by_text("no failure").wait_for()
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("button", name="Confirm").click()
        await page.get_by_text("No endpoints").wait_for()
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
