"""Who may do what: every operation there is, by whom, and with whose ids."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from perdure import Perdure, flow
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.server.access import PUBLIC
from perdure.server.security.keys import Keys
from perdure.store.operations import CHANGING, READING
from tests.server.conftest import Serve, Served, memory
from tests.server.security.operations import STARTS_BY_GET, Operation, operations

EVERY = operations()
ASKED = [each for each in EVERY if each.role is not None]
ROLES = {"viewer": 1, "operator": 2, "admin": 3}

FOR_ADMINS = {"list_keys", "create_key", "rotate_key", "revoke_key"}
FOR_OPERATORS_TO_READ = {"list_audit"}
CHANGES_NOTHING = {"validate_definition"}
"""What is asked by POST, and changes nothing."""

OF_RUNS = {"start_run", "start_runs", "send_event", "emit_event", "execute_workflow", *STARTS_BY_GET}
"""What is no operator's action, but runs' own data."""


def named(operation: Operation) -> str:
    return operation.id


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
        else:
            role = "operator" if operation.changes and operation.id not in CHANGES_NOTHING else "viewer"
        assert operation.role == role, operation.id


async def test_nothing_is_public_but_a_list(keyed):
    keyed = await keyed()
    for operation in EVERY:
        if operation.role is None:
            assert operation.path in PUBLIC
    assert {"/livez", "/readyz", "/login"} == {path for path in PUBLIC if not path.startswith("/static/")}


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


class TestTwoTenants:
    """A has a key for the namespace `acme`; B's runs are in `beta`, and full of canaries."""

    CANARY = "canary-b-4711"
    SECRET = "secret-of-b"

    @pytest.fixture
    async def served(self, serve: Serve):
        served = await serve(store=memory(), namespaces={"acme": None, "beta": None})
        await self.fill(served.server.namespaces.engine("beta").url)
        keys = served.server.authenticator.keys
        made = await keys.create("a", "admin", ["acme"])
        await keys.create("a", "viewer", ["acme"])
        await keys.create(self.CANARY, "viewer", ["beta"])
        served.app.world.ahead += 2_001
        served.http.headers["Authorization"] = f"Bearer {made.token}"
        return served

    async def fill(self, url: str) -> None:
        app = Perdure(url)

        @app.workflow(name=self.CANARY)
        async def order(note: str) -> str:
            flow.set("note", note)
            return await flow.wait_for_event("go", type=self.CANARY)

        async with app:
            run = await app.start(order, self.SECRET, id=self.CANARY, tags={"customer": self.SECRET})
            async with asyncio.timeout(3):
                while (await run.get()).status.value != "waiting":
                    await asyncio.sleep(0.005)
            await app.queue(self.CANARY).set_limits(concurrency=3)
            await app.schedules.create(self.CANARY, order, self.SECRET, every="1 day", paused=True)
            steps = [{"name": "a", "task": self.CANARY}]
            definition = {"name": f"{self.CANARY}-graph", "description": self.SECRET, "steps": steps}
            await app.publish(definition, anyway=True)

    async def state(self, served: Served) -> list[object]:
        store = served.server.namespaces.engine("beta").store
        page = await store.dump(1_000)
        return [page, await store.queues(), await store.definitions(), await store.collections()]

    @pytest.mark.parametrize("operation", [each for each in ASKED if not each.is_stream], ids=named)
    @pytest.mark.parametrize("whole", [False, True])
    async def test_ones_ids_are_nothing_in_the_others_hands(self, served, operation, whole):
        before = await self.state(served)
        request = operation.request(self.CANARY, whole=whole)
        for headers in ({}, {"Perdure-Namespace": "acme"}):
            answer = await served.http.request(**request, headers=headers)
            assert answer.status_code != 500
            if "{id}" in operation.path and answer.status_code != 422:
                assert answer.status_code in (404, 409), answer.text
            assert self.SECRET.encode() not in answer.content
        for name in ("beta", "default", "*", "acme, beta"):
            answer = await served.http.request(**request, headers={"Perdure-Namespace": name})
            assert answer.status_code == 404
            assert answer.json()["type"] == "urn:perdure:error:no-such-namespace"
        assert await self.state(served) == before

    async def test_no_page_shows_what_is_the_others(self, served):
        before = await self.state(served)
        pages = [
            route.path
            for route in served.asgi.routes
            if not route.include_in_schema and "GET" in route.methods and route.path not in PUBLIC
        ]
        assert {"/", "/runs", "/runs/{id}", "/queues/{name}", "/audit", "/keys"} <= set(pages)
        for path in pages:
            filled = re.sub(r"\{\w+(:\w+)?\}", self.CANARY, path)
            for query in ("", f"?prefix={self.CANARY}"):
                answer = await served.http.get(f"{filled}{query}", headers={"Accept": "text/html"})
                assert answer.status_code in (200, 404, 422, 302, 303), f"{filled}: {answer.status_code}"
                assert self.SECRET not in answer.text
                if not query and "{" in path and path != "/queues/{name}":  # any name is a queue's, and most are empty
                    assert answer.status_code in (404, 422), filled
            answer = await served.http.get(filled, headers={"Perdure-Namespace": "beta", "Accept": "text/html"})
            assert answer.status_code == 404
        assert await self.state(served) == before

    @pytest.mark.parametrize("operation", [*READING, *CHANGING])
    async def test_no_client_reaches_what_is_the_others(self, served, operation):
        before = await self.state(served)
        arguments = {
            "get": {"run_ids": [self.CANARY]},
            "journal": {"run_id": self.CANARY, "after": -1},
            "inbox": {"run_id": self.CANARY},
            "find": {"where": {"id_prefix": self.CANARY}, "limit": 10, "cursor": None},
            "stats": {"now": 0},
            "read": {"collection": "app.x", "keys": [self.CANARY]},
            "documents": {"collection": "audit", "limit": 10},
            "look_into": {"queue": self.CANARY, "now": 0, "keys": 1, "each": 1, "after": None},
            "post": {
                "messages": [{"run_id": self.CANARY, "type": "go", "payload": "1", "id": "x"}],
                "now": 0,
                "capacity": 9,
            },
            "control": {"actions": [{"run_id": self.CANARY, "action": "terminate"}], "now": 0},
            "prune": {"before": 2**50, "limit": 1_000},
            "set_queue": {"state": {"name": self.CANARY, "version": 2, "is_paused": True}},
        }.get(operation, {})
        for headers, status in (({}, None), ({"Perdure-Namespace": "beta"}, 404)):
            answer = await served.http.post(f"/api/v1/store/{operation}", json=arguments, headers=headers)
            assert answer.status_code != 500
            assert status in (None, answer.status_code)
            assert self.SECRET not in answer.text
        assert await self.state(served) == before

    @pytest.mark.parametrize("collection", ["keys", "keys.used", "sessions", "perdure", "views"])
    async def test_what_the_server_keeps_is_no_clients(self, keyed, collection):
        keyed = await keyed()
        await keyed.log_in("admin")
        for operation, arguments in (
            ("read", {"collection": collection, "keys": [keyed.keys["admin"].key.id]}),
            ("documents", {"collection": collection, "limit": 10}),
            ("put", {"documents": [{"collection": collection, "key": "x", "text": "{}", "revision": 0, "at": 0}]}),
        ):
            answer = await keyed.ask("admin", "POST", f"/api/v1/store/{operation}", json=arguments)
            assert answer.status_code == 403, answer.text
        answer = await keyed.ask("admin", "POST", "/api/v1/store/collections", json={})
        assert collection not in answer.json()

    async def test_a_stream_of_ones_run_is_not_the_others(self, served):
        answer = await served.http.get(f"/api/v1/runs/{self.CANARY}/watch")
        assert answer.status_code == 404

    async def test_an_admin_of_one_makes_no_keys_for_the_other(self, served):
        for namespaces in (["beta"], ["*"], ["acme", "beta"], ["default"]):
            body = {"name": "x", "role": "viewer", "namespaces": namespaces}
            assert (await served.http.post("/api/v1/keys", json=body)).status_code == 404
        keys = served.server.authenticator.keys
        theirs = next(key for key in await keys.page(100) if key.name == self.CANARY)
        for verb in ("rotate", "revoke"):
            answer = await served.http.post(f"/api/v1/keys/{theirs.id}/{verb}", json={})
            assert answer.status_code == 404
        listed = (await served.http.get("/api/v1/keys")).json()["items"]
        assert [key["name"] for key in listed] == ["a", "a"]
        assert (await keys.get(theirs.id)).revoked_at is None


class TestWhatIsWrittenDown:
    @pytest.mark.parametrize(
        "operation", [each for each in ASKED if each.changes and each.id not in STARTS_BY_GET], ids=named
    )
    async def test_who_may_not_leaves_one_record(self, keyed, operation):
        keyed = await keyed()
        role = {"operator": "viewer", "admin": "operator", "viewer": None}[operation.role]
        if role is None:
            return
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
