"""Who may do what: every operation there is, and by whom."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from perdure import Perdure
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.server.access import PUBLIC, role_of
from perdure.server.routing import StrictRoute
from perdure.server.security.keys import Keys
from perdure.store.operations import CHANGING, READING, TURN, TURNS
from tests.server.conftest import Serve
from tests.server.security.conftest import PAGE
from tests.server.security.operations import ASKED, EVERY, STARTS_BY_GET, named

ROLES = {"metrics": 1, "viewer": 2, "operator": 3, "admin": 4}

FOR_METRICS = {"get_metrics"}
FOR_ADMINS = {"list_keys", "create_key", "rotate_key", "revoke_key"}
FOR_ADMINS |= {"add_endpoint", "remove_endpoint", "get_signing_keys", "rotate_signing_keys"}
FOR_OPERATORS_TO_READ = {"list_audit", "list_endpoints"}
CHANGES_NOTHING = {"validate_definition", "choose_namespace"}
"""What is asked by POST or PUT, and changes nothing but what its own session looks at."""

OF_RUNS = {"start_run", "start_runs", "send_event", "emit_event", "execute_workflow", *STARTS_BY_GET}
"""What is no operator's action, but runs' own data."""


async def asked(asgi: Any, method: str, raw: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Ask with a path as it is, which clients would tidy."""
    target, _, query = raw.partition(b"?")
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await asgi(
        {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(target).decode(errors="replace"),
            "raw_path": target,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower().encode(), text.encode()) for name, text in (headers or {}).items()]
            + [(b"host", b"localhost:8000")],
            "client": ("127.0.0.1", 4711),
            "server": ("127.0.0.1", 8000),
        },
        receive,
        send,
    )
    return said[0]["status"], b"".join(each.get("body", b"") for each in said[1:])


def test_roles_are_what_they_ought_to_be():
    for operation in ASKED:
        if operation.id in FOR_ADMINS:
            role = "admin"
        elif operation.id in FOR_OPERATORS_TO_READ:
            role = "operator"
        elif operation.id in FOR_METRICS:
            role = "metrics"
        else:
            role = "operator" if operation.changes and operation.id not in CHANGES_NOTHING else "viewer"
        assert operation.role == role, operation.id


async def test_nothing_is_public_but_a_list(keyed):
    keyed = await keyed()
    for operation in EVERY:
        if operation.role is None:
            assert operation.path in PUBLIC
    for route in keyed.served.asgi.routes:
        assert (role_of(route) is None) == (route.path in PUBLIC), route.path
        assert role_of(route) is None or isinstance(route, StrictRoute), route.path  # which looks at it first
    turns = {f"/api/v1/turns/{name}" for name in ("commit", "extend", "inbox")}  # which take a token of their own
    assert {"/livez", "/readyz", "/login", *turns} == {path for path in PUBLIC if not path.startswith("/static/")}


@pytest.mark.parametrize("operation", [each for each in ASKED if not each.is_stream], ids=named)
async def test_each_role_may_do_what_it_may(keyed, operation):
    keyed = await keyed()
    request = operation.request("order-1")
    assert (await keyed.http.request(**request)).status_code == 401
    for role, rank in ROLES.items():
        answer = await keyed.ask(role, **_apart(request))
        if rank < ROLES[operation.role]:
            assert answer.status_code == 403
            assert answer.json()["type"] == "urn:perdure:error:not-allowed"
        else:
            assert answer.status_code not in (401, 403, 500), answer.text


def _apart(request: dict[str, Any]) -> dict[str, Any]:
    return {"path": request["url"], **{name: value for name, value in request.items() if name != "url"}}


async def test_streams_are_for_those_who_may(keyed):
    keyed = await keyed()
    for operation in EVERY:
        if operation.is_stream:
            assert (await keyed.http.request(**operation.request("order-1"))).status_code == 401


TRICKS = [
    "{}/", "/{}", "//{}", "/.{}", "{}/.", "{}//", "{};x", "{};/livez", "{}%00", "{}%2f", "{}%2e%2e", "{}%20", "{}.json",
    "{}/livez", "{}/readyz", "{}/health", "{}/ready", "{}/login", "{}/configs", "{}?/livez", "{}#/livez", "{}%23/livez",
    "{}%3f/livez", "/livez/..{}", "/livez/../{}", "/livez%2f..{}", "/livez/%2e%2e{}", "/livez;{}", "/login/..{}",
    "/static/..{}", "/static/../{}", "/static/..%2f..{}", "/livez{}", "/%6civez{}", "/LIVEZ{}", "/.%2e{}", "\\{}",
    "/livez\\..{}", "http://localhost{}", "/%2f{}",
]  # fmt: skip
"""Ways to write a path that something might take for another one."""


