"""Tasks with `tx=True`, and tasks that are enqueued in the caller's own transaction."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import Dedup, Perdure, Retry, RunFailedError, RunNotFoundError, UsageError, flow
from perdure.model.errors import StoreConflictError
from tests.engine.payments import KINDS, Payments
from tests.engine.test_transactional_steps import interpose

SOON = Retry(attempts=3, delay=0.01, jitter=0)


@pytest.fixture(params=KINDS)
def payments(request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
    return Payments(request.param, tmp_path)


@pytest.fixture
def app(payments: Payments) -> Perdure:
    return Perdure(payments.url, lease=1)


async def test_the_rows_of_a_task_and_its_result_are_committed_together(app, payments):
    @app.task(tx=True)
    async def pay(name: str) -> str:
        await payments.put(flow.transaction(), name)
        return name

    async with app:
        run = await pay.enqueue("a")
        assert await run.result(timeout=20) == "a"
        assert [(record.kind, record.state) for record in (await run.journal())[1:]] == [
            ("step", "ok"), ("output", "ok"),
        ]  # fmt: skip
    assert payments.names() == ["a"]


async def test_a_failed_attempt_leaves_nothing(app, payments):
    @app.task(tx=True, retry=SOON)
    async def pay(name: str) -> str:
        await payments.put(flow.transaction(), f"{name}{flow.attempt()}")
        if flow.attempt() < 3:
            raise ConnectionError
        return name

    async with app:
        assert await (await pay.enqueue("a")).result(timeout=20) == "a"
    assert payments.names() == ["a3"]


async def test_what_could_not_be_committed_is_tried_again(app, payments):
    conflicts = []

    async def commit(transaction, decision):
        if len(conflicts) < 2:
            conflicts.append(1)
            await transaction.roll_back()
            raise StoreConflictError("somebody was in the way")
        return await transaction.commit(decision)

    @app.task(tx=True, retry=SOON)
    async def pay(name: str) -> int:
        await payments.put(flow.transaction(), name)
        return flow.attempt()

    async with app:
        interpose(app, commit)
        assert await (await pay.enqueue("a")).result(timeout=20) == 3
    assert payments.names() == ["a"]


async def test_what_can_never_be_committed_is_the_failure_of_the_task(app, payments):
    async def commit(transaction, decision):
        await transaction.roll_back()
        raise StoreConflictError("somebody was in the way")

    @app.task(tx=True, retry=Retry(attempts=1))
    async def pay(name: str) -> int:
        await payments.put(flow.transaction(), name)
        return 1

    async with app:
        interpose(app, commit)
        with pytest.raises(RunFailedError, match="somebody was in the way"):
            await (await pay.enqueue("a")).result(timeout=20)
    assert payments.names() == []


async def test_a_store_without_transactions_refuses_such_a_task(memory):
    app = Perdure(memory)

    @app.task(tx=True)
    async def pay() -> None: ...

    with pytest.raises(UsageError, match="transaction"):
        await app.open()


async def test_a_task_is_enqueued_with_the_callers_own_rows(app, payments):
    ran = []

    @app.task
    async def mail(to: str) -> str:
        ran.append(to)
        return to

    async with app, payments.connected() as connection:
        await payments.say(connection, "BEGIN")
        await payments.put(connection, "a")
        run = await mail.options(tx=connection).enqueue("a")
        with pytest.raises(RunNotFoundError):
            await run.get()
        await payments.say(connection, "COMMIT")
        assert await run.result(timeout=20) == "a"
        await payments.say(connection, "BEGIN")
        gone = await mail.options(tx=connection).enqueue("b")
        await payments.say(connection, "ROLLBACK")
        with pytest.raises(RunNotFoundError):
            await gone.get()
        once = mail.options(dedup=Dedup("welcome", within="1d"))
        first = await once.enqueue("c")
        await payments.say(connection, "BEGIN")
        runs = await once.options(tx=connection).enqueue_many([("d",), ("e",)])
        await payments.say(connection, "COMMIT")
        assert {run.id for run in runs} == {first.id}
        assert await first.result(timeout=20) == "c"
    assert ran == ["a", "c"]
