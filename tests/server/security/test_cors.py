"""Pages of other origins: none may ask, unless the settings name its origin, and then only with a key of its own."""

from __future__ import annotations

import pytest

from perdure.model.errors import UsageError
from perdure.server import ServerSettings

SHOP = "https://shop.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
OTHERS = [
    "https://evil.example",
    "http://shop.example",
    "https://shop.example:8443",
    "https://shop.example.evil.example",
    "https://evilshop.example",
    "https://a.shop.example",
    "https://SHOP.example",
    "null",
    "*",
    "",
    "https://shop.example/",
    "https://shop.example, https://evil.example",
]


def allowed(answer):
    return {name for name in answer.headers if name.startswith("access-control-allow")} - {
        "access-control-allow-methods",
        "access-control-allow-headers",
    }


@pytest.mark.parametrize("origin", [SHOP, *OTHERS])
async def test_nobody_may_by_default(keyed, origin):
    keyed = await keyed()
    preflight = await keyed.http.options("/api/v1/runs", headers={"Origin": origin, **PREFLIGHT})
    answer = await keyed.ask("viewer", "GET", "/api/v1/runs", {"Origin": origin})
    assert not allowed(preflight)
    assert not allowed(answer)
    assert preflight.status_code in (401, 405)


async def test_an_origin_that_is_named_may(keyed):
    keyed = await keyed(cors=(SHOP,))
    preflight = await keyed.http.options("/api/v1/runs", headers={"Origin": SHOP, **PREFLIGHT})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == SHOP
    assert "access-control-allow-credentials" not in preflight.headers
    answer = await keyed.ask("viewer", "GET", "/api/v1/runs", {"Origin": SHOP})
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "origin" in answer.headers["vary"].lower()
    browser = await keyed.log_in()
    for method in ("GET", "POST"):
        answer = await browser.ask(method, "/api/v1/runs", {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"}, json={})
        assert answer.status_code == 403


@pytest.mark.parametrize("origin", OTHERS)
async def test_others_may_not_even_then(keyed, origin):
    keyed = await keyed(cors=(SHOP,))
    preflight = await keyed.http.options("/api/v1/runs", headers={"Origin": origin, **PREFLIGHT})
    answer = await keyed.ask("viewer", "GET", "/api/v1/runs", {"Origin": origin})
    assert not allowed(preflight)
    assert not allowed(answer)


async def test_methods_and_headers_that_are_not_needed_may_not(keyed):
    keyed = await keyed(cors=(SHOP,))
    for wanted in ({"Access-Control-Request-Method": "TRACE"}, {"Access-Control-Request-Headers": "cookie"}):
        answer = await keyed.http.options("/api/v1/runs", headers={"Origin": SHOP, **PREFLIGHT, **wanted})
        assert answer.status_code == 400


@pytest.mark.parametrize("origin", ["*", "https://*.shop.example", "shop.example", "https://shop.example/", "null", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(UsageError, match="cors"):
        ServerSettings(cors=(origin,))