@pytest.mark.parametrize("trick", TRICKS)
async def test_no_way_to_write_a_path_gets_in(keyed, trick):
    keyed = await keyed()
    for operation in ASKED:
        path = operation.path.replace("{id}", "order-1").replace("{name}", "orders")
        for written in {path, path.upper(), path.replace("/v1/", "/%76%31/"), path.replace("/api", "/%61pi")}:
            status, _ = await asked(keyed.served.asgi, operation.method, trick.format(written).encode())
            assert status in (401, 404, 405), f"{operation.method} {trick.format(written)}: {status}"


@pytest.mark.parametrize(
    "path", ["/LIVEZ", "/livez/", "//livez", "/livez;x", "/livez%00", "/%6civez", "/login/", "/Readyz", "/api/../livez"]
)
async def test_the_list_is_exact(keyed, path):
    status, _ = await asked((await keyed()).served.asgi, "GET", path.encode())
    assert status == 401


BAD = {
    "nothing": "Bearer nothing",
    "no scheme": "{}",
    "empty": "",
    "only the scheme": "Bearer",
    "an empty token": "Bearer ",
    "a lower-case scheme": "bearer {}",
    "another scheme": "Basic {}",
    "two spaces": "Bearer  {}",
    "something behind it": "Bearer {} x",
    "a comma": "Bearer {}, Bearer {}",
    "quotes": 'Bearer "{}"',
    "a megabyte": "Bearer " + "x" * 1_000_000,
    "a key a megabyte long": "Bearer {}" + "0" * 1_000_000,
    "null": "Bearer null",
    "undefined": "Bearer undefined",
    "wild": "Bearer *",
    "a key without its secret": "Bearer pdk_00000000000000000000_",
    "SQL": "Bearer ' OR 1=1 --",
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("is_configured", [True, False])
async def test_what_is_no_credential_is_refused(keyed, serve: Serve, bad, is_configured):
    keyed = await keyed()
    served = keyed.served if is_configured else await serve()
    token = keyed.keys["admin"].token
    if not is_configured and "{}" in BAD[bad]:
        token += "0"
    headers = {"Authorization": BAD[bad].replace("{}", token)}
    status, body = await asked(served.asgi, "GET", b"/api/v1/runs", headers)
    assert status == 401
    assert token.rpartition("_")[2].encode() not in body


async def test_two_credentials_are_none(keyed):
    keyed = await keyed()
    token = f"Bearer {keyed.keys['admin'].token}"
    answer = await keyed.http.get("/api/v1/runs", headers=[("Authorization", token), ("Authorization", token)])
    assert answer.status_code == 401
    browser = await keyed.log_in("admin")
    answer = await browser.ask("GET", "/api/v1/runs", {"Authorization": "Bearer nothing"})
    assert answer.status_code == 401


async def test_nothing_of_the_body_is_read_for_nobody(keyed):
    keyed = await keyed()

    async def endless():
        raise AssertionError("the body was read")
        yield b""

    for headers in ({}, {"Authorization": "Bearer nothing"}):
        answer = await keyed.http.post(
            "/api/v1/keys", content=endless(), headers={"Content-Type": "application/json", **headers}
        )
        assert answer.status_code == 401


async def test_nothing_of_the_body_is_read_for_whoever_may_not(keyed):
    keyed = await keyed()

    async def endless():
        raise AssertionError("the body was read")
        yield b""

    for operation in ASKED:
        if operation.body is not None and operation.role in ("operator", "admin"):
            request = _apart(operation.request("order-1"))
            del request["json"]
            answer = await keyed.ask("viewer", **request, content=endless(), headers={"Content-Type": "text/plain"})
            assert answer.status_code == 403, operation.id
    for operation in (*READING, *CHANGING):
        answer = await keyed.ask("metrics", "POST", f"/api/v1/store/{operation}", content=endless())
        assert answer.status_code == 403, operation


async def test_a_key_for_metrics_reads_them_and_nothing_else(keyed):
    keyed = await keyed()
    assert "perdure_store_up" in (await keyed.ask("metrics", "GET", "/metrics")).text
    routes = [route for route in keyed.served.asgi.routes if route.path not in {*PUBLIC, "/metrics"}]
    assert len(routes) > 80
    for route in routes:
        for method in route.methods:
            answer = await keyed.ask("metrics", method, re.sub(r"\{\w+(:\w+)?\}", "x", route.path))
            assert answer.status_code == 403, f"{method} {route.path}"
    login = await keyed.http.post("/login", json={"key": keyed.keys["metrics"].token}, headers=PAGE)
    assert login.status_code == 401
    assert "set-cookie" not in login.headers


async def test_a_key_for_metrics_of_several_namespaces_need_not_choose(keyed):
    keyed = await keyed(namespaces={"acme": None, "beta": None, "gamma": None})
    made = await keyed.served.server.authenticator.keys.create("prometheus", "metrics", ["gone", "gamma", "acme"])
    answer = await keyed.http.get("/metrics", headers={"Authorization": f"Bearer {made.token}"})
    assert answer.status_code == 200
    seen = {
        name
        for name in ("default", "acme", "beta", "gamma")
        if f'perdure_store_up{{namespace="{name}"}}' in answer.text
    }
    assert seen == {"acme", "gamma"}


async def test_while_the_store_does_not_answer_nobody_gets_in(keyed, monkeypatch):
    keyed = await keyed()
    assert (await keyed.ask("viewer", "GET", "/api/v1/session")).status_code == 200

    async def unavailable(*_: Any) -> Any:
        raise StoreUnavailableError("not now")

    monkeypatch.setattr(keyed.served.app.store, "read", unavailable)
    keyed.advance(2)
    answer = await keyed.ask("viewer", "GET", "/api/v1/session")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert (await keyed.http.get("/livez")).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example", "0"])
async def test_it_does_not_listen_to_others_without_keys(serve: Serve, tmp_path, host):
    store = f"sqlite:///{tmp_path}/shop.db"
    with pytest.raises(UsageError, match="perdure keys create"):
        await serve(store=store, host=host)
    async with Perdure(store, mode="client") as app:
        await Keys(app.store, app.world).create("ada", "admin", ["*"])
    served = await serve(store=store, host=host)
    assert (await served.http.get("/api/v1/session")).status_code == 401


class TestWhatIsWrittenDown:
    @pytest.mark.parametrize(
        "operation", [each for each in ASKED if each.changes and each.id not in STARTS_BY_GET], ids=named
    )
    async def test_who_may_not_leaves_one_record(self, keyed, operation):
        keyed = await keyed()
        role = {"operator": "viewer", "admin": "operator", "viewer": "metrics"}[operation.role]
        await keyed.ask(role, **_apart(operation.request("order-1")))
        (entry,) = await keyed.served.server.auditor.log("default").page(10)
        assert (entry.who, entry.action, entry.outcome) == (role, operation.id, "refused (403)")
        assert entry.key == keyed.keys[role].key.id

    @pytest.mark.parametrize(
        "operation", [each for each in ASKED if each.changes and each.id not in OF_RUNS | CHANGES_NOTHING], ids=named
    )
    async def test_what_is_done_or_fails_is_there(self, keyed, operation):
        keyed = await keyed()
        answer = await keyed.ask("admin", **_apart(operation.request("order-1")))
        entries = await keyed.served.server.auditor.log("default").page(10)
        if answer.status_code == 422 and not entries:
            return
        assert entries, f"{operation.id} answered {answer.status_code} and left nothing"
        assert entries[-1].outcome == ""
        assert entries[-1].who == "admin"
        assert len(entries) == (2 if answer.status_code >= 400 else 1)
        if answer.status_code >= 400:
            assert entries[0].outcome == f"failed ({answer.status_code})"
            assert entries[0].action == entries[1].action

    async def test_what_cannot_be_written_down_is_not_done(self, keyed, monkeypatch):
        keyed = await keyed()
        put = keyed.served.app.store.put

        async def unavailable(documents: Any) -> Any:
            if any(each.collection == "audit" for each in documents):
                raise StoreUnavailableError("not now")
            return await put(documents)

        monkeypatch.setattr(keyed.served.app.store, "put", unavailable)
        body = {"name": "eve", "role": "admin"}
        assert (await keyed.ask("admin", "POST", "/api/v1/keys", json=body)).status_code == 503
        keys = await keyed.served.server.authenticator.keys.page(10)
        assert "eve" not in {key.name for key in keys}


def _token(header: Any, claims: Any, signature: str = "x") -> str:
    parts = [each if isinstance(each, str) else json.dumps(each) for each in (header, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts), signature])


