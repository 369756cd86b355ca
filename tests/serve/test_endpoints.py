"""How an endpoint is asked, in what it can be mounted, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from perdure import Perdure, serve
from perdure.dispatch.asking import Asking
from perdure.dispatch.endpoints import key_of
from perdure.dispatch.protocol import PROTOCOL, SIGNATURE, CommitTurn, ExtendTurn, Push, Pushed, TurnToken
from perdure.dispatch.signing import SigningKeys, sign
from perdure.model.decision import Claim, Lease
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus
from perdure.serve import over_asgi
from perdure.serve import serving as serving_module
from perdure.store.operations import TURN, TURNS
from tests.serve.bodies import Body, everything
from tests.serve.conftest import listening
from tests.server.conftest import memory

WITHIN = 15
ENDPOINTS = "/api/v1/endpoints"


async def keys_of(made):
    return (await made.dispatcher.keys()).signing


async def claimed(made, workflow, **given):
    """A push of a run that the dispatcher does not know of, as it would be."""
    app = made.served.app
    await made.dispatcher.remove(key_of(made.url))
    run = await made.app.start(workflow, **given)
    now = app.world.now()
    (claim,) = await app.store.claim(["default"], 1, "w", now, now + 60_000)
    assert claim.run.id == run.id
    keys = await made.dispatcher.keys()
    token = TurnToken.of("default", claim.run, now).sealed(keys.tokens[0])
    return run, Push(PROTOCOL, "default", claim, 5, token)


async def pushed(http, url, push, keys, *, id="jwt_1", now=None, body=None):
    body = msgspec.json.encode(push) if body is None else body
    signature = sign(keys, url, body, id=id, now=now or push.claim.run.updated_at)
    return await http.post(url, content=body, headers={SIGNATURE: signature})


@pytest.fixture
async def http():
    async with httpx.AsyncClient(timeout=10) as http:
        yield http


class TestWhatAnEndpointRefuses:
    async def test_what_is_not_signed(self, every, http, body):
        made = await every()
        _run, push = await claimed(made, "gathered")
        forged = SigningKeys.made(os.urandom)
        assert (await http.get(made.url)).status_code == 401
        assert (await pushed(http, made.url, push, forged)).status_code == 401
        keys = await keys_of(made)
        assert (await pushed(http, made.url, push, keys, now=push.claim.run.updated_at - 400_000)).status_code == 401
        assert (await http.put(made.url)).status_code == 405
        assert body.did == []

    async def test_a_push_that_was_taken_before(self, every, http, body):
        made = await every()
        _, push = await claimed(made, "gathered")
        keys = await keys_of(made)
        assert (await pushed(http, made.url, push, keys)).status_code == 200
        again = await pushed(http, made.url, push, keys)
        assert (again.status_code, again.json()["detail"]) == (409, "this push was taken before")
        assert len(body.did) == 4

    async def test_only_so_many_signatures_are_remembered(self, every, http, monkeypatch):
        monkeypatch.setattr(serving_module, "SEEN", 2)
        made = await every()
        _, push = await claimed(made, "gathered")
        keys = await keys_of(made)
        for each in ("a", "b", "c"):
            assert (await pushed(http, made.url, push, keys, id=each)).status_code == 200
        assert len(made.asgi.serving._seen) == 2

    @pytest.mark.parametrize(
        ("change", "status"),
        [({"protocol": 2}, 400), ({"workflow": "other"}, 404)],
    )
    async def test_what_it_cannot_work(self, every, http, change, status):
        made = await every()
        _run, push = await claimed(made, "gathered")
        if name := change.pop("workflow", None):
            other = msgspec.structs.replace(push.claim.run, workflow=name)
            change["claim"] = msgspec.structs.replace(push.claim, run=other)
        answer = await pushed(http, made.url, msgspec.structs.replace(push, **change), await keys_of(made))
        assert answer.status_code == status

    async def test_what_is_no_push(self, every, http):
        made = await every()
        now = made.app.world.now()
        for number, body in enumerate([b"", b"{}", b"[1]", b"\xff"]):
            answer = await pushed(http, made.url, None, await keys_of(made), id=str(number), now=now, body=body)
            assert answer.status_code == 400

    async def test_what_is_too_long(self, every, http, monkeypatch):
        monkeypatch.setattr(over_asgi, "PUSH_BYTES", 1_000)
        made = await every()
        answer = await http.post(made.url, content=b"x" * 2_000)
        assert answer.status_code == 413

    async def test_more_runs_than_it_may_have_in_hand(self, every, http, body):
        made = await every(concurrency=1)
        run = await made.app.start("holding")
        await body.began.wait()
        _, push = await claimed(made, "gathered")
        answer = await pushed(http, made.url, push, await keys_of(made))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        body.may_end.set()
        await run.result(timeout=WITHIN)


async def test_a_push_that_comes_twice_at_once_is_one_turn(every, http, body):
    made = await every()
    _run, push = await claimed(made, "holding")
    keys = await keys_of(made)
    asked = [asyncio.create_task(pushed(http, made.url, push, keys)) for _ in range(3)]
    await body.began.wait()
    body.may_end.set()
    first, *others = await asyncio.gather(*asked)
    assert [answer.content for answer in others] == [first.content] * 2
    assert body.did == ["held"]


class TestTwoProcessesWithTheSameTurn:
    async def test_only_one_can_record_anything(self, every, http, scene, body):
        made = await every()
        run, push = await claimed(made, "nested")
        keys = await keys_of(made)
        other, body.mark = Perdure(made.server_url, mode="serve"), "a"
        everything(other, Body())
        async with listening(serve.asgi(other, keys=(keys.current, keys.next))) as url:
            answers = await asyncio.gather(
                pushed(http, made.url, push, keys, id="a"), pushed(http, url, push, keys, id="b")
            )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        (kept,) = [answer for answer in answers if answer.status_code == 200]
        decision = msgspec.json.decode(kept.content, type=Pushed).decision
        (answer,) = await made.served.app.store.commit([decision])
        assert not answer.is_lost
        keys_told = [record.key for record in await run.journal()]
        assert keys_told == ["input", "outer/note", "outer/note#2", "outer", "output"]


class TestCallbacks:
    async def ask(self, made, http, name, token, given):
        body = b"" if given is None else msgspec.json.encode(given)
        return await http.post(f"{made.server_url}{TURNS}{name}", content=body, headers={TURN: token})

    async def decided(self, made, http):
        _, push = await claimed(made, "gathered")
        answer = await pushed(http, made.url, push, await keys_of(made))
        return push, msgspec.json.decode(answer.content, type=Pushed).decision

    async def test_a_token_commits_its_decision_once(self, every, http):
        made = await every()
        push, decision = await self.decided(made, http)
        first = await self.ask(made, http, "commit", push.token, CommitTurn(decision))
        again = await self.ask(made, http, "commit", push.token, CommitTurn(decision))
        assert (first.status_code, again.status_code) == (200, 200)
        record = msgspec.structs.replace(decision.records[0], payload='"other"')
        other = msgspec.structs.replace(decision, records=(record, *decision.records[1:]))
        refused = await self.ask(made, http, "commit", push.token, CommitTurn(other))
        assert refused.status_code == 409
        next_one = msgspec.structs.replace(decision, seq=decision.seq + 1)
        assert (await self.ask(made, http, "commit", push.token, CommitTurn(next_one))).status_code == 401

    async def test_what_a_token_is_not_for(self, every, http):
        made = await every()
        push, decision = await self.decided(made, http)
        for token in ("", "x", push.token[:-3], f"{push.token}x"):
            for name in ("commit", "extend", "inbox"):
                assert (await self.ask(made, http, name, token, CommitTurn(decision))).status_code == 401
        other = msgspec.structs.replace(decision, run_id="other")
        assert (await self.ask(made, http, "commit", push.token, CommitTurn(other))).status_code == 401
        lease = ExtendTurn(Lease("other", 1, 2**60))
        assert (await self.ask(made, http, "extend", push.token, lease)).status_code == 401

    async def test_a_lease_has_a_bound(self, every, http):
        made = await every()
        run, push = await claimed(made, "gathered")
        lease = ExtendTurn(Lease(run.id, 1, 2**60))
        assert (await self.ask(made, http, "extend", push.token, lease)).status_code == 200
        (row,) = await made.served.app.store.get([run.id])
        assert row.due_at <= made.served.app.world.now() + 300_000

    async def test_messages_are_read(self, every, http):
        made = await every()
        run, push = await claimed(made, "asked")
        await run.send_event("approval", "yes")
        answer = await self.ask(made, http, "inbox", push.token, None)
        assert [message["type"] for message in answer.json()["messages"]] == ["approval"]

    async def test_what_is_no_request(self, every, http):
        made = await every()
        _, push = await claimed(made, "gathered")
        for name in ("commit", "extend"):
            assert (await self.ask(made, http, name, push.token, {"a": 1})).status_code == 400


class TestWhereItIsMounted:
    async def test_in_fastapi(self, serving, body):
        served = await serving(None, store=memory())
        app = Perdure(str(served.http.base_url).rstrip("/"), mode="serve")
        everything(app, body)
        dispatcher = served.server.dispatchers["default"]
        keys = (await dispatcher.keys()).signing
        mounted = serve.asgi(app, keys=(keys.current, keys.next))
        api = FastAPI()
        api.mount("/workflows", mounted)
        async with listening(api) as url:
            with pytest.raises(UsageError, match=f"it is at {url}workflows/: give that"):
                await dispatcher.add(f"{url}workflows")
            await dispatcher.add(f"{url}workflows/")
            async with Perdure(app.url) as client:
                run = await client.start("nested")
                assert await run.result(timeout=WITHIN) == ["in 1", "in 2"]
            await mounted.serving.close()

    async def test_in_a_wsgi_server(self, serving, body):
        class Quiet(WSGIRequestHandler):
            def log_message(self, *args):
                pass

        served = await serving(None, store=memory())
        app = Perdure(str(served.http.base_url).rstrip("/"), mode="serve")
        everything(app, body)
        dispatcher = served.server.dispatchers["default"]
        keys = (await dispatcher.keys()).signing
        mounted = serve.wsgi(app, keys=(keys.current, keys.next))
        server = make_server("127.0.0.1", 0, mounted, handler_class=Quiet)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            await dispatcher.add(f"http://127.0.0.1:{server.server_port}/")
            async with Perdure(app.url) as client:
                for workflow in ("nested", "gathered", "told"):
                    run = await client.start(workflow)
                    await run.result(timeout=WITHIN)
                assert await run.state("phase") == "two"
        finally:
            await asyncio.to_thread(mounted.close)
            await asyncio.to_thread(server.shutdown)
            thread.join()
            server.server_close()


class TestTheApi:
    async def test_endpoints_are_added_listed_and_removed(self, every, body):
        made = await every()
        http = made.served.http
        (kept,) = (await http.get(ENDPOINTS)).json()["items"]
        assert kept["url"] == made.url
        assert {"name": "gathered", "version": "", "queue": "default"} in kept["workflows"]
        assert (await http.delete(f"{ENDPOINTS}/{kept['id']}")).status_code == 204
        assert (await http.delete(f"{ENDPOINTS}/{kept['id']}")).status_code == 404
        assert (await http.get(ENDPOINTS)).json() == {"items": []}
        added = await http.post(ENDPOINTS, json={"url": made.url, "reason": "deploy"})
        assert (added.status_code, added.json()["id"]) == (201, kept["id"])
        run = await made.app.start("gathered")
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("url", ["tea", "ftp://a/", "http://", "http://u:p@127.0.0.1/", "http://a/#b"])
    async def test_what_is_no_url(self, serving, url):
        served = await serving(None)
        answer = await served.http.post(ENDPOINTS, json={"url": url})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "body.url")

    async def test_who_does_not_answer(self, serving):
        served = await serving(None)
        answer = await served.http.post(ENDPOINTS, json={"url": "http://127.0.0.1:9/"})
        assert answer.status_code == 409
        assert "http://127.0.0.1:9/" in answer.json()["detail"]

    async def test_keys_are_rotated_while_endpoints_go_on(self, every):
        made = await every()
        http = made.served.http
        before = (await http.get("/api/v1/signing-keys")).json()
        after = (await http.post("/api/v1/signing-keys/rotate")).json()
        assert after["current"] == before["next"]
        run = await made.app.start("gathered")
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]


class TestWhatAnApplicationNeeds:
    def test_keys(self, monkeypatch):
        app = Perdure("http://127.0.0.1:9", mode="serve")
        with pytest.raises(UsageError, match="PERDURE_SIGNING_KEY"):
            serve.asgi(app)
        with pytest.raises(UsageError, match="signing key, current"):
            serve.asgi(app, keys=("short", "short"))
        monkeypatch.setenv("PERDURE_SIGNING_KEY", "k" * 40)
        assert serve.asgi(app).serving._keys == SigningKeys("k" * 40, "k" * 40)

    async def test_its_mode(self):
        with pytest.raises(UsageError, match="mode='serve'"):
            serve.asgi(Perdure("http://127.0.0.1:9"), keys=("k" * 40, "k" * 40))
        with pytest.raises(UsageError, match="gets its runs from a server"):
            await Perdure("memory://", mode="serve").open()


async def test_an_endpoint_starts_before_its_server(http):
    keys = SigningKeys.made(os.urandom)
    app = Perdure("http://127.0.0.1:9/?patience=0", mode="serve")
    everything(app, Body())
    async with listening(serve.asgi(app, keys=(keys.current, keys.next))) as url:
        signature = sign(keys, url, b"", id="jwt_1", now=app.world.now())
        answer = await http.get(url, headers={SIGNATURE: signature})
        assert "gathered" in [workflow["name"] for workflow in answer.json()["workflows"]]
        run = Run("a", "gathered", RunStatus.RUNNING, 0, 0, epoch=1)
        push = Push(PROTOCOL, "default", Claim(run, [], []), 1, "")
        refused = await pushed(http, url, push, keys, id="jwt_2", now=app.world.now())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


async def test_an_endpoint_that_answers_something_else_is_none(every):
    made = await every()
    asking = Asking(made.app.world)
    with pytest.raises(UsageError, match="does not say what it serves|status"):
        await asking.manifest(f"{made.server_url}/livez", await keys_of(made))
    await asking.close()
