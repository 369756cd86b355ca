"""The blocks of docs/serve.md that say in what an endpoint is mounted: each is served as it stands there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest

from perdure import Perdure
from perdure.model.errors import UsageError
from tests.serve.conftest import listening
from tests.server.conftest import memory

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serve.md").read_text()
WITHIN = 15


def block(heading: str) -> str:
    """The first Python block under a heading."""
    _, _, text = PAGE.partition(f"# {heading}\n")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found, heading
    return found.group(1)


@pytest.fixture
async def served(serving, monkeypatch, tmp_path):
    """A server, and beside it the page's application as the module `shop.workflows`."""
    server = await serving(None, store=memory())
    dispatcher = server.server.dispatchers["default"]
    keys = (await dispatcher.keys()).signing
    monkeypatch.setenv("PERDURE_SIGNING_KEY", keys.current)
    monkeypatch.setenv("PERDURE_NEXT_SIGNING_KEY", keys.next)
    monkeypatch.syspath_prepend(tmp_path)
    url = str(server.http.base_url).rstrip("/")
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "__init__.py").touch()
    (shop / "workflows.py").write_text(block("An endpoint").replace("https://perdure.example.com", url))
    (shop / "settings.py").write_text("SECRET_KEY = 'x'\nROOT_URLCONF = 'shop.urls'\nALLOWED_HOSTS = ['*']\n")
    (shop / "urls.py").write_text(
        "from django.http import HttpResponse\nfrom django.urls import path\n\n"
        "urlpatterns = [path('hello', lambda request: HttpResponse('hello'))]\n"
    )
    yield server
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


async def works(served, url):
    """Add the endpoint of a mounted application, and have it work a run."""
    dispatcher = served.server.dispatchers["default"]
    await dispatcher.add(f"{url}workflows/")
    async with Perdure(str(served.http.base_url).rstrip("/")) as client:
        run = await client.start("checkout", input={"order": "tea"})
        assert await run.result(timeout=WITHIN) == "charged: tea"
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{url}workflows/")).status_code == 401
        return (await http.get(f"{url}hello")).text


def made(heading):
    scope = {"__name__": "shop.made"}
    exec(compile(block(heading), heading, "exec"), scope)
    return scope


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.asynccontextmanager
async def wsgi_listening(application):
    server = make_server("127.0.0.1", 0, application, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("heading", "name"), [("FastAPI", "api"), ("Starlette", "api"), ("Django, asgi.py", "application")]
)
async def test_asgi(served, heading, name):
    scope = made(heading)
    async with listening(scope[name]) as url:
        said = await works(served, url)
        if heading == "FastAPI":
            with pytest.raises(UsageError, match=f"it is at {url}workflows/: give that"):
                await served.server.dispatchers["default"].add(f"{url}workflows")
    assert said == "hello" if "Django" in heading else '"detail"' in said or said == "Not Found"
    assert scope["workflows"].serving._is_closed  # with what it is mounted in


@pytest.mark.parametrize(("heading", "name"), [("Flask", "site"), ("Django, wsgi.py", "application")])
async def test_wsgi(served, heading, name):
    scope = made(heading)
    try:
        async with wsgi_listening(scope[name]) as url:
            said = await works(served, url)
    finally:
        await asyncio.to_thread(scope["workflows"].close)
    assert said == "hello"