NO_TURNS = {
    "none": "",
    "no token": "a.b.c",
    "no algorithm": _token({"alg": "none"}, {"ns": "default"}, ""),
    "another signature": _token({"alg": "HS256"}, {"ns": "default"}),
    "another namespace": _token({"alg": "HS256"}, {"ns": "acme"}),
    "a namespace that is no text": _token({"alg": "HS256"}, {"ns": ["default"]}),
    "an algorithm that is no text": _token({"alg": ["HS256"]}, {"ns": "default"}),
    "a key of its own": _token({"alg": "HS256", "kid": 5}, {"ns": "default"}),
    "deep": _token({"alg": "HS256"}, "[" * 9_000),
    "deep ahead": _token("[" * 9_000, {}),
    "no time": _token({"alg": "HS256"}, '{"ns":"default","exp":1e400}'),
    "no letters": "\xff.\xff.\xff",
}


@pytest.mark.parametrize("token", NO_TURNS)
@pytest.mark.parametrize("path", ["commit", "extend", "inbox"])
async def test_what_is_no_token_of_a_turn_is_refused_before_the_body(keyed, token, path):
    keyed = await keyed()

    async def endless():
        raise AssertionError("the body was read")
        yield b""

    headers = {TURN: NO_TURNS[token].encode("latin-1"), **keyed.bearer("admin")}
    answer = await keyed.http.post(f"{TURNS}{path}", content=endless(), headers=headers)
    assert answer.status_code == 401
