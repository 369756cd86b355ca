"""What one tenant can do with what is another's: nothing, whichever operation, page or stream it tries."""

from __future__ import annotations

import asyncio
import re

import pytest

from perdure import Perdure, flow
from perdure.server.access import PUBLIC
from perdure.store.operations import CHANGING, READING
from tests.server.conftest import Serve, Served, memory
from tests.server.security.operations import ASKED, named


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
                assert answer.status_code in (200, 404, 422, 302, 303, 501), f"{filled}: {answer.status_code}"
                assert self.SECRET not in answer.text
                # Any name is a queue's, or an event's, and most are empty.
                if not query and "{" in path and path not in ("/queues/{name}", "/v2/waiters/{event:path}"):
                    assert answer.status_code in (404, 422, 501), filled
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
