"""How an endpoint is asked, where it may be, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from perdure import Perdure, serve
from perdure.dispatch import asking
from perdure.dispatch.asking import Asking, PushFailedError
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.protocol import PROTOCOL, SIGNATURE, Push
from perdure.dispatch.signing import ISSUER, PUSHER, SigningKeys, sign
from perdure.model.decision import Claim
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus
from perdure.serve import over_asgi
from perdure.serve import serving as serving_module
from perdure.tasks.addresses import Guard
from tests.serve.bodies import Body, everything
from tests.serve.byhand import claimed, keys_of, pushed
from tests.serve.conftest import listening
from tests.server.conftest import memory

ROOT = Path(__file__).parent.parent.parent
WITHIN = 15
ENDPOINTS = "/api/v1/endpoints"


class TestWhatAnEndpointRefuses:
    async def test_what_is_not_signed(self, every, http, body):
        made = await every()
        _run, push = await claimed(made, "gathered")
        forged = SigningKeys.made(os.urandom)
        assert (await http.get(made.url)).status_code == 401
        assert (await pushed(http, made.url, push, forged)).status_code == 401
        keys = await keys_of(made)
        # What a message carries is what its publisher made up, and it is signed with the same keys.
        assert (await pushed(http, made.url, push, keys, issuer=ISSUER)).status_code == 401
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


NEEDS_NO_MORE = """
import asyncio, sys
for name in sys.argv[1:]:
    sys.modules[name] = None
from perdure import Perdure, serve

app = Perdure("http://127.0.0.1:9", mode="serve")

@app.workflow
async def order() -> None: ...

status, body, _ = asyncio.run(serve.asgi(app, keys=("k" * 32, "k" * 32)).serving.answer("GET", {}, b""))
assert status == 401, body
"""


def test_it_needs_no_more_than_its_extra_brings():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {
        name: {re.split(r"[^a-z0-9-]", each)[0] for each in extras[name]} for name in ("serve", "server", "crypto")
    }
    modules = {"jinja2", "prometheus_client", "starlette", "pydantic"}
    missing = (found["server"] | found["crypto"] | modules) - found["serve"]
    assert found["serve"] == {"httpx", "pyjwt"}
    ran = subprocess.run(
        [sys.executable, "-c", NEEDS_NO_MORE, *sorted(missing)], capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 0, ran.stderr


async def test_an_endpoint_starts_before_its_server(http):
    keys = SigningKeys.made(os.urandom)
    app = Perdure("http://127.0.0.1:9/?patience=0", mode="serve")
    everything(app, Body())
    async with listening(serve.asgi(app, keys=(keys.current, keys.next))) as url:
        signature = sign(keys, url, b"", id="jwt_1", now=app.world.now(), issuer=PUSHER)
        answer = await http.get(url, headers={SIGNATURE: signature})
        assert "gathered" in [workflow["name"] for workflow in answer.json()["workflows"]]
        run = Run("a", "gathered", RunStatus.RUNNING, 0, 0, epoch=1)
        push = Push(PROTOCOL, "default", Claim(run, [], []), 1, "")
        refused = await pushed(http, url, push, keys, id="jwt_2", now=app.world.now())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


async def test_an_endpoint_that_answers_something_else_is_none(every):
    made = await every()
    asks = Asking(made.app.world)
    with pytest.raises(UsageError, match="does not say what it serves|status"):
        await asks.manifest(f"{made.server_url}/livez", await keys_of(made))
    await asks.close()


class TestWhereEndpointsMayBe:
    @pytest.fixture
    async def guarded(self, serving):
        """A dispatcher that sends requests to the public internet alone, and to what is given."""
        served = await serving(None, store=memory())
        made = []

        def dispatcher(*allowed):
            made.append(Dispatcher(served.app, "default", guard=Guard(allowed)))
            return made[-1]

        yield dispatcher
        for each in made:
            await each.close()

    async def test_private_addresses_are_refused_where_they_are_not_allowed(self, every, guarded):
        made = await every()
        with pytest.raises(UsageError, match=r"url: no request is made to 127\.0\.0\.1.*--deliver-to"):
            await guarded().add(made.url)
        name = made.url.replace("127.0.0.1", "localhost")
        with pytest.raises(PushFailedError, match=r"no request is made to localhost, which is .*--deliver-to"):
            await guarded().add(name)

    async def test_those_that_are_allowed_are_asked(self, every, guarded):
        made = await every()
        keys, dispatcher = await keys_of(made), guarded("127.0.0.0/8")
        assert (await dispatcher.asking.manifest(made.url, keys)).protocol == PROTOCOL
        _, push = await claimed(made, "gathered")
        assert (await dispatcher.asking.push(made.url, push, keys)).status is RunStatus.COMPLETE


async def test_a_store_that_nobody_else_can_reach_is_refused(every, serving):
    made, served = await every(), await serving(None, store="memory://")
    dispatcher = served.server.dispatchers["default"]
    keys = await keys_of(made)
    made.asgi.serving._keys = SigningKeys(keys.current, (await dispatcher.keys()).signing.current)
    answer = await served.http.post(ENDPOINTS, json={"url": made.url})
    assert (answer.status_code, "memory://trial" in answer.text) == (422, True)


async def test_connections_are_used_again_and_ended_after_a_while(every, monkeypatch):
    made = await every()
    kept = made.dispatcher.asking._connections

    async def used(*workflows):
        runs = [await made.app.start(workflow) for workflow in workflows]
        await asyncio.gather(*(run.result(timeout=WITHIN) for run in runs))
        return len(kept[made.url]._idle)

    assert await used("told") == 1  # one for all its pushes
    many = await used(*["told"] * 5)
    assert 2 <= many <= 5
    monkeypatch.setattr(asking, "KEPT_FOR", -1.0)  # each is idle for too long
    assert await used("told", "told") < many
