"""Fifty secrets go in wherever one can, and are looked for wherever something comes out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure import NonRetryableError, Perdure, Retry, flow
from perdure.engine.keys import encryption_here
from perdure.model.errors import StoreError
from perdure.server import ServerSettings, create_server
from perdure.server.access import PUBLIC
from perdure.server.namespaces import Namespaces
from perdure.server.security.issuers import Issuer
from perdure.server.server import Server
from perdure.telemetry import OpenTelemetry
from tests.server.security.conftest import PAGE, Browser, Keyed
from tests.server.security.operations import ASKED

HIDDEN = ("card", "password")
"""The fields that the settings name, which viewers do not see."""

RUN = "paid"
FAILED = "refused"
STEP_SAID = "the message of a step's error"
STEP_SAID_MORE = "a word in the message of a step's error"


class Canaries(dict[str, str]):
    """Texts by where they were put in; one is made when it is asked for first."""

    def __missing__(self, place: str) -> str:
        self[place] = f"canary{hashlib.sha256(place.encode()).hexdigest()[:16]}"
        return self[place]

    def found_in(self, text: str | bytes) -> list[str]:
        found = text if isinstance(text, str) else text.decode("latin-1")
        return [place for place, canary in self.items() if canary in found]


class Declined(Exception):
    """An error with more in it than its message."""

    def __init__(self, message: str, card: str) -> None:
        super().__init__(message)
        self.card = card


def worker_of(url: str, told: Canaries, exported: InMemorySpanExporter) -> Perdure:
    """What carries them: each value under a name that is hidden, or in something that is not told of at all."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    app = Perdure(url, encryption=encryption_here(), telemetry=[OpenTelemetry(provider)])

    @app.step
    async def charge(card: str, order: dict[str, Any]) -> dict[str, Any]:
        flow.heartbeat({"card": told["progress"]})
        logging.getLogger("shop").info("charging")
        return {"card": told["a step's result"], "deep": [{"Card_Number": 1, "pass-word": told["deep in a result"]}]}

    @app.workflow(name="receipt")
    async def receipt(card: str) -> dict[str, str]:
        return {"card": told["a child's result"]}

    @app.workflow(name="pay")
    async def pay(card: str, order: dict[str, Any]) -> dict[str, Any]:
        flow.set("basket", {"card": told["state"]})
        await charge(told["a step's argument"], {"password": told["deep in a step's argument"]})
        await receipt(told["a child's input"])
        await flow.wait_for_event("confirm", type="confirm")
        await flow.emit("shipped", {"card": told["an emitted event"]})
        return {"card": told["a run's result"], "as text": json.dumps({"password": told["JSON in a text"]})}

    @app.step
    async def refuse(password: str) -> None:
        local = told["a local variable of a step that fails"]
        try:
            raise Declined(json.dumps({"card": told["the message of a cause"]}), local)
        except Declined as error:
            raise NonRetryableError(
                f"HTTP 400: {json.dumps({'card': told[STEP_SAID]})} password={told[STEP_SAID_MORE]}"
            ) from error

    @app.workflow(name="refuse")
    async def fail(card: str) -> None:
        try:
            await refuse(told["an argument of a step that fails"])
        except NonRetryableError as error:
            raise Declined(
                json.dumps({"password": told["the message of a run's error"]}), told["an error's field"]
            ) from error

    def take_back(result: str) -> None:
        raise NonRetryableError(f"card: '{told['the message of an undo']}'")

    @app.step(undo=take_back)
    async def book(card: str) -> str:
        return "booked"

    @app.step(retry=Retry(attempts=9, delay="1 hour"))
    async def stumble(card: str) -> None:
        raise ValueError(f"{{'password': '{told['the message of a step that is tried again']}'}}")

    @app.workflow(name="stuck")
    async def stuck(card: str) -> None:
        await book(told["an argument of a step with an undo"])
        raise NonRetryableError("no")

    @app.workflow(name="tries")
    async def tries(card: str) -> None:
        await stumble(told["an argument of a step that is tried again"])

    return app


