"""A store in which something of everything has happened, and whoever looks at it: by role, or with a browser."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser as Chromium
from playwright.async_api import BrowserContext, Page, async_playwright

from perdure import Perdure, Retry, flow
from perdure.core.wait import decode_waits
from tests.server.conftest import Serve, Served, memory, servers

SHOTS = Path(__file__).parent / "shots"
"""Where screenshots are left to look at; git leaves them alone."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# What somebody could put wherever a text is taken. Each shows itself by an alert, a request, or a change of the page.
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "'-alert(4)-'",
    "javascript:alert(5)",
    "</pre><iframe srcdoc='<script>parent.alert(6)</script>'>",
    "{{ 7*7 }}{% raw %}",
    '<a href="javascript:alert(8)">x</a>',
    "&lt;b&gt;&#60;",
    "</textarea></title></style></script><script>alert(10)</script>",
    '<math><mi xlink:href="data:x,<script>alert(11)</script>">',
    "“><ScRiPt >alert(12)//<",
    "` onmouseover=alert(13) x=`",
    "--><!--><script>alert(14)</script>",
    "<details open ontoggle=alert(15)>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form><button formaction=javascript:alert(18)>x",
    "<style>*{display:none}</style>",
    "<x style=position:fixed;inset:0;background:red>",
]


@dataclass
class Scene:
    """A server with a worker on a store in which something of everything has happened."""

    served: Served
    worker: Perdure

    async def key(self, role: str, **about: Any) -> dict[str, str]:
        """Headers of somebody of a role."""
        made = await self.served.server.authenticator.keys.create(about.get("name", role), role, ["default"])
        return {"Authorization": f"Bearer {made.token}", "Accept": "text/html"}

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Any:
        return await self.served.http.get(path, headers=headers or {"Accept": "text/html"})


def a_shop() -> Perdure:
    """Workflows of each kind, on a store of their own."""
    app = Perdure(memory(), hold=0.0)

    @app.step(retry=Retry(attempts=3, delay="10ms"))
    async def charge(cents: int) -> dict[str, Any]:
        if charge.calls == 0:
            charge.calls += 1
            raise ConnectionError("the bank said 503")
        return {"id": "ch_1", "cents": cents, "card_number": "4242-4242"}

    charge.calls = 0

    @app.step
    async def mail(to: str) -> str:
        return f"sent to {to}"

    @app.workflow
    async def tell(to: str) -> str:
        return await mail(to)

    @app.workflow
    async def order(customer: str, cents: int = 1_000, note: str | None = None) -> dict[str, Any]:
        """Takes an order from the price to the thank-you mail."""
        flow.set("stage", "charging")
        charged = await charge(cents)
        await tell(customer)
        approved = await flow.wait_for_event("approval", type="approved", timeout="2 days")
        return {"charged": charged, "by": approved["by"]}

    @app.workflow
    async def broken(number: int) -> None:
        raise ValueError(f"order {number} has no items")

    @app.step(retry=Retry(attempts=1))
    def keep() -> None:
        raise RuntimeError("it cannot be undone")

    @app.step(undo=keep, retry=Retry(attempts=1))
    async def book() -> int:
        return 1

    @app.workflow
    async def trip() -> None:
        await book()
        raise ValueError("no seat")

    @app.task
    async def fetch(data: dict[str, Any]) -> dict[str, Any]:
        return {"rows": 3}

    @app.task(queue="post")
    async def letter(to: str) -> None: ...

    @app.schedule(cron="0 3 * * *")
    @app.workflow
    async def nightly() -> None: ...

    return app


ETL = {
    "name": "etl",
    "description": "Reads, works and stores.",
    "input": {
        "type": "object",
        "properties": {"day": {"type": "string", "description": "Of what."}},
        "required": ["day"],
    },
    "steps": [
        {"task": "fetch", "name": "read", "after": []},
        {"task": "fetch", "name": "clean", "after": ["read"]},
        {"task": "fetch", "name": "enrich", "after": ["read"]},
        {"task": "fetch", "name": "store", "after": ["clean", "enrich"]},
    ],
}


