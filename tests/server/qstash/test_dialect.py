"""How QStash's clients prove who they are, and how they are told what is wrong."""

from __future__ import annotations

import base64
import json

import pytest

from perdure.server.qstash.dialect import qstash_token

QUEUES = "/v2/queues"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_without_keys_any_token_is_as_good(served):
    for headers in ({}, bearer("nothing"), bearer(qstash_token("default", "pdk_x")), {"Authorization": "Basic x"}):
        assert (await served.http.get(QUEUES, headers=headers)).json() == []
    assert (await served.http.get("/api/v1/runs", headers=bearer("nothing"))).status_code == 401


@pytest.mark.parametrize("headers", [{"X-Forwarded-For": "9.9.9.9"}, {"Origin": "https://evil.example"}])
async def test_without_keys_nobody_from_elsewhere_gets_in(served, headers):
    answer = await served.http.post("/v2/publish/http://x.example", headers={**bearer("nothing"), **headers})
    assert answer.status_code == 403
    assert list(answer.json()) == ["error"]


async def test_a_key_is_taken_in_each_form(keyed):
    keyed = await keyed()
    key = keyed.keys["operator"].token
    token = qstash_token("default", key)
    assert json.loads(base64.b64decode(token)) == {"UserID": "default", "Password": key}
    for given in (key, token, token.rstrip("="), qstash_token("somebody", key)):
        assert (await keyed.http.get(QUEUES, headers=bearer(given))).status_code == 200
        assert (await keyed.http.get(QUEUES, params={"qstash_token": given})).status_code == 200


async def test_a_token_names_its_namespace(keyed):
    keyed = await keyed(namespaces={"acme": None, "beta": None})
    keys = keyed.served.server.authenticator.keys
    key = (await keys.create("both", "operator", ["acme", "beta"])).token
    for name in ("acme", "beta"):
        headers = bearer(qstash_token(name, key))
        assert (await keyed.http.post(QUEUES, json={"queueName": name}, headers=headers)).status_code == 200
        assert [each["name"] for each in (await keyed.http.get(QUEUES, headers=headers)).json()] == [name]
    assert (await keyed.http.get(QUEUES, headers=bearer(qstash_token("default", key)))).status_code == 404


async def test_what_is_no_token_is_refused_as_qstash_does_it(keyed):
    keyed = await keyed()
    key = keyed.keys["operator"].token
    for given in (
        "nothing",
        qstash_token("default", "pdk_" + "0" * 20 + "_" + "0" * 48),
        qstash_token("default", "x"),
        base64.b64encode(b"[]").decode(),
        base64.b64encode(json.dumps({"UserID": 5, "Password": key}).encode()).decode(),
        "x" * 20_000,
    ):
        answer = await keyed.http.get(QUEUES, headers=bearer(given))
        assert (answer.status_code, answer.json()) == (401, {"error": "unable to authenticate: invalid token"})
    assert (await keyed.http.get(QUEUES)).status_code == 401
    # A wrong header is not mended by a right parameter.
    answer = await keyed.http.get(QUEUES, params={"qstash_token": key}, headers=bearer("nothing"))
    assert answer.status_code == 401


async def test_only_these_paths_take_a_token_from_the_query(keyed):
    keyed = await keyed()
    answer = await keyed.http.get("/api/v1/queues", params={"qstash_token": keyed.keys["operator"].token})
    assert answer.status_code == 401


async def test_the_token_is_not_part_of_a_destination(keyed, there):
    keyed = await keyed()
    token = keyed.keys["operator"].token
    for query in (f"?qstash_token={token}", f"?a=b&qstash_token={token}", f"?qstash_token={token}&a=b"):
        answer = await keyed.http.post(f"/v2/publish/{there.url}/x{query}", headers={"Upstash-Delay": "1h"})
        shown = await keyed.ask("viewer", "GET", f"/v2/messages/{answer.json()['messageId']}")
        assert shown.json()["url"] in (f"{there.url}/x", f"{there.url}/x?a=b")
    # With a header, what the query says is the destination's own.
    answer = await keyed.ask("operator", "POST", f"/v2/publish/{there.url}/x?qstash_token=y", {"Upstash-Delay": "1h"})
    shown = await keyed.ask("viewer", "GET", f"/v2/messages/{answer.json()['messageId']}")
    assert shown.json()["url"] == f"{there.url}/x?qstash_token=y"


async def test_a_viewer_reads_and_changes_nothing(keyed):
    keyed = await keyed()
    await keyed.ask("operator", "POST", QUEUES, json={"queueName": "q"})
    assert len((await keyed.ask("viewer", "GET", QUEUES)).json()) == 1
    for method, path in (
        ("POST", "/v2/publish/http://x.example"),
        ("POST", "/v2/batch"),
        ("DELETE", "/v2/messages"),
        ("DELETE", "/v2/queues/q"),
        ("POST", "/v2/schedules/http://x.example"),
    ):
        answer = await keyed.ask("viewer", method, path, json=[])
        assert answer.status_code == 403, path
        assert list(answer.json()) == ["error"]
    assert (await keyed.ask("operator", "GET", "/v2/keys")).status_code == 403
    assert set((await keyed.ask("admin", "GET", "/v2/keys")).json()) == {"current", "next"}


async def test_who_asks_too_often_is_told_when_to_come_back(keyed):
    keyed = await keyed(rate="2/minute")
    answers = [await keyed.ask("viewer", "GET", QUEUES) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    headers = answers[2].headers
    assert (headers["burst-ratelimit-limit"], headers["burst-ratelimit-remaining"]) == ("2", "0")
    now = keyed.served.app.world.now() // 1000
    assert now < int(headers["burst-ratelimit-reset"]) <= now + 31


async def test_what_is_changed_is_written_down(keyed):
    keyed = await keyed()
    await keyed.ask("operator", "POST", QUEUES, json={"queueName": "q", "parallelism": 3})
    await keyed.ask("operator", "POST", "/v2/queues/none/pause")
    await keyed.ask("viewer", "DELETE", "/v2/queues/q")
    entries = await keyed.served.server.auditor.log("default").page(10)
    found = [(each.who, each.action, each.outcome) for each in entries]
    assert found[-1] == ("operator", "queues.put", "")
    assert ("operator", "queues.pause", "failed (400)") not in found
    assert ("operator", "queues.pause", "failed (404)") in found
    assert ("viewer", "qstash_delete_queue", "refused (403)") in found


async def test_which_messages_were_meant_is_written_down(keyed):
    keyed = await keyed()
    for query in ({"label": "a,b", "fromDate": "5"}, {"messageIds": [f"msg_{number}" for number in range(100)]}, {}):
        await keyed.ask("operator", "DELETE", "/v2/messages", params=query)
    entries = await keyed.served.server.auditor.log("default").page(10)
    every, ids, filters = (each.details for each in entries)
    assert filters == {"labels": ["a", "b"], "created_from": 5}
    assert ids == {"ids": [f"msg_{number}" for number in range(20)]}
    assert every == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("PUT", "/v2/queues", 405),
        ("POST", "/v2/queues", 400),
        ("GET", "/v2/queues/none", 404),
        ("GET", "/v2/queues/%00", 400),
        ("GET", "/v2/messages/none", 404),
        ("POST", "/v2/publish/api/llm", 501),
        ("POST", "/llm/v1/chat/completions", 501),
        ("GET", "/v2/bulkActions", 501),
        ("GET", "/v2/stats", 501),
        ("POST", "/v2/messages/msg_x/retry", 404),
    ],
)
async def test_errors_are_told_as_qstash_tells_them(served, method, path, status):
    answer = await served.http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]
