"""What is enqueued once, after a pause, later, or in a transaction."""

from __future__ import annotations

import msgspec
import pytest

from perdure import Debounce, Dedup, Retention, RunExistsError, RunStatus, UsageError


class Customer(msgspec.Struct):
    name: str


def recorder(app, calls):
    @app.task
    async def send(to: str) -> str:
        calls.append(to)
        return to

    return send


# Once for each key.


async def test_what_is_enqueued_twice_under_one_key_runs_once(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        once = send.options(dedup=Dedup("welcome:42"), delay=10)
        first, second = await once.enqueue("a"), await once.enqueue("b")
        other = await send.options(dedup=Dedup("welcome:43")).enqueue("c")
        assert first.id == second.id != other.id
        assert first.id.partition("/")[0].startswith("send~")
        await world.advance(11)
        assert await second.result(timeout=5) == "a"
        again = await once.enqueue("d")
        assert again.id != first.id
        assert again.id.partition("/")[0] == first.id.partition("/")[0]
    assert sorted(calls) == ["a", "c"]


async def test_a_key_may_count_for_a_while_after_the_end(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        daily = send.options(dedup=Dedup("digest", within="1d"))
        first = await daily.enqueue("a")
        await world.advance(3_600)
        assert (await daily.enqueue("b")).id == first.id
        await world.advance(24 * 3_600)
        assert await (await daily.enqueue("c")).result(timeout=5) == "c"
    assert calls == ["a", "c"]


async def test_a_key_holds_as_long_as_it_was_said_whatever_the_retention(make, world):
    app, calls = make(retention=Retention.of(complete="1 hour")), []
    send = recorder(app, calls)
    async with app:
        weekly = send.options(dedup=Dedup("digest", within="7d"), retention=Retention.of(complete=0))
        first = await weekly.enqueue("a")
        await first.result(timeout=5)
        await world.advance(7 * 86_400 - 60)
        assert (await weekly.enqueue("b")).id == first.id
        await world.advance(120)
        assert await (await weekly.enqueue("c")).result(timeout=5) == "c"
        await world.advance(31)
        assert first.id not in {run.id for run in (await app.runs()).runs}
    assert calls == ["a", "c"]


async def test_a_handle_says_whether_its_run_is_new(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    once = send.options(dedup=Dedup("k"))
    async with app:
        assert [run.is_new for run in await once.enqueue_many([("a",), ("b",)])] == [True, False]
        assert (await once.enqueue("c")).is_new is False
        calm = send.options(debounce=Debounce("1h", key="calm"))
        assert [(await calm.enqueue("d")).is_new, (await calm.enqueue("e")).is_new] == [True, False]
        named = [await app.start(send, "f", id="f") for _ in range(2)]
        assert [run.is_new for run in named] == [True, False]
        assert (await send.enqueue("g")).is_new is True
        assert app.run("f").is_new is None
        await world.settle()


async def test_a_run_whose_creation_was_told_twice_is_new_all_the_same(make, world):
    app = make()
    send = recorder(app, [])
    async with app:
        create = app.store.store.create

        async def create_again(runs):
            await create(runs)
            return await create(runs)

        app.client._creates._operation = create_again  # as a store does when the first answer is lost
        assert (await send.options(dedup=Dedup("k")).enqueue("a")).is_new is True
        assert (await send.options(dedup=Dedup("k")).enqueue("a")).is_new is False
        assert (await send.enqueue("b")).is_new is True


async def test_a_key_is_each_tasks_own(make):
    app, calls = make(), []
    send = recorder(app, calls)

    @app.task
    async def call(to: str) -> str:
        return to

    async with app:
        one = await send.options(dedup=Dedup("42", within=60)).enqueue("a")
        two = await call.options(dedup=Dedup("42", within=60)).enqueue("a")
        assert one.id != two.id


async def test_a_run_that_began_anew_stands_for_its_key_no_more(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        daily = send.options(dedup=Dedup("digest", within="1d"))
        first = await daily.enqueue("a")
        await first.result(timeout=5)
        await first.restart()
        await world.settle()
        assert (await daily.enqueue("b")).id != first.id


async def test_many_are_enqueued_under_one_key(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        runs = await send.options(dedup=Dedup("k", within=60)).enqueue_many([("a",), ("b",), ("c",)])
        assert len({run.id for run in runs}) == 1
        assert [await run.result(timeout=5) for run in runs] == ["a"] * 3
    assert calls == ["a"]


async def test_a_workflow_can_be_started_once_too(make):
    app = make()

    @app.workflow
    async def nightly(n: int) -> int:
        return n

    async with app:
        calls = [(nightly, (n,), {"dedup": Dedup("night", within=60)}) for n in range(3)]
        one, two, three = await app.start_each(calls)
        assert one.id == two.id == three.id


# After a pause.


async def test_debounced_runs_begin_after_a_pause_with_the_last_arguments(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        calm = send.options(debounce=Debounce(10, key="cart-1"))
        first = await calm.enqueue("a")
        await world.advance(6)
        second = await calm.enqueue("b")
        assert second.id == first.id
        await world.advance(6)
        assert calls == []
        await world.advance(5)
        assert await first.result(timeout=5) == "b"
        third = await calm.enqueue("c")
        assert third.id != first.id
        await world.advance(11)
    assert calls == ["b", "c"]


async def test_a_pause_that_never_comes_is_waited_for_only_so_long(make, world):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        calm = send.options(debounce=Debounce(10, key="cart-1", max_wait="25s"))
        for number in range(6):
            await calm.enqueue(str(number))
            await world.advance(5)
        assert calls == ["4"]


# The rest.


async def test_a_repeated_start_of_one_id_is_told_apart_by_its_input(make):
    app, calls = make(), []
    send = recorder(app, calls)
    async with app:
        first = await send.options(id="one").enqueue("a")
        assert (await send.options(id="one").enqueue("a")).id == first.id == "one"
        with pytest.raises(RunExistsError):
            await send.options(id="one").enqueue("b")


async def test_options_say_where_and_when_and_how_it_is_found(make, world):
    app = make(queues=("default", "mail"))
    send = recorder(app, [])
    async with app:
        run = await send.options(queue="mail", priority=4, delay="1h", tags={"to": "a"}, limit_key="t").enqueue("a")
        row = await run.get()
        assert (row.queue, row.priority, row.tags, row.limit_key) == ("mail", 4, {"to": "a"}, "t")
        assert row.due_at == world.now() + 3_600_000
        assert row.status is RunStatus.QUEUED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "x", "dedup": Dedup("k")}, "id cannot go with another of id, dedup and debounce"),
        ({"dedup": Dedup("k"), "debounce": Debounce(1, key="k")}, "dedup cannot go with another"),
        ({"delay": 1, "debounce": Debounce(1, key="k")}, "delay cannot go with debounce"),
    ],
)
def test_options_that_contradict_each_other_are_refused(app, options, said):
    send = recorder(app, [])
    with pytest.raises(UsageError, match=said):
        send.options(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "a\0"}, r"task 'send', id: 'a\\x00' must be printable text of 1 to 200 characters"),
        ({"queue": "a\0b"}, r"task 'send', queue: 'a\\x00b' must not hold '/', '#' or control characters"),
        ({"queue": 5}, "task 'send', queue: 5 must be text"),
        ({"priority": "high"}, "task 'send', priority: 'high' must be a whole number"),
        ({"tags": {"a": 1}}, "task 'send', tags: 'a'=1 must be printable text"),
        ({"limit_key": "a\0b"}, r"task 'send', limit_key: 'a\\x00b' must be printable text"),
    ],
)
def test_options_that_no_run_can_have_are_refused(app, options, said):
    send = recorder(app, [])
    with pytest.raises(UsageError, match=said):
        send.options(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "x", "dedup": Dedup("k")}, "id: it cannot go with dedup or debounce"),
        ({"dedup": Dedup("k"), "debounce": Debounce(1, key="k")}, "debounce: it cannot go with dedup"),
        ({"priority": "high"}, "priority: 'high' must be a whole number"),
        ({"limit_key": 7}, "limit_key: 7 must be printable text"),
        ({"expires": "soon"}, "expires: 'soon' is no duration"),
    ],
)
async def test_so_are_those_of_a_start(app, options, said):
    send = recorder(app, [])
    async with app:
        with pytest.raises(UsageError, match=said):
            await app.start(send, "a", **options)


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: Dedup(""), "dedup key: '' must be printable text of 1 to 200"),
        (lambda: Dedup(5), "dedup key: 5 must be"),
        (lambda: Dedup("k", within=-1), "dedup within: -1 must be"),
        (lambda: Debounce(5, key="a\n"), "debounce key"),
        (lambda: Debounce("soon", key="a"), "debounce wait: 'soon' is no"),
        (lambda: Debounce(5, key="a", max_wait=4), "debounce max_wait: 4 must not be shorter than wait, 5"),
    ],
)
def test_keys_and_durations_are_checked(make_it, said):
    with pytest.raises(UsageError, match=said):
        make_it()


