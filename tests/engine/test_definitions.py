"""Workflows as data: published, listed, started by name, worked by every worker, pinned to their version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure import DefinitionError, Retry, RunFailedError, StoreUnavailableError, workflow
from perdure.model.decision import StoredDefinition
from tests.engine.world import NOW

HELLO = {"name": "hello_world", "definition": {"steps": [{"taskName": "step1", "data": {}}]}}

INVOICE = """
name: invoice
version: 3
definition:
  steps:
    - {name: orders, task: orders.fetch, data: {customer: "${input.customer}"}}
    - {name: pdf, task: pdf.render, retry: {attempts: 3, backoff: exponential}}
    - name: big
      task: review.ask
      after: [orders]
      when: "steps.orders.total > `1000`"
      data: {total: "${steps.orders.total}"}
    - name: mail
      task: mail.send
      after: [pdf, big]
      data: {body: "Dear ${input.customer}: ${steps.pdf} (${steps.big})"}
"""


def with_tasks(app):
    """An engine with the tasks that definitions here call."""

    @app.task(name="step1")
    async def step1(data: dict) -> str:
        return f"did {data}"

    @app.task(name="orders.fetch")
    async def fetch(customer: str) -> dict:
        return {"total": 1_500 if customer == "rich" else 5}

    @app.task(name="pdf.render")
    async def render(orders: dict) -> str:
        return f"pdf over {orders['total']}"

    @app.task(name="review.ask")
    async def ask(total: int) -> str:
        return f"approved {total}"

    @app.task(name="mail.send")
    async def send(body: str) -> str:
        return body

    return app


@pytest.fixture
def app(make):
    return with_tasks(make())


async def result_of(app, name, given, **options):
    run = await app.start(name, input=given, **options)
    return await run.result(timeout=5)


async def test_the_body_of_the_seed(app):
    async with app:
        published = await app.publish(HELLO)
        assert await result_of(app, "hello_world", {}) == {"step1": "did {}"}
        (listed,) = await app.definitions()
        assert listed == published
        assert (listed.name, len(listed.version)) == ("hello_world", 12)
        assert "s0" in listed.to_mermaid()


@pytest.mark.parametrize("given", ["text", "path", "name"])
async def test_a_text_or_a_file(app, tmp_path: Path, given):
    path = tmp_path / "invoice.yaml"
    path.write_text(INVOICE)
    async with app:
        published = await app.publish({"text": INVOICE, "path": path, "name": str(path)}[given])
        assert (published.name, published.version) == ("invoice", "3")
        rich = await result_of(app, "invoice", {"customer": "rich"})
        assert rich["mail"] == "Dear rich: pdf over 1500 (approved 1500)"
        assert (await result_of(app, "invoice", {"customer": "poor"}))["mail"] == "Dear poor: pdf over 5 ()"


async def test_the_same_content_again_is_nothing_and_another_one_needs_another_version(app):
    async with app:
        first = await app.publish(INVOICE)
        assert await app.publish(INVOICE) == first
        with pytest.raises(DefinitionError, match=r"version: definition 'invoice' has a version '3' with another"):
            await app.publish(INVOICE.replace("Dear", "Hi"))
        await app.publish(INVOICE.replace("Dear", "Hi").replace("version: 3", "version: 4"))
        assert [each.version for each in await app.definitions()] == ["3", "4"]
        assert (await result_of(app, "invoice", {"customer": "a"}))["mail"].startswith("Hi")


async def test_a_version_is_made_of_the_content(app):
    async with app:
        one = await app.publish(HELLO)
        same = await app.publish(json.dumps({"definition": HELLO["definition"]["steps"], "name": "hello_world"}))
        other = await app.publish({**HELLO, "definition": [{"task": "step1", "data": {"a": 1}}]})
        assert one.version == same.version != other.version


async def test_a_run_keeps_its_version(app, world):
    async with app:
        await app.publish(INVOICE)
        run = await app.start("invoice", input={"customer": "a"}, delay="1h")
        await app.publish(INVOICE.replace("Dear", "Hi").replace("version: 3", "version: 4"))
        await world.advance(3_700)
        assert (await run.result(timeout=5))["mail"].startswith("Dear")
        assert (await run.get()).version == "3"


async def test_other_workers_take_definitions_up(make, world):
    first, second = with_tasks(make()), make()
    async with second:
        async with first:
            await first.publish(INVOICE)
            assert "invoice" not in second.registry.workflows
            run = await second.start("invoice", input={"customer": "a"})
            await world.advance(5)
            assert "invoice" in second.registry.workflows
            assert (await run.result(timeout=5))["mail"].startswith("Dear")
            await first.publish(INVOICE.replace("Dear", "Hi").replace("version: 3", "version: 4"))
            run = await first.start("invoice", input={"customer": "a"}, id="r", delay=1)
        await world.advance(2)
        third = with_tasks(make())
        async with third:
            await world.advance(60)
            assert (await third.run("r").result(timeout=5))["mail"].startswith("Hi")


async def test_a_worker_that_was_at_rest_takes_a_definition_up_at_once(make, world):
    client, worker = make(mode="client"), with_tasks(make(mode="worker"))
    async with worker, client:
        await world.advance(10)
        await client.publish(INVOICE)
        run = await client.start("invoice", input={"customer": "a"})
        for _ in range(20):  # a real server's hint may take longer than virtual time does
            await world.advance(0.5)
            if (await run.get()).status == "complete":
                break
        assert (await run.get()).status == "complete", "long before the next housekeeping"


async def test_reading_that_takes_long_is_done_less_often(make, world):
    app = with_tasks(make())
    reads = []
    async with app:
        kept = app.store.store.definitions

        async def slowly():
            reads.append(world.at)
            world.at += 3_000
            return await kept()

        app.store.store.definitions = slowly
        for _ in range(24):
            app.worker.definitions.hint()
            await world.advance(1)
        del app.store.store.definitions
    assert len(reads) == 1
    assert reads[0] - NOW < 3_000


async def test_a_client_starts_a_definition_by_its_name(make, world):
    worker = with_tasks(make())
    client = make(mode="client")
    async with worker, client:
        await client.publish(INVOICE)
        run = await client.start("invoice", input={"customer": "a"})
        await world.advance(5)
        assert (await run.result(timeout=5))["mail"].startswith("Dear")


async def test_definitions_can_be_left_to_other_workers(make, world):
    app, other = with_tasks(make()), with_tasks(make(definitions=False))
    async with app:
        await app.publish(INVOICE)
        async with other:
            await world.advance(5)
            assert "invoice" not in other.registry.workflows


async def test_a_version_that_is_not_in_the_store_is_told(make, world):
    first = with_tasks(make())
    async with first:
        await first.publish(INVOICE)
        await first.start("invoice", input={"customer": "a"}, id="r", delay="1h")
        await first.publish(INVOICE.replace("version: 3", "version: 4"))
        kept = first.store.store.definitions

        async def without_version_three():
            return [each for each in await kept() if each.version != "3"]

        first.registry._definitions.pop(("invoice", "3"))
        first.store.store.definitions = without_version_three
        await world.advance(3_700)
        with pytest.raises(RunFailedError, match="version '3' of definition 'invoice' is not in this store"):
            await first.run("r").result(timeout=5)
        del first.store.store.definitions


DAMAGED = [
    '{"digest": "x"}',
    "{",
    "{}",
    "[]",
    "null",
    '{"digest": 1}',
    '{"digest":"x","name":"odd","steps":5}',
    '{"digest":"x","name":"odd","steps":[{"task":"t"}]}',
    '{"digest":"x","name":"odd","definition":[{"name":"a","task":"t","after":[]}]}',
    '{"digest":"x","name":"odd","definition":{"steps":[{"name":"a","task":"t"}]}}',
    "[" * 9_000,
]
"""Texts of definitions that only somebody who writes to the store can have put there."""


async def test_what_cannot_be_read_does_not_stop_a_worker(make, caplog):
    app = with_tasks(make())
    await app.store.open()
    await app.store.define([StoredDefinition("odd", str(n), text, n) for n, text in enumerate(DAMAGED)])
    async with app:
        await app.publish(HELLO)
        assert await result_of(app, "hello_world", {}) == {"step1": "did {}"}
    for number in range(len(DAMAGED)):
        assert f"version {number} of definition 'odd' cannot be read" in caplog.text


async def test_what_is_damaged_is_listed_as_damaged(make):
    app = with_tasks(make())
    async with app:
        await app.store.define([StoredDefinition("odd", str(n), text, n) for n, text in enumerate(DAMAGED)])
        await app.publish(HELLO)
        *odd, hello = await app.definitions()
    assert hello.damage is None
    assert [each.version for each in odd] == [str(number) for number in range(len(DAMAGED))]
    for each in odd:
        assert each.damage is not None
        assert each.damage.startswith(f"version {each.version!r} of definition 'odd' is damaged in the store")
        assert each.data["definition"]["steps"] == []
        with pytest.raises(DefinitionError, match="is damaged in the store"):
            each.to_mermaid()
    assert "is damaged in the store: name: it is not given" in str(odd[0].damage)


async def test_code_counts_before_a_definition_of_its_name(make, caplog):
    app = with_tasks(make())
    async with app:
        await app.publish(HELLO)
    other = make()
    dag = workflow("hello_world").step("a", lambda ctx: 1).build()
    other.add(dag)
    async with other:
        with pytest.raises(DefinitionError, match="a workflow 'hello_world' is written in code"):
            await other.publish(HELLO)
        assert await result_of(other, "hello_world", {}) == {"a": 1}
    assert "definition 'hello_world' is not worked here" in caplog.text


async def test_a_name_of_announced_code_or_of_perdure_is_refused(make, world):
    app, coder = with_tasks(make()), make(mode="worker")

    @coder.workflow(name="hello_world")
    async def hello() -> str:
        return "code"

    async with coder:
        pass
    async with app:
        with pytest.raises(DefinitionError, match="a workflow 'hello_world' is written in code"):
            await app.publish(HELLO)
        with pytest.raises(DefinitionError, match="name: 'perdure.map' begins with 'perdure.'"):
            await app.publish({**HELLO, "name": "perdure.map"}, anyway=True)


async def test_a_run_of_code_whose_name_became_a_definitions_is_told(make, world):
    coder, app = make(mode="client"), with_tasks(make())

    @coder.workflow(name="hello_world")
    async def hello() -> str:
        return "code"

    async with coder, app:
        await app.publish(HELLO)
        run = await coder.start(hello)
        await world.advance(5)
        with pytest.raises(RunFailedError, match="written in code, whose name a definition has now"):
            await run.result(timeout=5)
        assert await result_of(app, "hello_world", {}) == {"step1": "did {}"}


async def test_what_it_calls_must_be_there_or_announced(make, world):
    app, bare = with_tasks(make()), make(mode="client")
    async with bare:
        with pytest.raises(DefinitionError, match=r"steps\[0\]: there is no task or workflow 'step1'; known: none"):
            await bare.publish(HELLO)
        assert (await bare.publish(HELLO, anyway=True)).name == "hello_world"
    async with app:
        pass
    async with bare:
        await bare.publish(INVOICE)
        with pytest.raises(DefinitionError) as caught:
            await bare.publish(
                {
                    "name": "wrong",
                    "definition": [
                        {"taskName": "mail.sent", "data": {}},
                        {"taskName": "mail.send", "data": {"boody": 1}},
                        {"workflow": "invoice", "data": {"anything": 1}, "retry": {"attempts": 2}},
                    ],
                }
            )
    assert str(caught.value).splitlines()[1:] == [
        "  steps[0]: there is no task or workflow 'mail.sent'; did you mean 'mail.send'?",
        "  steps[2].retry: a workflow has those of its steps",
        "  steps[1].data: there is no parameter 'boody'; there is body",
        "  steps[1].data: the parameter 'body' is not given",
    ]


async def test_a_definition_may_call_graphs_workflows_and_definitions(app):
    dag = workflow("graph").step("a", lambda ctx: ctx.input["n"] + 1).build()
    app.add(dag)

    @app.workflow
    async def code(n: int) -> int:
        return n * 2

    async with app:
        await app.publish({"name": "inner", "definition": [{"workflow": "code", "data": {"n": "${input.n}"}}]})
        await app.publish(
            {
                "name": "outer",
                "definition": {
                    "steps": [{"workflow": "graph"}, {"workflow": "inner", "data": {"n": "${steps.graph.a}"}}],
                    "output": "${steps.inner.code}",
                },
            }
        )
        assert await result_of(app, "outer", {"n": 4}) == 10


async def test_a_graph_that_is_built_can_be_written_and_published(app):
    tasks = app.registry.workflows
    dag = (
        workflow("as-code", output="${steps.mail}")
        .step("orders", tasks["orders.fetch"], data={"customer": "${input.customer}"})
        .step("pdf", tasks["pdf.render"], after="orders")
        .map("mail", tasks["mail.send"], over="${[steps.pdf, input.customer]}", after="pdf", limit=2)
        .build()
    )
    text = dag.to_json()
    app.add(dag)
    async with app:
        published = await app.publish(text.replace("as-code", "as-data"))
        assert published.data["definition"]["steps"][1]["data"] == {"orders": "${steps.orders}"}
        for name in ("as-code", "as-data"):
            assert await result_of(app, name, {"customer": "a"}) == ["pdf over 5", "a"]


async def test_a_queue_and_a_priority_of_their_own(app, world):
    async with app:
        await app.publish(
            {
                "name": "elsewhere",
                "definition": {
                    "queue": "default",
                    "steps": [{"taskName": "step1", "queue": "far", "priority": 7, "data": {}}],
                },
            }
        )
        await app.start("elsewhere", input={}, id="r")
        await world.settle()
        run = await app.run("r/step1").get()
        assert (run.queue, run.priority, str(run.status)) == ("far", 7, "queued")


async def test_a_tasks_own_wishes_count_wherever_it_is_known(make, world):
    app, other = make(), make(queues=["far"])

    @other.task(name="announced", queue="far", priority=5, expires="1h")
    async def announced() -> None: ...

    @app.task(name="known", queue="nowhere", priority=6, limit_key=lambda customer: customer)
    async def known(customer: str) -> None: ...

    async with other:
        pass
    async with app:
        steps = [{"task": "announced", "after": []}, {"task": "known", "after": [], "data": {"customer": "Ada"}}]
        await app.publish({"name": "both", "steps": [*steps, {**steps[1], "name": "low", "priority": 0}]})
        await app.start("both", input={}, id="r")
        await world.settle()
        first, second = await app.run("r/announced").get(), await app.run("r/known").get()
        assert (first.queue, first.priority) == ("far", 5)
        (begun,) = await app.run("r/announced").journal()
        assert begun.due_at == first.created_at + 3_600_000
        assert (second.queue, second.priority, second.limit_key) == ("nowhere", 6, "Ada")
        assert (await app.run("r/low").get()).priority == 0


async def test_an_item_that_does_not_fit_is_tolerated_like_any(app, world):
    @app.task(name="count", limit_key=lambda n: str(n))
    async def count(n: int) -> int:
        return n

    async with app:
        spread = {"over": "${input.items}", "tolerate": 1}
        await app.publish({"name": "m", "steps": [{"task": "count", "data": {"n": "${item}"}, "map": spread}]})
        found = (await result_of(app, "m", {"items": [1, "x", 3]}))["count"]
        assert (found[0], found[1]["index"], found[2]) == (1, 1, 3)


async def test_what_is_announced_after_the_definition_is_called_where_it_is(make, world):
    app, other = make(), make(queues=["far"])

    @other.task(name="later", queue="far")
    async def later() -> str:
        return "done"

    async with app:
        await app.publish({"name": "early", "steps": [{"task": "later"}]}, anyway=True)
        async with other:
            await world.advance(60)
            run = await app.start("early", input={})
            await world.advance(5)
            assert await run.result(timeout=5) == {"later": "done"}


async def test_a_map_of_many_items(app, world):
    async with app:
        over = {"over": "${input.names}", "limit": 20}
        await app.publish(
            {
                "name": "letters",
                "definition": {
                    "steps": [{"task": "mail.send", "map": over, "data": {"body": "${item} ${index}"}}],
                    "output": '${steps."mail.send"}',
                },
            }
        )
        run = await app.start("letters", input={"names": ["a"] * 130})
        for _ in range(20):
            await world.advance(1)
        assert await run.result(timeout=5) == [f"a {number}" for number in range(130)]
        assert len((await app.runs(workflow="perdure.map")).runs) == 2


async def test_retries_and_a_timeout_of_their_own(app, world):
    calls = []

    @app.task(name="flaky")
    async def flaky() -> int:
        calls.append(1)
        raise OSError("no")

    async with app:
        await app.publish(
            {
                "name": "r",
                "definition": [{"taskName": "flaky", "retry": {"attempts": 5, "delay": "1m", "maxDelay": 60}}],
            }
        )
        run = await app.start("r", input={})
        await world.advance(600)
        with pytest.raises(RunFailedError):
            await run.result(timeout=5)
    assert len(calls) == 5


async def test_retries_that_say_one_thing_leave_the_rest_to_the_task(app, world):
    calls = []

    @app.task(name="flaky", retry=Retry(attempts=9, delay="1h", backoff="constant", jitter=0))
    async def flaky() -> int:
        calls.append(world.now())
        raise OSError("no")

    async with app:
        await app.publish({"name": "r", "definition": [{"taskName": "flaky", "retry": {"attempts": 2}}]})
        run = await app.start("r", input={})
        await world.advance(4_000)
        with pytest.raises(RunFailedError):
            await run.result(timeout=5)
    assert calls[1] - calls[0] == 3_600_000
    assert len(calls) == 2


async def test_data_is_bounded_like_text(app):
    async with app:
        with pytest.raises(DefinitionError, match="longer than 1,000,000 bytes"):
            await app.publish({"name": "long", "steps": [{"task": "step1", "data": {"data": "x" * 1_000_000}}]})


async def test_it_has_to_be_open(app):
    with pytest.raises(StoreUnavailableError):
        await app.publish(HELLO)
