"""What a server does of what is asked of its store over HTTP, and for whom; and what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure import Perdure, RunFinishedError, RunNotFoundError
from perdure.model.decision import Action, CatalogEntry, Control, Message, RunFilter, StoredDefinition
from perdure.model.document import Document
from perdure.model.errors import StoreReadOnlyError, StoreUnavailableError, UsageError
from perdure.model.queue import QueueLimits, QueueState, Rate
from perdure.model.record import Record
from perdure.model.run import Dedup, NewRun, Retention
from perdure.server import storable
from perdure.store import open_store
from perdure.store.operations import CHANGING, OPERATIONS, PATH, READING
from tests.server.conftest import memory
from tests.server.security import conftest

keyed = conftest.keyed
FAR = storable.FURTHEST_MS


@pytest.fixture
async def served(serve):
    return await serve()


@pytest.fixture
def now(served) -> int:
    return served.app.world.now()


def new(now: int, **more: Any) -> NewRun:
    records = more.pop("records", (Record(0, "input", "input", "ok", now, "{}"),))
    return NewRun(more.pop("id", "r"), more.pop("workflow", "order"), now, more.pop("due_at", now), records, **more)


async def ask(served: Any, name: str, **arguments: Any) -> Any:
    body = msgspec.json.encode(arguments)
    return await served.http.post(f"{PATH}{name}", content=body, headers={"Content-Type": "application/json"})


def message(now: int, **more: Any) -> Message:
    about = {"run_id": "r", "id": "m", "kind": "event", "type": "go", "payload": "1", "at": now}
    return Message(**{**about, **more})


def record(now: int, position: int = 1, **more: Any) -> Record:
    about = {"key": "k", "kind": "step", "state": "ok", "at": now, "payload": "1"}
    return Record(position, **{**about, **more})


def started(now: int) -> Record:
    return Record(0, "input", "input", "ok", now, "{}")


RUNS: list[tuple[str, Any]] = [
    ("runs[0].id", lambda now: new(now, id="a\nb")),
    ("runs[0].id", lambda now: new(now, id="")),
    ("runs[0].workflow", lambda now: new(now, workflow="a/b")),
    ("runs[0].queue", lambda now: new(now, queue="a#b")),
    ("runs[0].version", lambda now: new(now, version="\0")),
    ("runs[0].fingerprint", lambda now: new(now, fingerprint="f" * 20_001)),
    ("runs[0].priority", lambda now: new(now, priority=2**40)),
    ("runs[0].limit_key", lambda now: new(now, limit_key="\x01")),
    ("runs[0].tags", lambda now: new(now, tags={"": "x"})),
    ("runs[0].created_at", lambda now: new(now + 3_600_000)),
    ("runs[0].created_at", lambda now: new(0, due_at=now)),
    ("runs[0].due_at", lambda now: new(now, due_at=now + FAR + 60_000)),
    ("runs[0].due_at", lambda now: new(now, due_at=0)),
    ("runs[0].retention", lambda now: new(now, retention=Retention(FAR + 1))),
    ("runs[0].worker", lambda now: new(now, worker="w")),
    ("runs[0].parent_id", lambda now: new(now, parent_id="p", parent_key="k")),
    ("runs[0].parent_id", lambda now: new(now, is_detached=True)),
    ("runs[0].parent_id", lambda now: new(now, depth=1)),
    ("runs[0].parent_id", lambda now: new(now, refusal="{}")),
    ("runs[0].dedup.key", lambda now: new(now, dedup=Dedup("a\nb"))),
    ("runs[0].dedup.until", lambda now: new(now, dedup=Dedup("a", until=2**62))),
    ("runs[0].records", lambda now: new(now, records=())),
    ("runs[0].records", lambda now: new(now, records=(record(now, 0),))),
    ("runs[0].records[1].position", lambda now: new(now, records=(started(now), record(now, 2)))),
    ("runs[0].records[1].kind", lambda now: new(now, records=(started(now), record(now, kind="output")))),
    ("runs[0].records[1].kind", lambda now: new(now, records=(started(now), record(now, kind="input")))),
    ("runs[0].records[1].kind", lambda now: new(now, records=(started(now), record(now, kind="undo")))),
    ("runs[0].records[1].kind", lambda now: new(now, records=(started(now), record(now, state="open")))),
    ("runs[0].records[1].key", lambda now: new(now, records=(started(now), record(now, key="\n")))),
    ("runs[0].records[1].at", lambda now: new(now, records=(started(now), record(now + FAR)))),
    ("runs[0].records[1].attempt", lambda now: new(now, records=(started(now), record(now, attempt=0)))),
    ("runs[0].records[1].due_at", lambda now: new(now, records=(started(now), record(now, due_at=2**62)))),
    ("runs[0].records[1].before", lambda now: new(now, records=(started(now), record(now, before=9)))),
    ("runs[0].records[1].ref", lambda now: new(now, records=(started(now), record(now, ref="\0")))),
    ("runs[0].records[1].payload", lambda now: new(now, records=(started(now), record(now, payload="{")))),
]


@pytest.mark.parametrize("number", range(len(RUNS)))
async def test_a_run_that_is_none_is_refused(served, now, number):
    path, make = RUNS[number]
    answer = await ask(served, "create", runs=[make(now)])
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith(f"{path}: "), answer.text
    assert (await served.app.store.find(RunFilter(), 9)).runs == []


OTHER = '{"name": "e", "definition": {"steps": [{"name": "t", "task": "t", "after": []}]}, "digest": ""}'

BAD: list[tuple[str, str, Any]] = [
    ("post", "now", lambda now: {"messages": [], "now": 0, "capacity": 1}),
    ("post", "capacity", lambda now: {"messages": [], "now": now, "capacity": 0}),
    *(
        ("post", path, lambda now, more=more: {"messages": [message(now, **more)], "now": now, "capacity": 9})
        for path, more in (
            ("messages[0].run_id", {"run_id": ""}),
            ("messages[0].id", {"id": "m" * 201}),
            ("messages[0].type", {"type": "\n"}),
            ("messages[0].type", {"type": "perdure:recall"}),
            ("messages[0].at", {"at": 1}),
            ("messages[0].kind", {"kind": "child"}),
            ("messages[0].kind", {"state": "error"}),
            ("messages[0].ref", {"ref": "r"}),
            ("messages[0].ref", {"ref": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}),
            ("messages[0].kind", {"seq": 7}),
            ("messages[0].payload", {"payload": "nothing"}),
            ("messages[0].payload", {"type": "perdure:undo", "payload": "7"}),
            ("messages[0].payload.verb", {"type": "perdure:undo", "payload": '{"verb": "erase"}'}),
        )
    ),
    *(
        ("control", path, lambda now, more=more: {"actions": [Control("r", *more)], "now": now})
        for path, more in (
            ("actions[0].notice", (Action.PAUSE, "{}")),
            ("actions[0].notice", (Action.TERMINATE, "{}")),
            ("actions[0].told", (Action.PAUSE, None, {"r": ()})),
            ("actions[0].told", (Action.TERMINATE, None, {"": ()})),
        )
    ),
    (
        "control",
        "actions[0].told",
        lambda now: {"actions": [Control("r", Action.TERMINATE, None, {"r": (new(now, id="other"),)})], "now": now},
    ),
    ("control", "now", lambda now: {"actions": [], "now": now + 3_600_000}),
    ("control", "actions[0].run_id", lambda now: {"actions": [Control("", Action.PAUSE)], "now": now}),
    ("prune", "before", lambda now: {"before": now + 3_600_000, "limit": 1}),
    ("prune", "limit", lambda now: {"before": now, "limit": 0}),
    ("get", "run_ids", lambda now: {"run_ids": ["r"] * 1_001}),
    ("get", "run_ids[1]", lambda now: {"run_ids": ["r", "\x07"]}),
    ("journal", "run_id", lambda now: {"run_id": "", "limit": 1}),
    ("journal", "limit", lambda now: {"run_id": "r"}),
    ("journal", "after", lambda now: {"run_id": "r", "after": -2, "limit": 1}),
    ("inbox", "run_id", lambda now: {"run_id": "\n"}),
    ("find", "limit", lambda now: {"where": RunFilter(), "limit": 1_001}),
    ("find", "cursor", lambda now: {"where": RunFilter(), "limit": 1, "cursor": "\n"}),
    ("find", "where.workflow", lambda now: {"where": RunFilter(workflow="\0"), "limit": 1}),
    ("find", "where.tags", lambda now: {"where": RunFilter(tags={"": ""}), "limit": 1}),
    ("find", "where.created_from", lambda now: {"where": RunFilter(created_from=2**63), "limit": 1, "cursor": None}),
    ("stats", "now", lambda now: {"now": -1}),
    ("read", "keys", lambda now: {"collection": "app.c", "keys": ["k"] * 101}),
    ("read", "keys[0]", lambda now: {"collection": "app.c", "keys": [""]}),
    ("documents", "limit", lambda now: {"collection": "app.c", "limit": 101}),
    ("documents", "collection", lambda now: {"collection": "", "limit": 1}),
    ("put", "document.key", lambda now: {"documents": [Document("app.c", "", "t")]}),
    ("put", "documents[0].at", lambda now: {"documents": [Document("app.c", "k", "t", at=-1)]}),
    ("look_into", "each", lambda now: {"queue": "q", "now": now, "keys": 1_000, "each": 2, "after": None}),
    ("look_into", "queue", lambda now: {"queue": "a/b", "now": now, "keys": 1, "each": 1, "after": None}),
    ("set_queue", "state.name", lambda now: {"state": QueueState("")}),
    ("set_queue", "state.version", lambda now: {"state": QueueState("q", 0)}),
    ("set_queue", "queue 'q', concurrency", lambda now: {"state": QueueState("q", limits=QueueLimits(0))}),
    (
        "set_queue",
        "state.limits.rate.period_ms",
        lambda now: {"state": QueueState("q", limits=QueueLimits(rate=Rate(1, 0)))},
    ),
    ("publish", "entries[0].workflow", lambda now: {"entries": [CatalogEntry("order", "", "default", "{}", now, "w")]}),
    ("define", "definitions[0].text", lambda now: {"definitions": [StoredDefinition("d", "1", "[]", now)]}),
    ("define", "definitions[0].text", lambda now: {"definitions": [StoredDefinition("d", "1", "{}", now)]}),
    (
        "define",
        "definitions[0].name",
        lambda now: {"definitions": [StoredDefinition("d", "1", OTHER, now)]},
    ),
]


@pytest.mark.parametrize("number", range(len(BAD)))
async def test_what_is_out_of_its_bounds_is_refused(served, now, number):
    name, path, make = BAD[number]
    answer = await ask(served, name, **make(now))
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith(f"{path}: "), answer.text


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ((b'"id":"r"', b'"id":"r","more":1'), "body.runs[0]", "unknown field `more`"),
        ((b'"id":"r"', b'"id":"q","id":"r"'), "body", "the name 'id' twice"),
        ((b'"runs":', b'"runs":[],"runs":'), "body", "the name 'runs' twice"),
        ((b'"{}"', b'"{}",1,1,null,null,null,1,1,1,1'), "body.runs[0].records[0]", "have a meaning"),
        ((b'"id"', b' "id"'), "", ""),
    ],
)
async def test_what_nobody_reads_is_refused(served, now, change, path, message):
    body = msgspec.json.encode({"runs": [new(now)]})
    assert change[0] in body
    answer = await served.http.post(
        f"{PATH}create", content=body.replace(*change, 1), headers={"Content-Type": "application/json"}
    )
    if not path:
        assert answer.status_code == 200, answer.text
        return
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path), answer.text
    assert message in answer.json()["errors"][0]["message"]


async def test_what_is_no_request_is_refused(served):
    assert (await ask(served, "claim", queues=["default"])).status_code == 404
    assert (await ask(served, "get", run_ids=["r"], more=1)).json()["detail"] == (
        "body: Object contains unknown field `more`"
    )
    assert (await ask(served, "get", run_ids=[7])).json()["errors"] == [
        {"path": "body.run_ids[0]", "message": "Expected `str`, got `int`"}
    ]
    for text, kind, status in (
        (b'"', "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"\\ud800", "application/json", 400),
        (b"r", "text/plain", 415),
        (b"r" * 1_100_000, "application/json", 413),
    ):
        for name, body in (("get", b'{"run_ids": ["%b"]}'), ("wait", b'{"timeout": 1, "last": "%b"}')):
            answer = await served.http.post(f"{PATH}{name}", content=body % text, headers={"Content-Type": kind})
            assert answer.status_code == status, (name, text[:30], answer.text)
    assert (await ask(served, "wait", timeout=1e9)).status_code == 422
    assert (await ask(served, "wait", timeout=-1)).status_code == 422


async def test_a_payload_is_as_large_as_the_limits_of_the_server_say(served, now):
    large = msgspec.json.encode("x" * 600_000).decode()
    first = Record(0, "input", "input", "ok", now, large)
    object.__setattr__(served.app.settings.limits, "payload_bytes", 500_000)
    answer = await ask(served, "create", runs=[new(now, records=(first,))])
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:perdure:error:payload-too-large"


async def test_who_may_ask_what(keyed):
    server = await keyed()
    for name in OPERATIONS:
        assert (await ask(server, name)).status_code == 401
        answer = await server.ask("viewer", "POST", f"{PATH}{name}", json={})
        assert (answer.status_code == 403) == (name in CHANGING), (name, answer.text)
        assert (await server.ask("operator", "POST", f"{PATH}{name}", json={})).status_code in (200, 422)
    assert set(OPERATIONS) == {*READING, *CHANGING}


async def test_what_is_the_servers_is_not_shown(keyed):
    server = await keyed()
    store = server.served.app.store
    await store.put([Document("app.prices", "tea", "3"), Document("workers", "w1", "{}")])
    await server.served.server.auditor.log("default").add("ada", "local", "runs.pause", "r")

    async def asked(role: str, name: str, **given: Any) -> Any:
        return await server.ask(role, "POST", f"{PATH}{name}", json=given)

    assert (await asked("viewer", "collections")).json() == ["app.prices", "workers"]
    assert (await asked("admin", "collections")).json() == ["app.prices", "audit", "workers"]
    assert [each["text"] for each in (await asked("viewer", "read", collection="app.prices", keys=["tea"])).json()] == [
        "3"
    ]
    assert len((await asked("viewer", "documents", collection="workers", limit=9)).json()) == 1
    assert (await asked("viewer", "documents", collection="audit", limit=9)).status_code == 403
    for collection in ("keys", "sessions", "views", "perdure"):
        assert (await asked("admin", "read", collection=collection, keys=["k"])).status_code == 403
        assert (await asked("admin", "documents", collection=collection, limit=1)).status_code == 403
    for collection in ("keys", "sessions", "views", "perdure", "audit", "workers"):
        document = msgspec.to_builtins(Document(collection, "k", "mine"))
        assert (await asked("admin", "put", documents=[document])).status_code == 403
    put = [msgspec.to_builtins(Document("app.prices", "cake", "5"))]
    assert (await asked("operator", "put", documents=put)).json() == [True]


async def test_what_named_fields_hold_is_masked_for_viewers(keyed):
    server = await keyed(redact=("card",))
    now = server.served.app.world.now()
    record = Record(0, "input", "input", "ok", now, '{"card":"4711","tea":1}')
    await server.served.app.store.create([NewRun("r", "order", now, now, (record,))])
    await server.served.app.store.post([message(now, payload='{"card":"4712"}')], now, 9)
    await server.served.app.store.put([Document("app.c", "k", '{"card":"4713"}')])
    for name, given in (
        ("journal", {"run_id": "r", "limit": 9}),
        ("inbox", {"run_id": "r"}),
        ("read", {"collection": "app.c", "keys": ["k"]}),
        ("documents", {"collection": "app.c", "limit": 9}),
    ):
        seen = await server.ask("viewer", "POST", f"{PATH}{name}", json=given)
        assert seen.status_code == 200
        assert "471" not in seen.text, name
        assert OPERATIONS[name].read_answer(seen.content)
        assert "471" in (await server.ask("operator", "POST", f"{PATH}{name}", json=given)).text


async def test_where_the_store_is_viewers_are_not_told(keyed):
    server = await keyed()
    viewer = (await server.ask("viewer", "POST", f"{PATH}describe", json={})).json()
    assert (viewer["url"], viewer["settings"]) == ("", {})
    assert viewer["engine"] == "memory"


async def test_prune_keeps_what_is_not_expired(served, now):
    await served.app.store.create([new(now)])
    await served.app.store.control([Control("r", Action.TERMINATE)], now)
    assert (await ask(served, "prune", before=now + 500_000, limit=9)).json() == 0
    assert (await served.app.store.get(["r"]))[0] is not None


async def test_each_namespace_has_its_own_runs(serving):
    served = await serving(store=memory(), namespaces={"acme": memory()})
    keys = served.server.authenticator.keys
    acme = await keys.create("acme", "operator", ["acme"])
    both = await keys.create("both", "viewer", ["default", "acme"])
    served.app.world.ahead += 2_001
    url = str(served.http.base_url)
    async with Perdure(f"{url}?api_key={acme.token}") as app:
        await app.start("order", id="mine")
    async with Perdure(f"{url}?api_key={both.token}") as app:
        with pytest.raises(RunNotFoundError):
            await app.run("mine").get()
        with pytest.raises(StoreReadOnlyError, match="takes the role operator, and viewer is what you have"):
            await app.start("order")
    async with Perdure(f"{url}?api_key={both.token}&namespace=acme") as app:
        assert (await app.run("mine").get()).workflow == "order"
        assert (await app.describe()).settings["namespace"] == "acme"
    for options, said in (
        (
            {"api_key": acme.token, "namespace": "default"},
            "there is no namespace 'default'; check the option namespace",
        ),
        ({"api_key": "pdk_wrong"}, "set PERDURE_API_KEY, or give api_key"),
        ({}, "set PERDURE_API_KEY, or give api_key"),
    ):
        with pytest.raises(StoreUnavailableError, match=said):
            await open_store(url, **options).open()


async def test_the_key_of_the_environment_is_shown(serving, monkeypatch):
    served = await serving()
    key = await served.server.authenticator.keys.create("ada", "operator", ["default"])
    served.app.world.ahead += 2_001
    monkeypatch.setenv("PERDURE_API_KEY", key.token)
    async with Perdure(str(served.http.base_url)) as app:
        await app.start("order", id="mine")
    with pytest.raises(StoreUnavailableError):
        await Perdure(f"{served.http.base_url}?api_key=pdk_other").open()


async def test_reserved_messages_are_an_operators_actions(serving):
    served = await serving(Perdure(memory()))
    async with Perdure(str(served.http.base_url)) as app:
        run = await app.start("order", anyway=True)
        await run.terminate(undo=True)
        with pytest.raises(UsageError, match="no failed undo"):
            await run.retry_undo()
        with pytest.raises(RunNotFoundError):
            await app.run("nobody").pause()
        with pytest.raises(RunFinishedError):
            await run.terminate()
            await run.pause()
    entries = await served.server.auditor.log("default").page(9)
    assert [(entry.action, entry.target, entry.outcome) for entry in reversed(entries)] == [
        ("runs.terminate", run.id, ""),
        ("runs.pause", "nobody", ""),
        ("runs.pause", "nobody", "failed (409)"),
        ("runs.terminate", run.id, ""),
        ("runs.pause", run.id, ""),
        ("runs.pause", run.id, "failed (409)"),
    ]