async def settled(app: Perdure, run_id: str, *states: str) -> None:
    """Wait until a run is in one of these states."""
    for _ in range(1_000):
        if (await app.client.get(run_id)).status.value in states:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{run_id} is {(await app.client.get(run_id)).status}, not {states}")


async def waits_for_event(app: Perdure, run_id: str) -> None:
    for _ in range(1_000):
        if any(wait.kind == "event" for wait in decode_waits((await app.client.get(run_id)).wait).waits):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{run_id} waits for no event")


async def play(app: Perdure) -> None:
    """Have something of everything happen."""
    workflows = app.registry.workflows
    await app.publish(ETL)
    await app.start(workflows["order"], "ada", id="order-1", tags={"team": "blue"})
    await app.start("etl", input={"day": "monday"}, id="etl/1 %")
    for number in range(3):
        await app.start(workflows["broken"], number, id=f"broken-{number}")
    await app.start(workflows["trip"], id="trip-1")
    await app.enqueue(workflows["letter"], "bob")
    await app.queue("post").pause()
    await waits_for_event(app, "order-1")
    await settled(app, "etl/1 %", "complete")
    await settled(app, "broken-2", "errored")
    await settled(app, "trip-1", "compensation_failed")


@pytest_asyncio.fixture
async def scene(serve: Serve) -> Scene:
    app = a_shop()
    served = await serve(app, redact=("card_number",))
    await play(app)
    return Scene(served, app)


# What a browser looks at lives on the event loop of the whole session, as the browser itself does.


@pytest_asyncio.fixture(loop_scope="session")
async def live_serving() -> AsyncIterator[Serve]:
    """See `serving`."""
    async with servers() as serving:
        yield serving


@pytest_asyncio.fixture(loop_scope="session")
async def live_scene(live_serving: Serve) -> Scene:
    """The same on a port of this machine, for a browser."""
    app = a_shop()
    served = await live_serving(app, redact=("card_number",))
    await play(app)
    return Scene(served, app)


@dataclass
class Browser:
    """A browser that takes down what no page may do."""

    context: BrowserContext
    base: str
    dialogs: list[str]
    violations: list[str]
    errors: list[str]

    async def open(self, path: str) -> Page:
        page = await self.context.new_page()
        await page.goto(f"{self.base}{path}")
        return page

    def is_clean(self) -> bool:
        assert self.dialogs == []
        assert self.violations == []
        assert self.errors == []
        return True


Browse = Callable[..., Awaitable[Browser]]


@asynccontextmanager
async def started_chromium() -> AsyncIterator[Chromium]:
    """A headless Chromium; where there is none the test is skipped, or fails if the environment asks for one."""
    if CHROMIUM is None:
        if os.environ.get("PERDURE_TEST_BROWSER") == "1":
            pytest.fail("PERDURE_TEST_BROWSER=1 asks for Chromium, and there is none")
        pytest.skip("there is no Chromium here")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Chromium]:
    """The one of all tests."""
    async with started_chromium() as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="session")
async def browse(chromium: Chromium) -> AsyncIterator[Browse]:
    """`await browse(scene, **options)`: a browser without a memory of others, at a server."""
    async with AsyncExitStack() as stack:

        async def browse(scene: Scene, **options: Any) -> Browser:
            given = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **options}
            context = await chromium.new_context(**given)
            stack.push_async_callback(context.close)
            browser = Browser(context, str(scene.served.http.base_url), [], [], [])
            await context.expose_function("violated", lambda told: browser.violations.append(told))
            await context.add_init_script(
                "document.addEventListener('securitypolicyviolation',"
                " (event) => window.violated(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`))"
            )

            async def dismiss(dialog: Any) -> None:
                browser.dialogs.append(dialog.message)
                await dialog.dismiss()

            context.on("dialog", dismiss)
            context.on("weberror", lambda error: browser.errors.append(str(error.error)))
            return browser

        yield browse
