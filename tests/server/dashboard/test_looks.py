"""How the dashboard's pages look in a browser, wide and narrow, light and dark, and what of them moves by itself."""

from __future__ import annotations

import pytest

from perdure.model.decision import RunFilter, RunPage
from perdure.store.finding import matches
from perdure.store.memory import MemoryStore
from tests.server.dashboard.conftest import SHOTS
from tests.server.dashboard.test_pages import FOR_ADMINS, FOR_OPERATORS, PAGES

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

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
