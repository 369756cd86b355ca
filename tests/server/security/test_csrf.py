"""What pages of others could have a browser send: refused, whichever way they try."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from perdure.server.access import PUBLIC
from tests.server.conftest import Serve
from tests.server.security.conftest import PAGE

PAUSE = "/api/v1/runs/order-1/pause"
FORM = "application/x-www-form-urlencoded"

ATTEMPTS = {
    "a form": {"Content-Type": FORM, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "a form as text": {"Content-Type": "text/plain", "Origin": "https://evil.example"},
    "a form without an origin": {"Content-Type": FORM, "Origin": None, "Sec-Fetch-Site": "cross-site"},
    "a sandboxed frame": {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    "a fetch": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "another port": {"Origin": "http://localhost:9000", "Sec-Fetch-Site": "same-site"},
    "a name that begins alike": {"Origin": "http://localhost:8000.evil.example"},
    "a name that ends alike": {"Origin": "http://evil-localhost:8000"},
    "a user in the origin": {"Origin": "http://localhost:8000@evil.example"},
    "two origins": {"Origin": "http://localhost:8000 https://evil.example"},
    "a path in the origin": {"Origin": "http://localhost:8000/x"},
    "another scheme": {"Origin": "file://localhost:8000"},
    "nothing to tell it by": {"Origin": None, "Sec-Fetch-Site": None},
    "a form of our origin": {"Content-Type": FORM},
    "no type": {"Content-Type": None},
    "no token": {"Perdure-CSRF": None},
    "an empty token": {"Perdure-CSRF": ""},
    "another's token": {"Perdure-CSRF": "0" * 64},
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_a_session_is_not_believed(keyed, attempt):
    browser = await (await keyed()).log_in()
    answer = await browser.ask("POST", PAUSE, {"Content-Type": "application/json", **ATTEMPTS[attempt]}, content=b"{}")
    assert answer.status_code == 403, answer.text
    assert answer.json()["type"] == "urn:perdure:error:cross-site-request-refused"


async def test_a_page_of_ours_is_believed(keyed):
    browser = await (await keyed()).log_in()
    assert (await browser.ask("POST", PAUSE, json={})).status_code == 404
    assert (await browser.ask("POST", PAUSE, {"Sec-Fetch-Site": None}, json={})).status_code == 404
    assert (await browser.ask("POST", PAUSE, {"Origin": None}, json={})).status_code == 404


async def test_every_route_that_changes_something_asks_for_it(keyed):
    keyed = await keyed()
    browser = await keyed.log_in("admin")
    routes = [route for route in keyed.served.asgi.routes if isinstance(route, APIRoute)]
    changing = [
        (method, route.path)
        for route in routes
        for method in route.methods - {"GET", "HEAD", "OPTIONS"}
        if route.path not in PUBLIC
    ]
    assert len(changing) > 10
    for method, path in changing:
        answer = await browser.ask(method, path.replace("{", "").replace("}", ""), {"Perdure-CSRF": None}, json={})
        assert answer.status_code == 403, f"{method} {path}"


async def test_a_login_from_elsewhere_is_refused(keyed):
    keyed = await keyed()
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {}):
        answer = await keyed.http.post("/login", json={"key": keyed.keys["admin"].token}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


async def test_pages_of_others_read_nothing_either(keyed):
    browser = await (await keyed()).log_in()
    for headers in (
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": None, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Origin": None, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ):
        for path in ("/api/v1/runs", "/api/v1/watch"):
            assert (await browser.ask("GET", path, headers)).status_code == 403
    visit = {"Origin": None, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await browser.ask("GET", "/runs", visit)).status_code == 200
    for path in ("/api/v1/runs", "/tasks/sample-flow"):
        assert (await browser.ask("GET", path, visit)).status_code == 403


async def test_a_key_needs_none_of_it(keyed):
    keyed = await keyed()
    assert (await keyed.ask("operator", "POST", PAUSE, {"Origin": "https://evil.example"}, json={})).status_code == 404


async def test_there_are_no_web_sockets(serving: Serve):
    served = await serving()
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Origin": "https://evil.example",
    }
    assert (await served.http.get("/api/v1/watch", headers=upgrade)).status_code in (400, 403, 404)


class TestWithoutKeys:
    """Everybody on this machine is admin, and so are the pages that its browser shows: all the more is refused."""

    async def test_programs_of_this_machine_may(self, serve: Serve):
        served = await serve()
        assert (await served.http.get("/api/v1/session")).json()["kind"] == "local"
        assert (await served.http.post(PAUSE, json={})).status_code == 404

    @pytest.mark.parametrize("attempt", [name for name in ATTEMPTS if name != "nothing to tell it by"])
    async def test_pages_of_others_may_not(self, serve: Serve, attempt):
        served = await serve()
        csrf = served.server.authenticator._local.csrf
        headers = {**PAGE, "Perdure-CSRF": csrf, "Content-Type": "application/json", **ATTEMPTS[attempt]}
        given = {name: value for name, value in headers.items() if value is not None}
        assert (await served.http.post(PAUSE, content=b"{}", headers=given)).status_code == 403

    async def test_pages_of_ours_may(self, serve: Serve):
        served = await serve()
        csrf = served.server.authenticator._local.csrf
        assert (await served.http.post(PAUSE, json={}, headers={**PAGE, "Perdure-CSRF": csrf})).status_code == 404

    @pytest.mark.parametrize(
        "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "", "a b"]
    )
    async def test_names_of_others_are_refused(self, serve: Serve, host):
        """A page whose name was made to lead to this machine (DNS rebinding)."""
        served = await serve()
        answer = await served.http.get("/api/v1/session", headers={"Host": host})
        assert answer.status_code == 421

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "127.8.8.8"])
    async def test_names_of_this_machine_are_not(self, serve: Serve, host):
        served = await serve()
        assert (await served.http.get("/api/v1/session", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
    async def test_a_proxy_is_not_this_machine(self, serve: Serve, name):
        served = await serve()
        answer = await served.http.get("/api/v1/session", headers={name: "127.0.0.1"})
        assert answer.status_code == 403

    async def test_once_there_is_a_key_nobody_is_local(self, serve: Serve):
        served = await serve()
        assert (await served.http.get("/api/v1/session")).status_code == 200
        keys = served.server.authenticator.keys
        made = await keys.create("ada", "admin", ["default"])
        served.app.world.ahead += 2_000
        assert (await served.http.get("/api/v1/session")).status_code == 401
        await keys.revoke(made.key.id)
        served.app.world.ahead += 5_000
        assert (await served.http.get("/api/v1/session")).status_code == 401
