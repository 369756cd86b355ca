from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from perdure.model.decision import StoredDefinition
from perdure.server import dashboard

PAGES = [
    "/",
    "/runs",
    "/runs?status=errored&workflow=broken&since=1+day",
    "/runs/order-1",
    "/runs/etl%2F1%20%25",
    "/runs/broken-1",
    "/runs/trip-1",
    "/failures",
    "/queues",
    "/queues/post",
    "/queues/nobody-knows-it",
    "/schedules",
    "/schedules/nightly",
    "/definitions",
    "/definitions/order",
    "/definitions/etl",
    "/workers",
    "/undos",
]
FOR_OPERATORS = ["/audit", "/endpoints"]
FOR_ADMINS = ["/keys"]


def text(answer) -> str:
    """What a page says, without its elements."""
    return html.unescape(re.sub(r"<[^>]+>", " ", answer.text))


async def test_every_page_is_there_for_whom_it_is_for(scene):
    roles = {role: await scene.key(role) for role in ("viewer", "operator", "admin")}
    for path in PAGES:
        for headers in roles.values():
            answer = await scene.get(path, headers)
            assert answer.status_code == 200, (path, text(answer))
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
    for path, least in [*((path, 2) for path in FOR_OPERATORS), *((path, 3) for path in FOR_ADMINS)]:
        for rank, (role, headers) in enumerate(roles.items(), 1):
            answer = await scene.get(path, headers)
            assert answer.status_code == (200 if rank >= least else 403), (path, role)


async def test_viewers_are_offered_nothing_that_they_may_not_do(scene):
    viewer, operator = await scene.key("viewer"), await scene.key("operator")
    for path in PAGES:
        page = (await scene.get(path, viewer)).text
        assert "data-action" not in page, path
        assert "data-form" not in page, path
        assert "data-verb" not in page, path
    assert "data-action" in (await scene.get("/runs/order-1", operator)).text


async def test_viewers_see_named_fields_masked_and_operators_do_not(scene):
    for role, is_seen in (("viewer", False), ("operator", True)):
        headers = await scene.key(role)
        page = await scene.get("/runs/order-1", headers)
        assert ("4242-4242" in page.text) is is_seen
        assert ("***" in text(page)) is not is_seen
        position = next(
            r.position for r in await scene.worker.client.journal("order-1") if r.key == "charge" and r.state == "ok"
        )
        value = await scene.get(f"/runs/order-1/download/{position}", headers)
        assert ("4242-4242" in value.text) is is_seen


async def test_a_run_tells_what_it_did_what_it_waits_for_and_who_belongs_to_it(scene):
    page = text(await scene.get("/runs/order-1"))
    for told in (
        "'approval' waits for an event of type 'approved'",
        "charge",
        "×2",
        "the bank said 503",
        "order-1/tell",
        "team=blue",
        '{"stage": "charging"}',
        '{"customer": "ada"}',
    ):
        assert told in page, told
    child = text(await scene.get("/runs/order-1%2Ftell"))
    assert "child of" in child
    assert "sent to ada" in child


async def test_a_failed_run_tells_its_error_and_only_operators_see_where_in_the_code(scene):
    viewer, operator = await scene.key("viewer"), await scene.key("operator")
    assert "order 1 has no items" in text(await scene.get("/runs/broken-1", viewer))
    assert "Traceback" not in text(await scene.get("/runs/broken-1", viewer))
    assert "Traceback" in text(await scene.get("/runs/broken-1", operator))


async def test_failed_undos_wait_for_an_operator(scene):
    page = await scene.get("/undos")
    assert "trip-1" in text(page)
    assert "it cannot be undone" in text(page)
    assert "/api/v1/runs/trip-1/undos/retry" in page.text
    assert "failed" in text(await scene.get("/runs/trip-1"))


async def test_failures_are_grouped_by_cause(scene):
    page = text(await scene.get("/failures"))
    assert "order … has no items" in page
    assert re.search(r"\b3\b.*ValueError", page, re.DOTALL)


async def test_a_definition_is_drawn_and_has_a_form_to_start_it(scene):
    page = await scene.get("/definitions/etl")
    assert page.text.count('class="node n-pending"') == 4
    run = await scene.get("/runs/etl%2F1%20%25")
    assert run.text.count('class="node n-ok"') == 4
    form = await scene.get("/definitions/order")
    assert 'data-kind="integer"' in form.text
    assert "Takes an order from the price to the thank-you mail." in text(form)


async def test_a_run_by_itself_has_no_tree(scene):
    assert "Parent and children" in text(await scene.get("/runs/order-1"))
    assert "Parent and children" not in text(await scene.get("/runs/broken-1"))


async def test_a_message_is_shown_with_where_it_goes(scene):
    to = "https://shop.example/paid?a=1"
    answer = await scene.served.http.post(f"/v2/publish/{to}", content=b"x", headers={"Upstash-Delay": "1d"})
    page = await scene.get(f"/runs/{answer.json()['messageId']}")
    assert f"POST {to}" in text(page)
    listed = await scene.get("/runs?workflow=perdure.delivery")
    for shown in (page, listed):
        assert "host=shop.example" in text(shown)
        assert "url=" not in text(shown)


