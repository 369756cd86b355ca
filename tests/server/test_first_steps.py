"""What the README says under *First steps*, done by a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.cli.working import wait_for
from tests.server.dashboard.conftest import SHOTS, started_chromium

ROOT = Path(__file__).parents[2]
SECONDS = 30_000.0

pytestmark = pytest.mark.browser


@pytest.fixture
def dashboard(tmp_path):
    """The address that the command of the README says, run as it stands there but for the port and the store."""
    readme = (ROOT / "README.md").read_text()
    (line,) = re.findall(r"^\S*\bperdure (dev \S+)$", readme, re.MULTILINE)
    command = [sys.executable, "-m", "perdure.cli", *line.split(), "--port", "0"]
    environment = {**os.environ, "PERDURE_STORE": f"sqlite:///{tmp_path}/perdure.db", "PYTHONDONTWRITEBYTECODE": "1"}
    said = tmp_path / "log"
    with said.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=subprocess.DEVNULL)

    def serving() -> str | None:
        assert process.poll() is None, said.read_text()
        lines = [json.loads(each) for each in said.read_text().splitlines() if each.endswith("}")]
        found = {each["event"]: each for each in lines}
        return found["serving"]["dashboard"] if "working" in found else None

    yield wait_for(serving)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0, said.read_text()


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    async with started_chromium() as chromium:
        page = await chromium.new_page(viewport={"width": 1280, "height": 900}, locale="en-US")
        page.set_default_timeout(SECONDS)
        yield page


async def test_a_run_is_started_from_its_form_sent_its_event_and_seen_to_complete(dashboard, page):
    expect.set_options(timeout=SECONDS)
    await page.goto(dashboard)
    await page.get_by_role("navigation").get_by_role("link", name="Workflows").click()
    await page.get_by_role("link", name="order", exact=True).click()

    form = page.get_by_role("form", name="Start a run")
    await form.get_by_label("customer").fill("Ada")
    await form.get_by_label("item").select_option(label="cup")
    await form.get_by_label("quantity").fill("2")
    await form.get_by_role("button", name="Start", exact=True).click()

    await page.wait_for_url("**/runs/*")
    await expect(page.locator("#why")).to_contain_text("waits for an event of type 'payment'")
    await expect(page.locator("#timeline")).to_contain_text("reserve ×2")
    event = page.get_by_role("form", name="Send an event")
    await expect(event.get_by_label("Type")).to_have_value("payment")
    await event.get_by_label("Payload").fill('{"by": "card"}')
    await event.get_by_role("button", name="Send").click()

    await expect(page.locator("#run-head")).to_contain_text("complete")
    await expect(page.locator("#output-card")).to_contain_text("2 x cup, shelf 7, on its way to Ada")
    await expect(page.locator("#output-card")).to_contain_text("2500")
    SHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SHOTS / "first-steps.png", full_page=True)
