"""The webhooks of an application, served beside the API: to anybody who can sign, at their very paths."""

from __future__ import annotations

import logging

import pytest

from perdure import Perdure, StoreUnavailableError, UsageError
from perdure.server import ServerSettings, create_server
from tests.inbound.asking import post, signed, verifier
from tests.server.conftest import memory

PAID = {"id": "evt_1", "type": "invoice.paid"}


def shop(path: str = "/hooks/stripe", url: str = "memory://elsewhere") -> Perdure:
    app = Perdure(url)

    @app.webhook(path, verify=verifier())
    @app.workflow(queue="money")
    async def keep(event: dict) -> str:
        return event["id"]

    return app


async def with_hooks(serve, **settings):
    served = await serve(**settings)
    served.asgi.state.hooks.take(shop())
    return served


async def test_a_webhook_starts_a_run_in_the_store_of_the_server(serve):
    served = await with_hooks(serve)
    body, headers = signed(PAID)
    for _ in range(3):
        answer = await served.http.post("/hooks/stripe", content=body, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["x-content-type-options"] == "nosniff"
    (run,) = (await served.app.runs()).runs
    assert (run.workflow, run.queue, run.tags["webhook"]) == ("keep", "money", "/hooks/stripe")


async def test_who_asks_needs_no_key_but_a_signature(serve):
    served = await with_hooks(serve)
    await served.server.authenticator.keys.create("ada", "admin", ["default"])
    body, headers = signed(PAID)
    assert (await served.http.get("/api/v1/runs")).status_code == 401
    assert (await served.http.post("/hooks/stripe", content=body, headers=headers)).status_code == 200
    assert (await served.http.post("/hooks/stripe", content=body)).status_code == 401
    answer = await served.http.get("/hooks/stripe")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    for path in ("/hooks/stripe/", "/hooks", "/hooks/%73tripe", "/hooks/stripe%2F", "//hooks/stripe", "/hooks/Stripe"):
        assert (await served.http.post(path, content=body, headers=headers)).status_code == 401, path


@pytest.mark.parametrize(
    "path", ["/api/v1/runs", "/api/anything", "/login", "/livez", "/runs", "/metrics", "/v2/publish"]
)
def test_no_path_of_the_server_is_taken(path):
    with pytest.raises(UsageError, match="choose another"):
        create_server(ServerSettings(store=memory()), hooks=shop(path))


async def test_the_bounds_of_the_server_hold(serve):
    served = await with_hooks(serve, body_bytes=1_024, rate="4/hour")
    taken = 0

    async def endless():
        nonlocal taken
        while taken < 5 * 2**20:
            taken += 1
            yield b"x" * 1_024

    answer = await served.http.post("/hooks/stripe", content=endless())
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert taken == 2
    body, headers = signed({**PAID, "text": "x" * 1_024})
    assert (await served.http.post("/hooks/stripe", content=body, headers=headers)).status_code == 413
    body, headers = signed(PAID)
    answers = [await served.http.post("/hooks/stripe", content=body, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_store_that_cannot_be_reached(serve):
    served = await with_hooks(serve)

    async def down(*args, **options):
        raise StoreUnavailableError("no route to db.internal")

    served.app.client.create = down
    body, headers = signed(PAID)
    answer = await served.http.post("/hooks/stripe", content=body, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "internal" not in answer.text


async def test_logs_and_metrics_know_the_path_and_not_the_body(serve, caplog):
    served = await with_hooks(serve)
    caplog.set_level(logging.DEBUG)
    body, headers = signed({**PAID, "card": "4242424242424242"})
    await served.http.post("/hooks/stripe", content=body, headers=headers)
    await served.http.post("/hooks/stripe", content=body + b" ", headers=headers)
    assert "POST /hooks/stripe 200" in caplog.text
    assert "4242" not in caplog.text
    assert headers["Stripe-Signature"] not in caplog.text
    metrics = (await served.http.get("/metrics")).text
    assert 'perdure_requests_total{method="POST",route="/hooks/stripe",status="200"} 1.0' in metrics


async def test_another_application_takes_the_place_of_the_first(serve):
    served = await with_hooks(serve)
    served.asgi.state.hooks.take(shop("/hooks/new"))
    body, headers = signed(PAID)
    assert (await served.http.post("/hooks/new", content=body, headers=headers)).status_code == 200
    assert (await served.http.post("/hooks/stripe", content=body, headers=headers)).status_code == 404
    with pytest.raises(UsageError):
        served.asgi.state.hooks.take(shop("/login"))
    assert (await served.http.post("/hooks/new", content=body, headers=headers)).status_code == 200


async def test_another_namespace_is_served_by_an_application_of_its_own(serving):
    served = await serving(namespaces={"acme": memory()})
    url = str(served.http.base_url).rstrip("/")
    async with Perdure(f"{url}?namespace=acme", mode="client") as app:

        @app.webhook("/hooks/x", verify=verifier())
        @app.workflow
        async def keep(event: dict) -> None: ...

        for _ in range(2):
            assert (await post(app, "/hooks/x", PAID)).status_code == 200
        (run,) = (await app.runs()).runs
        assert (run.workflow, run.tags["webhook"]) == ("keep", "/hooks/x")
    assert not (await served.app.runs()).runs