async def test_a_version_that_is_damaged_is_shown_as_that(scene):
    await scene.worker.store.define([StoredDefinition("etl", "odd", "{", scene.worker.world.now())])
    page = text(await scene.get("/definitions/etl"))
    assert "version 'odd' of definition 'etl' is damaged in the store. For runs to come, publish" in page
    assert "odd shown damaged" in " ".join(page.split())
    assert (await scene.get("/definitions")).status_code == 200
    assert (await scene.get("/runs/etl%2F1%20%25")).text.count('class="node n-ok"') == 4


YAML = """
name: more
steps:
  - {task: fetch, data: {day: 2026-01-01}}
"""


async def test_a_definition_may_be_written_in_yaml(scene):
    read = await scene.served.http.post("/definitions/data", json={"text": YAML})
    assert read.json() == {"data": {"name": "more", "steps": [{"task": "fetch", "data": {"day": "2026-01-01"}}]}}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a: [1", "cannot be read"),
        ('a: "\\ud800"', "the definition cannot be stored"),
        ("? null\n: x", "the definition cannot be stored"),
        ("a: &b [1]\nc: *b", "aliases"),
        ("é" * 510_000, "longer than 1,000,000 bytes"),
    ],
)
async def test_a_text_that_is_no_definition_is_refused_for_the_script_to_tell(scene, written, message):
    refused = await scene.served.http.post("/definitions/data", json={"text": written})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert message in refused.json()["detail"]


async def test_viewers_have_no_definition_read(scene):
    refused = await scene.served.http.post("/definitions/data", json={"text": YAML}, headers=await scene.key("viewer"))
    assert refused.status_code == 403


async def test_queues_where_schedules_wait_stand_apart(scene):
    page = await scene.get("/queues")
    users, _, schedules = page.text.partition("Where schedules wait")
    assert "perdure.schedules:default" not in users
    assert "perdure.schedules:default" in schedules
    assert "post" in users
    assert "Schedules wait here for their time" in text(await scene.get("/queues/perdure.schedules%3Adefault"))
    assert "Schedules wait here" not in text(await scene.get("/queues/post"))


async def test_filters_choose_runs(scene):
    page = text(await scene.get("/runs?status=errored&workflow=broken&prefix=broken-&since=1+hour"))
    assert "broken-2" in page
    assert "order-1" not in page
    assert "order-1" in text(await scene.get("/runs?tag=team%3Dblue"))
    assert "order-1/tell" in text(await scene.get("/runs?parent=order-1"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("status=asleep", "status: 'asleep' is none of"),
        ("since=soon", "created within"),
        ("tag=blue", "tag: 'blue' must be written as name=value"),
        ("cursor=nonsense", "cursor"),
    ],
)
async def test_a_wrong_filter_is_told_on_the_page(scene, query, message):
    page = await scene.get(f"/runs?{query}")
    assert page.status_code == 200
    assert message in text(page)


async def test_more_runs_than_a_page_has_are_on_the_next(scene):
    await scene.worker.start_many(
        scene.worker.registry.workflows["letter"], [(f"n{n}",) for n in range(120)], queue="post"
    )
    seen: set[str] = set()
    address: str | None = "/runs?queue=post"
    while address is not None:
        page = (await scene.get(address)).text
        seen |= set(re.findall(r'data-check="([^"]+)"', page))
        following = re.search(r'rel="next" href="([^"]+)"', page)
        address = html.unescape(following[1]) if following else None
    assert len(seen) == 121


async def test_more_schedules_than_a_page_has_are_on_the_next(scene):
    for number in range(105):
        await scene.worker.schedules.create(f"s{number}", "nightly", cron="0 0 1 1 *", paused=True)
    first = (await scene.get("/schedules")).text
    following = html.unescape(re.search(r'rel="next" href="([^"]+)"', first)[1])
    second = (await scene.get(f"/schedules{following}")).text
    seen = set(re.findall(r'href="/schedules/([^"]+)"', first + second))
    assert seen == {"nightly", *(f"s{number}" for number in range(105))}


async def test_views_are_saved_for_whoever_saved_them(scene):
    mine, other = await scene.key("viewer", name="ada"), await scene.key("viewer", name="bob")
    http = scene.served.http
    saved = await http.post("/runs/views", json={"name": "Mine / 1", "query": "status=errored"}, headers=mine)
    assert saved.status_code == 200
    assert (
        await http.post("/runs/views", json={"name": "Mine / 1", "query": "status=paused"}, headers=mine)
    ).is_success
    assert 'href="/runs?status=paused">Mine / 1' in (await scene.get("/runs", mine)).text
    assert "Mine / 1" not in (await scene.get("/runs", other)).text
    assert (await http.delete("/runs/views/Mine%20%2F%201", headers=other)).is_success
    assert "Mine / 1" in (await scene.get("/runs", mine)).text
    assert (await http.delete("/runs/views/Mine%20%2F%201", headers=mine)).is_success
    assert "Mine / 1" not in (await scene.get("/runs", mine)).text