@pytest.fixture
def told() -> Canaries:
    return Canaries()


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def shop(keyed, told, exported, tmp_path, monkeypatch) -> Keyed:
    """A server, and a worker that has worked all that carries canaries."""
    secret = hashlib.sha256(told["a key of encryption"].encode()).digest()
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", "k1:" + base64.b64encode(secret).decode())
    told["a key of encryption"] = base64.b64encode(secret).decode()
    worker = worker_of(f"sqlite:///{tmp_path}/shop.db", told, exported)
    keyed = await keyed(worker, redact=HIDDEN)
    for role, made in keyed.keys.items():
        told[f"the key of {role}"] = made.token.rpartition("_")[2]
    order = {"password": told["deep in an input"]}
    pay = {"workflow": "pay", "input": {"card": told["an input"], "order": order}, "id": RUN}
    assert (await keyed.ask("operator", "POST", "/api/v1/runs", json=pay)).status_code == 201
    fails = {"workflow": "refuse", "input": {"card": told["an input of a run that fails"]}, "id": FAILED}
    batch = {"runs": [fails, {**fails, "id": "again", "input": {"card": told["an input in a batch"]}}]}
    assert (await keyed.ask("operator", "POST", "/api/v1/runs/batch", json=batch)).status_code in (200, 201)
    early = {"type": "never", "payload": {"card": told["an event that nobody waits for"]}}
    await keyed.ask("operator", "POST", f"/api/v1/runs/{RUN}/events", json=early)
    event = {"type": "confirm", "payload": {"card": told["an event"]}}
    assert (await keyed.ask("operator", "POST", f"/api/v1/runs/{RUN}/events", json=event)).status_code < 300
    async with asyncio.timeout(10):
        await worker.run(RUN).result()
        for run_id in (FAILED, "again"):
            with pytest.raises(Exception, match="card|password"):
                await worker.run(run_id).result()
    for name, status in (("stuck", "compensation_failed"), ("tries", "waiting")):
        run = await worker.start(name, input={"card": told[f"an input of {name}"]}, id=name)
        async with asyncio.timeout(10):
            while (await run.get()).status.value != status:
                await asyncio.sleep(0.005)
    schedule = {
        "name": "nightly",
        "workflow": "pay",
        "every": "1 day",
        "input": {"card": told["a schedule's input"], "order": {}},
    }
    assert (await keyed.ask("operator", "POST", "/api/v1/schedules", json=schedule)).status_code == 201
    return keyed


async def ask_wrongly(keyed: Keyed, told: Canaries) -> Browser:
    """Ask with secrets in every place of a request, right ones and wrong ones; return a session."""
    browser = await keyed.log_in("viewer")
    told["a session's cookie"] = browser.token
    told["a session's CSRF token"] = browser.csrf
    http, path = keyed.http, "/api/v1/runs"
    key = keyed.keys["viewer"].key.id
    said = [
        await http.get(path, headers={"Authorization": f"Bearer {told['a bearer that is none']}"}),
        await http.get(
            path, headers={"Authorization": f"Bearer pdk_{key}_{told['a wrong secret'].encode().hex()[:48]}"}
        ),
        await http.get(path, headers={"Authorization": f"Basic {told['another scheme']}"}),
        await http.get(
            path, headers={"Cookie": f"perdure={told['a wrong cookie']}; other={told['a cookie of others']}"}
        ),
        await http.get(path, params={"token": told["the query"]}, headers=keyed.bearer("viewer")),
        await http.get(path, params={"api_key": told["the query without a key"]}),
        await http.post("/login", json={"key": told["a wrong login"]}, headers=PAGE),
        await http.post("/login", json={"key": [told["a login that is no text"]]}, headers=PAGE),
        await browser.ask("POST", f"{path}/{RUN}/pause", {"Perdure-CSRF": told["a wrong CSRF token"]}, json={}),
    ]
    for header in (
        "X-Api-Key",
        "Proxy-Authorization",
        "X-Auth-Token",
        "X-Request-Id",
        "Forwarded",
        "Referer",
        "traceparent",
    ):
        headers = {**keyed.bearer("viewer"), header: f"{told[f'the header {header}']} {header}"}
        said.append(await http.get(path, headers=headers))
    for answer in said:
        assert not told.found_in(answer.text + str(answer.headers)), answer.request.headers
    return browser