async def test_a_limit_key_is_asked_alike_however_a_run_is_started(make, world):
    app = make()

    @app.task(limit_key=lambda whose, at, *, by: f"{whose.name}/{at}/{by}")
    async def render(customer: Customer, page: int = 7, *, by: str = "me") -> None: ...

    ada = Customer("ada")

    @app.workflow
    async def w() -> None:
        await render(ada)

    async with app:
        await render.enqueue(ada)
        await render.enqueue(customer=ada)
        await render.enqueue_many([(ada, 7)])
        await app.start("render", input={"customer": {"name": "ada"}})
        await app.start(w)
        await world.settle()
        assert [run.limit_key for run in (await app.runs(workflow="render")).runs] == ["ada/7/me"] * 5


async def test_a_limit_key_that_is_no_text_is_refused(app):
    @app.task(limit_key=lambda n: n)
    async def work(n: int) -> int:
        return n

    async with app:
        with pytest.raises(UsageError, match="task 'work', limit_key: 5 must be printable text"):
            await work.enqueue(5)


async def test_only_tasks_are_enqueued(app):
    @app.workflow
    async def w() -> None: ...

    async with app:
        with pytest.raises(UsageError, match="is no task; decorate it with @app.task, or start it with app.start"):
            await app.enqueue(w)
