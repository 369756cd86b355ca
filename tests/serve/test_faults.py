"""What fails between a server and an endpoint is no failure of a run: nothing is lost, nothing is recorded twice."""

from __future__ import annotations

import asyncio
import json

import pytest

from perdure.core.wait import decode_waits
from perdure.dispatch import breaker, pushing
from perdure.dispatch.endpoints import key_of
from perdure.model.errors import RunTerminatedError
from perdure.model.run import RunStatus
from tests.engine.world import until
from tests.serve.conftest import answering, giving_back, losing_the_answer, twice

WITHIN = 15


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(pushing, "FIRST_MS", 20)
    monkeypatch.setattr(breaker, "FIRST_MS", 50)


async def row_of(made, run):
    (row,) = await made.served.app.store.get([run.id])
    return row


async def when(made, run, condition):
    """Wait until the run's row is as wanted, and return it."""
    async with asyncio.timeout(WITHIN):
        while not condition(row := await row_of(made, run)):
            await asyncio.sleep(0.005)
    return row


def waits(row):
    return decode_waits(row.wait).waits


class TestPushesThatFail:
    @pytest.mark.parametrize(
        "fault",
        [
            answering(500),
            answering(404),
            answering(200, b"tea"),
            answering(200, b"[" * 100_000),
            answering(200, json.dumps({"decision": {"run_id": "other"}}).encode()),
            losing_the_answer,
            twice,
        ],
    )
    async def test_the_run_is_pushed_again_and_each_record_is_there_once(self, every, body, fault):
        made = await every()
        made.faulty.faults = [fault, None, fault]
        run = await made.app.start("gathered")
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]
        keys = [record.key for record in await run.journal()]
        assert sorted(keys) == ["input", "note", "note#2", "note#3", "note#4", "output"]
        assert set(body.did) == {"0", "1", "2", "3"}

    async def test_explain_says_what_it_waits_for(self, every, monkeypatch):
        monkeypatch.setattr(pushing, "FIRST_MS", 60_000)
        made = await every()
        made.faulty.faults = [answering(500, b"out of tea")]
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.status is RunStatus.WAITING)
        (wait,) = waits(row)
        assert (wait.kind, wait.attempt) == ("push", 1)
        told = str(await run.explain())
        assert "could not be handed to whoever serves it" in told
        assert f"{made.url} answered with status 500: out of tea" in told

    async def test_a_redirect_is_not_followed_and_told_with_where_to(self, every, monkeypatch):
        monkeypatch.setattr(pushing, "FIRST_MS", 60_000)
        made = await every()
        made.faulty.faults = [answering(308, headers={"Location": "https://shop.example.com/workflows/"})]
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.status is RunStatus.WAITING)
        assert "it is at https://shop.example.com/workflows/: add it there" in waits(row)[0].detail

    async def test_a_run_that_comes_back_untouched_is_not_pushed_for_ever(self, every):
        made = await every()
        made.faulty.faults = [giving_back] * 2
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.wait is not None)
        assert "without anything having been done" in waits(row)[0].detail
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]

    async def test_failures_in_a_row_are_counted(self, every, monkeypatch):
        monkeypatch.setattr(breaker, "FAILURES", 100)
        made = await every()
        made.faulty.faults = [answering(500)] * 3 + [answering(500, headers={"Retry-After": "3600"})]
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.wait is not None and waits(row)[0].attempt == 4)
        assert row.due_at - row.updated_at >= 3_600_000

    async def test_after_so_many_it_is_parked_and_an_operator_resumes_it(self, every, monkeypatch):
        monkeypatch.setattr(pushing, "ATTEMPTS", 3)
        made = await every()
        made.faulty.faults = [answering(500)] * 3
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.status is RunStatus.PAUSED)
        assert "3 times in a row" in waits(row)[0].detail
        await run.resume()
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("final", [answering(489), answering(500, headers={"Upstash-NonRetryable-Error": "true"})])
    async def test_what_is_not_to_be_retried_is_parked_at_once(self, every, final):
        made = await every()
        made.faulty.faults = [final]
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.status is RunStatus.PAUSED)
        assert len(made.faulty.pushes) == 1
        assert waits(row)[0].kind == "parked"
        await run.resume()
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]

    async def test_an_endpoint_that_fails_often_is_left_alone(self, every, monkeypatch):
        monkeypatch.setattr(breaker, "FIRST_MS", 3_600_000)
        monkeypatch.setattr(breaker, "LONGEST_MS", 3_600_000)
        made = await every()
        made.faulty.faults = [answering(503)] * breaker.FAILURES
        run = await made.app.start("gathered")
        row = await when(made, run, lambda row: row.wait is not None and "left alone" in row.wait)
        assert len(made.faulty.pushes) == breaker.FAILURES
        assert waits(row)[0].attempt == breaker.FAILURES  # what is not tried does not count
        other = await made.app.start("gathered")
        await when(made, other, lambda row: row.wait is not None and "left alone" in row.wait)
        assert len(made.faulty.pushes) == breaker.FAILURES

    async def test_an_endpoint_that_was_removed_is_asked_no_more(self, every):
        made = await every()
        assert await made.dispatcher.remove(key_of(made.url))
        assert not await made.dispatcher.remove(key_of(made.url))
        run = await made.app.start("gathered")
        await made.dispatcher.add(made.url)
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]