async def test_none_of_fifty_canaries_comes_out_anywhere(shop, told, exported, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    seen: dict[str, str | bytes] = {}
    browser = await ask_wrongly(shop, told)
    ids = (RUN, FAILED, "again", "stuck", "tries", "nightly", "pay", "default", "1")

    async def look(what: str, method: str, path: str, **request: Any) -> None:
        answer: httpx.Response = await shop.ask("viewer", method, path, **request)
        seen[f"{what} {method} {path}"] = answer.text + str(answer.headers)

    for operation in ASKED:
        if not operation.is_stream:
            for named in ids if "{" in operation.path else ids[:1]:
                request = operation.request(named)
                await look("API", request.pop("method"), request.pop("url"), **request)
    pages = [route.path for route in shop.served.asgi.routes if "GET" in route.methods and route.path not in PUBLIC]
    for path in [path for path in pages if not path.endswith("/watch")]:
        for named in ids if "{" in path else ids[:1]:
            filled = re.sub(r"\{what\}", "output", path)
            await look("page", "GET", re.sub(r"\{\w+(:\w+)?\}", named, filled), headers={"Accept": "text/html"})
    for what in ("input", "state", "progress", "1", "2", "3"):
        await look("download", "GET", f"/runs/{RUN}/download/{what}")
    for name, arguments in (
        ("get", {"run_ids": [RUN, FAILED, "stuck", "tries"]}),
        ("journal", {"run_id": RUN, "after": -1}),
        ("journal", {"run_id": FAILED, "after": -1}),
        ("inbox", {"run_id": RUN}),
        ("find", {"where": {}, "limit": 10, "cursor": None}),
        ("describe", {}),
    ):
        await look(f"store {arguments}", "POST", f"/api/v1/store/{name}", json=arguments)
    assert sum("complete" in str(text) for text in seen.values()) > 5
    assert [what for what, text in seen.items() if "test_canaries.py" in str(text)] == []  # nor where errors come from
    seen["session"] = (await browser.ask("GET", "/runs")).text.replace(browser.csrf, "")
    for key in ("the audit log", "the keys"):
        path = {"the audit log": "/api/v1/audit?limit=1000", "the keys": "/api/v1/keys"}[key]
        seen[key] = (await shop.ask("admin", "GET", path)).text
    records = [record for record in caplog.records if not record.name.startswith(("httpx", "asyncio"))]
    seen["logs"] = "\n".join(f"{record.getMessage()} {vars(record)}" for record in records)
    assert len(records) > 100
    spans = [json.loads(span.to_json()) for span in exported.get_finished_spans()]
    assert {"charge", "refuse"} <= {span["name"].rpartition(" ")[2] for span in spans}
    for span in spans:  # messages of errors go there as they are: they are what traces are looked into for
        span["status"].pop("description", None)
        span["events"] = [event for event in span["events"] if event["name"] != "exception"]
    seen["traces"] = json.dumps(spans)
    server = shop.served.server
    for part in (server.settings, server.namespaces.default, server.authenticator.keys, *shop.keys.values()):
        seen[f"repr {type(part)}"] = repr(part)
    for file in tmp_path.glob("shop.db*"):
        seen[file.name] = file.read_bytes()
    assert b"refuse" in seen["shop.db"] + seen.get("shop.db-wal", b"")
    assert len(told) >= 50
    assert {what: found for what, text in seen.items() if (found := told.found_in(text))} == {}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:{}@127.0.0.1:1/shop?patience=100ms",
        "redis://:{}@127.0.0.1:1/0?patience=100ms",
        "https://127.0.0.1:1?api_key={}&patience=100ms",
    ],
)
async def test_a_store_s_password_is_in_no_error_and_no_log(told, url, caplog):
    caplog.set_level(logging.DEBUG)
    url = url.replace("{}", told[url])
    settings = ServerSettings(store=url, namespaces={"acme": url.replace("127.0.0.1", "localhost")})
    spaces = Namespaces(settings)
    with pytest.raises(StoreError) as failed:
        await spaces.open()
    server: Server = create_server(settings).state.server
    said = [str(failed.value), repr(failed.value), repr(settings), repr(spaces.default), repr(server), caplog.text]
    assert told.found_in("\n".join(said)) == []


def test_an_issuer_s_url_with_a_password_is_refused(told):
    url = f"https://ada:{told['jwks']}@id.example/certs"
    with pytest.raises(Exception, match="jwks") as refused:
        Issuer("https://id.example", "perdure", url)
    assert told.found_in(str(refused.value)) == []
