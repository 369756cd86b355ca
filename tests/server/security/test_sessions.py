from __future__ import annotations

import pytest

from tests.server.security.conftest import PAGE


async def test_a_login_makes_a_session_that_pages_can_use(keyed):
    browser = await (await keyed()).log_in("operator")
    answer = await browser.ask("GET", "/api/v1/session")
    assert answer.json() == {
        "name": "operator",
        "kind": "session",
        "role": "operator",
        "namespaces": ["default"],
        "namespace": "default",
    }


@pytest.mark.parametrize(
    ("url", "name", "is_secure"),
    [
        ("http://localhost:8000", "perdure", False),
        ("https://localhost:8000", "__Host-perdure", True),
        ("http://shop.example", "__Host-perdure", True),
    ],
)
async def test_the_cookie_has_all_its_flags(keyed, url, name, is_secure):
    keyed = await keyed()
    host = url.partition("://")[2]
    answer = await keyed.http.post(
        f"{url}/login",
        json={"key": keyed.keys["viewer"].token},
        headers={"Origin": f"{'https' if is_secure else 'http'}://{host}", "Sec-Fetch-Site": "same-origin"},
    )
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{name}=")
    flags = set(cookie.split("; ")[1:])
    assert flags == {"Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"} | ({"Secure"} if is_secure else set())


async def test_each_login_is_a_new_session_and_ends_the_one_before(keyed):
    keyed = await keyed()
    first = await keyed.log_in()
    answer = await keyed.http.post(
        "/login", json={"key": keyed.keys["operator"].token}, headers={**PAGE, "Cookie": f"perdure={first.token}"}
    )
    token = answer.cookies["perdure"]
    keyed.http.cookies.clear()
    assert token != first.token
    assert (await first.ask("GET", "/api/v1/session")).status_code == 401


async def test_a_session_that_somebody_made_up_is_none(keyed):
    keyed = await keyed()
    for token in ("", "x", "0" * 64, "0" * 10_000):
        answer = await keyed.http.get("/api/v1/session", headers={"Cookie": f"perdure={token}"})
        assert answer.status_code == 401
    browser = await keyed.log_in()
    for cookie in (f"perdure={browser.token}; perdure={browser.token}", f"__Host-perdure={browser.token}"):
        assert (await browser.ask("GET", "/api/v1/session", {"Cookie": cookie})).status_code == 401


async def test_a_session_ends_when_nobody_uses_it(keyed):
    keyed = await keyed()
    browser = await keyed.log_in()
    for _ in range(3):
        keyed.advance(50 * 60)
        assert (await browser.ask("GET", "/api/v1/session")).status_code == 200
    keyed.advance(60 * 60)
    assert (await browser.ask("GET", "/api/v1/session")).status_code == 401


async def test_a_session_ends_in_the_end(keyed):
    keyed = await keyed()
    browser = await keyed.log_in()
    for _ in range(23):
        keyed.advance(30 * 60)
        assert (await browser.ask("GET", "/api/v1/session")).status_code == 200
    keyed.advance(31 * 60)
    assert (await browser.ask("GET", "/api/v1/session")).status_code == 401


async def test_logging_out_ends_it(keyed):
    browser = await (await keyed()).log_in()
    answer = await browser.ask("POST", "/logout", json={})
    assert answer.status_code == 200
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert (await browser.ask("GET", "/api/v1/session")).status_code == 401


async def test_the_end_of_the_key_is_the_end_of_its_sessions(keyed):
    keyed = await keyed()
    browser = await keyed.log_in()
    await keyed.served.server.authenticator.keys.revoke(keyed.keys["operator"].key.id)
    keyed.advance(2.001)
    assert (await browser.ask("GET", "/api/v1/session")).status_code == 401


async def test_the_store_does_not_have_what_the_cookie_holds(keyed):
    keyed = await keyed()
    browser = await keyed.log_in()
    (document,) = await keyed.served.app.store.documents("sessions", 10)
    assert browser.token not in document.key + (document.text or "")


async def test_sessions_that_are_over_are_removed_by_later_logins(keyed):
    keyed = await keyed()
    for _ in range(3):
        await keyed.log_in()
    keyed.advance(3_601)
    await keyed.log_in()
    assert len(await keyed.served.app.store.documents("sessions", 10)) == 1


async def test_a_session_keeps_the_namespace_that_was_chosen(keyed):
    keyed = await keyed(namespaces={"acme": None})
    keys = keyed.served.server.authenticator.keys
    keyed.keys["both"] = await keys.create("both", "admin", ["default", "acme"])
    browser = await keyed.log_in("both")
    assert (await browser.ask("GET", "/api/v1/session")).json()["namespace"] == "default"
    assert (await browser.ask("PUT", "/api/v1/session", json={"namespace": "acme"})).status_code == 200
    assert (await browser.ask("GET", "/api/v1/session")).json()["namespace"] == "acme"
    assert (await browser.ask("PUT", "/api/v1/session", json={"namespace": "beta"})).status_code == 404
    assert (await keyed.ask("both", "PUT", "/api/v1/session", json={"namespace": "acme"})).status_code == 409


async def test_a_thousand_wrong_logins_are_throttled(keyed, monkeypatch):
    keyed = await keyed()
    began = keyed.served.app.world.now()  # the clock stands still: a busy machine takes a while for all of them
    monkeypatch.setattr(type(keyed.served.app.world), "now", lambda self: began + self.ahead)
    seen = [
        (await keyed.http.post("/login", json={"key": f"pdk_{'0' * 20}_{'0' * 48}"}, headers=PAGE)).status_code
        for _ in range(1_000)
    ]
    assert seen[:10] == [401] * 10
    assert set(seen[10:]) == {429}
    refused = await keyed.http.post("/login", json={"key": keyed.keys["admin"].token}, headers=PAGE)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    keyed.advance(61)
    assert (await keyed.http.post("/login", json={"key": keyed.keys["admin"].token}, headers=PAGE)).status_code == 200
    tries = await keyed.served.server.auditor.log("default").page(1_000)
    assert [entry.outcome for entry in tries] == [""] + ["refused (401)"] * 10