class TestTurnsThatTakeLong:
    async def test_the_answer_is_202_and_the_decision_comes_by_itself(self, every, body):
        made = await every()
        made.dispatcher.answer_within = 0.05
        run = await made.app.start("holding")
        await body.began.wait()
        worker = made.dispatcher.engine.worker
        await until(lambda: not worker.turns)
        assert (await row_of(made, run)).status is RunStatus.RUNNING
        body.may_end.set()
        assert await run.result(timeout=WITHIN) == "held"
        assert body.did == ["held"]
        assert not made.asgi.serving._worker.pushed.under_way

    async def test_the_lease_is_kept_by_the_endpoint(self, every, body):
        made = await every(lease=1)
        made.dispatcher.answer_within = 0.05
        run = await made.app.start("holding")
        await body.began.wait()
        first = (await row_of(made, run)).due_at
        row = await when(made, run, lambda row: row.due_at != first)
        assert row.epoch == 1
        body.may_end.set()
        assert await run.result(timeout=WITHIN) == "held"

    async def test_progress_is_seen(self, every, body):
        made = await every()
        made.dispatcher.answer_within = 0.05
        run = await made.app.start("beating")
        await body.began.wait()
        await when(made, run, lambda row: row.progress is not None and "half" in row.progress)
        body.may_end.set()
        assert await run.result(timeout=WITHIN) is None

    @pytest.mark.parametrize("answer_within", [0.05, 30])
    async def test_an_event_is_heard_while_a_step_runs(self, every, body, answer_within):
        made = await every(lease=1)
        made.dispatcher.answer_within = answer_within
        run = await made.app.start("answered")
        await body.began.wait()
        await run.send_event("approval", "yes")
        assert await run.result(timeout=WITHIN) == "yes"
        assert not body.may_end.is_set()

    async def test_a_server_that_stops_waits_for_what_is_under_way(self, every, body):
        made = await every()
        run = await made.app.start("holding")
        await body.began.wait()
        stopping = asyncio.create_task(made.dispatcher.close())
        await until(lambda: made.dispatcher.engine is None)
        body.may_end.set()
        await stopping
        assert await run.result(timeout=WITHIN) == "held"
        assert body.did == ["held"]

    async def test_an_endpoint_that_stops_gives_back_what_it_cannot_finish(self, every, body):
        made = await every(drain=0.01)
        run = await made.app.start("holding")
        await body.began.wait()
        await made.asgi.serving.close()
        row = await when(made, run, lambda row: row.wait is not None)
        assert "it stops" in waits(row)[0].detail
        await made.asgi.serving.open()
        body.may_end.set()
        row = await when(made, run, lambda row: row.status is RunStatus.COMPLETE)
        assert row.output == '"held"'
        assert body.did == ["held", "held"]

    async def test_who_hangs_up_gets_the_decision_all_the_same(self, every, body):
        made = await every()
        run = await made.app.start("holding")
        await body.began.wait()
        (runner,) = made.dispatcher.engine.worker.turns.values()
        runner._task.cancel()  # as a server that dies: nobody waits for the answer
        await until(lambda: not made.asgi.serving._worker.pushed.under_way[run.id].is_awaited)
        body.may_end.set()
        assert await run.result(timeout=WITHIN) == "held"
        assert body.did == ["held"]


class TestOperators:
    async def test_a_run_is_terminated_while_its_step_runs(self, every, body):
        made = await every(lease=1)
        run = await made.app.start("holding")
        await body.began.wait()
        await run.terminate()
        with pytest.raises(RunTerminatedError):
            await run.result(timeout=WITHIN)
        await until(lambda: not made.asgi.serving._worker.turns)
        assert not body.may_end.is_set()

    async def test_a_run_is_paused_while_its_step_runs(self, every, body):
        made = await every()
        run = await made.app.start("holding")
        await body.began.wait()
        await run.pause()
        body.may_end.set()
        row = await when(made, run, lambda row: row.worker is None)
        assert row.status in (RunStatus.COMPLETE, RunStatus.PAUSED)
        if row.status is RunStatus.PAUSED:
            await run.resume()
        assert await run.result(timeout=WITHIN) == "held"
        assert body.did == ["held"]

    async def test_code_that_differs_from_its_journal_parks_the_run(self, every, body):
        made = await every()
        body.path = "left"
        run = await made.app.start("turning")
        await body.began.wait()
        await when(made, run, lambda row: row.status is RunStatus.WAITING)
        body.path = "right"
        await run.send_event("go")
        row = await when(made, run, lambda row: row.status is RunStatus.PAUSED)
        assert waits(row)[0].kind == "parked"
        assert "differ" in waits(row)[0].detail
