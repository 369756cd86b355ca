from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure
from perdure.model.errors import UsageError
from perdure.server.security.keys import Keys
from tests.server.conftest import memory


@pytest.fixture
async def app():
    async with Perdure(memory(), mode="client") as app:
        yield app


@pytest.fixture
def keys(app):
    return Keys(app.store, app.world)


async def test_a_key_is_known_by_its_token_alone(keys):
    made = await keys.create("ci", "operator", ["default"])
    assert made.token.startswith(f"pdk_{made.key.id}_")
    assert await keys.verify(made.token) == made.key
    other = await keys.create("ci", "operator", ["default"])
    wrong = made.token[:-1] + ("0" if made.token[-1] != "0" else "1")
    swapped = f"pdk_{made.key.id}_{other.token.rpartition('_')[2]}"
    for token in ("", "nothing", made.token[:-1], made.token + "0", made.token.upper(), wrong, swapped, made.key.id):
        assert await keys.verify(token) is None, token


async def test_the_store_has_no_secret_and_a_repr_shows_none(keys, app):
    made = await keys.create("ci", "operator", ["default"])
    secret = made.token.rpartition("_")[2]
    assert len(secret) * 4 >= 128
    assert secret not in repr(made)
    for collection in await app.store.collections():
        for document in await app.store.documents(collection, 100):
            assert secret not in (document.text or "") + document.key


async def test_a_key_ends_when_it_expires(keys, app):
    made = await keys.create("ci", "viewer", ["default"], expires_in="1 hour")
    app.world.ahead += 3_599_000
    assert await keys.verify(made.token) == made.key
    app.world.ahead += 1_001
    assert await keys.verify(made.token) is None
    assert made.key.state(app.world.now()) == "expired"


async def test_a_key_that_is_revoked_elsewhere_is_good_for_two_seconds_at_most(keys, app):
    made = await keys.create("ci", "viewer", ["default"])
    elsewhere = Keys(app.store, app.world)
    assert await keys.verify(made.token) is not None
    revoked = await elsewhere.revoke(made.key.id)
    assert revoked is not None
    assert await elsewhere.verify(made.token) is None
    app.world.ahead += 2_000
    assert await keys.verify(made.token) is None
    assert await keys.revoke(made.key.id) == revoked


async def test_rotation_leaves_both_for_a_while(keys, app):
    old = await keys.create("ci", "operator", ["default", "acme"], expires_in="10 days")
    new = await keys.rotate(old.key.id, "1 hour")
    assert new is not None
    assert (new.key.name, new.key.role, new.key.namespaces) == ("ci", "operator", ("default", "acme"))
    assert new.key.replaces == old.key.id
    assert abs(new.key.expires_at - old.key.expires_at) < 1_000
    assert await keys.verify(old.token) is not None
    assert await keys.verify(new.token) == new.key
    app.world.ahead += 3_600_000
    assert await keys.verify(old.token) is None
    assert await keys.verify(new.token) == new.key
    with pytest.raises(UsageError, match="expired"):
        await keys.rotate(old.key.id)


async def test_what_is_not_there_is_none(keys):
    assert await keys.get("nothing") is None
    assert await keys.revoke("nothing") is None
    assert await keys.rotate("nothing") is None
    assert not await keys.are_any()


async def test_the_last_use_is_noted_seldom(keys, app):
    made = await keys.create("ci", "viewer", ["default"])
    assert await keys.last_used([made.key.id]) == {}
    first = app.world.now()
    await keys.verify(made.token)
    await keys.close()
    noted = await keys.last_used([made.key.id])
    assert noted[made.key.id] - first < 1_000
    app.world.ahead += 500_000
    await keys.verify(made.token)
    await keys.close()
    assert await keys.last_used([made.key.id]) == noted
    app.world.ahead += 200_000
    await keys.verify(made.token)
    await keys.close()
    assert (await keys.last_used([made.key.id]))[made.key.id] - first >= 700_000


async def test_many_who_ask_at_once_are_one_look_at_the_store(keys, app, monkeypatch):
    made = await keys.create("ci", "viewer", ["default"])
    looks = 0
    read = app.store.read

    async def counted(collection, names):
        nonlocal looks
        looks += collection == "keys"
        await asyncio.sleep(0)
        return await read(collection, names)

    monkeypatch.setattr(app.store, "read", counted)
    assert all(await asyncio.gather(*(keys.verify(made.token) for _ in range(100))))
    assert looks == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "name: "),
        ({"name": "a\nb"}, "name: "),
        ({"role": "owner"}, "role: "),
        ({"namespaces": []}, "namespaces: "),
        ({"namespaces": ["a/b"]}, "namespaces: "),
        ({"expires_in": 0}, "expires_in: "),
        ({"expires_in": "soon"}, "expires_in: "),
    ],
)
async def test_what_is_wrong_with_a_key_is_named(keys, given, message):
    with pytest.raises(UsageError, match=message):
        await keys.create(**{"name": "ci", "role": "viewer", "namespaces": ["default"], **given})


async def test_what_is_wrong_with_a_request_for_a_key_is_told_under_its_place(keyed):
    keyed = await keyed()
    for path, body, place in (
        ("/api/v1/keys", {"name": "x", "role": "viewer", "expires_in": 0}, "body.expires_in"),
        ("/api/v1/keys", {"name": "x", "role": "owner"}, "body.role"),
        (f"/api/v1/keys/{keyed.keys['viewer'].key.id}/rotate", {"overlap": "soon"}, "body.overlap"),
    ):
        answer = await keyed.ask("admin", "POST", path, json=body)
        assert answer.status_code == 422
        assert [each["path"] for each in answer.json()["errors"]] == [place]


@pytest.mark.parametrize("names", [{}, {"acme": None}])
async def test_who_is_admin_of_what_there_is_does_not_become_admin_of_what_will_be(keyed, names):
    keyed = await keyed(namespaces=names)
    keys = keyed.served.server.authenticator.keys
    everywhere = await keys.create("root", "admin", ["*"])
    here = await keys.create("here", "admin", ["default", *names])
    by_here = {"Authorization": f"Bearer {here.token}"}
    by_root = {"Authorization": f"Bearer {everywhere.token}"}
    body = {"name": "eve", "role": "admin", "namespaces": ["*"]}
    http = keyed.http
    assert (await http.post("/api/v1/keys", json=body, headers=by_here)).status_code == 404
    for verb in ("rotate", "revoke"):
        answer = await http.post(f"/api/v1/keys/{everywhere.key.id}/{verb}", json={}, headers=by_here)
        assert answer.status_code == 404
    assert "root" not in {key["name"] for key in (await http.get("/api/v1/keys", headers=by_here)).json()["items"]}
    page = await http.get("/keys", headers=by_here)
    assert "here" in page.text
    assert "root" not in page.text
    assert (await http.post("/api/v1/keys", json=body, headers=by_root)).status_code == 201
    body["namespaces"] = ["nowhere"]
    assert (await http.post("/api/v1/keys", json=body, headers=by_root)).status_code == 404