async def test_nobody_saves_views_without_end(scene):
    mine = await scene.key("viewer")
    for number in range(50):
        body = {"name": f"v{number}", "query": ""}
        assert (await scene.served.http.post("/runs/views", json=body, headers=mine)).is_success
    refused = await scene.served.http.post("/runs/views", json={"name": "more", "query": ""}, headers=mine)
    assert refused.status_code == 422
    assert "50 views" in refused.text


async def test_what_is_not_there_is_told_on_a_page(scene):
    for path in (
        "/runs/none",
        "/schedules/none",
        "/definitions/none",
        "/definitions/etl?version=9",
        "/runs/order-1/download/nothing",
        "/runs/order-1/download/99",
    ):
        answer = await scene.get(path)
        assert answer.status_code == 404, path
        assert "<h1>" in answer.text
    assert (await scene.get("/runs?nonsense=1")).status_code == 422


async def test_values_are_downloaded_as_files_that_no_browser_opens(scene):
    answer = await scene.get("/runs/order-1/download/input")
    assert answer.json() == {"customer": "ada"}
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="input.json"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    output = await scene.get("/runs/etl%2F1%20%25/download/output")
    assert output.json()["store"] == {"rows": 3}


async def test_a_large_value_is_cut_and_can_be_downloaded_whole(scene):
    await scene.worker.start(scene.worker.registry.workflows["letter"], "x" * 200_000, id="large", queue="post")
    page = await scene.get("/runs/large")
    assert len(page.text) < 100_000
    assert "Download it to see the whole value" in page.text
    assert len((await scene.get("/runs/large/download/input")).content) > 200_000


async def test_a_long_journal_is_shown_in_parts(scene):
    app = scene.worker
    count = 450

    @app.workflow
    async def long() -> int:
        from perdure import flow

        for _ in range(count):
            flow.now()
        return count

    run = await app.start(long, id="long")
    await run.result()
    page = await scene.get("/runs/long")
    assert page.text.count('<tr id="record-') == 200
    assert f'id="record-{count + 1}"' in page.text
    earlier = html.unescape(re.search(r'href="([^"]+)#journal">Earlier', page.text)[1])
    assert 'id="record-' in (await scene.get(earlier)).text
    first = await scene.get("/runs/long?after=-1")
    assert 'id="record-0"' in first.text
    assert "Later" in first.text


async def test_whoever_is_not_logged_in_is_sent_to_the_login(scene):
    await scene.key("viewer")
    answer = await scene.get("/runs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "API key" in (await scene.get("/login")).text


async def test_style_and_scripts_are_served_to_anybody_for_ever(scene):
    await scene.key("viewer")
    page = (await scene.get("/login")).text
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(found) == 4
    for address in found:
        answer = await scene.get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]
    for guess in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static/dashboard.css"):
        assert (await scene.get(guess)).status_code in (303, 404), guess


async def test_no_page_holds_a_script_or_a_style_of_its_own(scene):
    for path in [*PAGES, *FOR_OPERATORS, *FOR_ADMINS, "/login"]:
        page = (await scene.get(path)).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", page), path
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page), path
        assert "http://" not in page, path


@pytest.mark.parametrize(
    "path", sorted((Path(dashboard.__file__).parent / "static").glob("*.js")), ids=lambda path: path.name
)
def test_no_script_makes_html_or_code_of_a_text(path):
    source = path.read_text(encoding="utf-8")
    made = r"innerHTML|outerHTML\s*=[^=]|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    assert not re.search(made, source)
    assert not re.search(r"\beval\b|new Function|set(?:Timeout|Interval)\(\s*[\"'`]|\.on\w+ = [\"'`]", source)


async def test_what_operators_did_stands_in_the_audit_log(scene):
    operator = await scene.key("operator", name="ada")
    await scene.served.http.post("/api/v1/runs/order-1/pause", json={"reason": "lunch"}, headers=operator)
    page = text(await scene.get("/audit", operator))
    for told in ("runs.pause", "order-1", "lunch", "ada"):
        assert told in page


async def test_keys_are_listed_without_what_they_are_made_of(scene):
    admin = await scene.key("admin", name="the boss")
    page = await scene.get("/keys", admin)
    assert "the boss" in text(page)
    assert admin["Authorization"].rpartition("_")[2] not in page.text


async def test_the_local_admin_chooses_a_namespace(serve):
    served = await serve(namespaces={"acme": None})
    acme = served.server.namespaces.engine("acme")
    await acme.start("nothing", id="of-acme", anyway=True)
    cookie = {"Accept": "text/html", "Cookie": "theme=dark; perdure-namespace=acme"}
    assert "of-acme" in (await served.http.get("/runs", headers=cookie)).text
    assert "of-acme" not in (await served.http.get("/runs")).text
    gone = {"Cookie": "perdure-namespace=gone"}
    assert (await served.http.get("/runs", headers=gone)).status_code == 200
    made = await served.server.authenticator.keys.create("ada", "viewer", ["default"])
    headers = {"Authorization": f"Bearer {made.token}", "Cookie": "perdure-namespace=acme"}
    assert "of-acme" not in (await served.http.get("/runs", headers=headers)).text
