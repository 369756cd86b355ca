"""What an endpoint asks in the middle of a turn: a token does one thing once, whoever has it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from perdure import Perdure, serve
from perdure.dispatch.protocol import CommitTurn, ExtendTurn, Pushed
from perdure.model.decision import Decision, Lease
from perdure.model.errors import RunCompensatedError
from perdure.model.record import Record
from perdure.model.run import RunStatus
from perdure.store.operations import TURN, TURNS
from tests.engine.world import until
from tests.serve.bodies import Body, everything
from tests.serve.byhand import claimed, keys_of, pushed
from tests.serve.conftest import listening

WITHIN = 15


class TestTwoProcessesWithTheSameTurn:
    async def test_only_one_can_record_anything(self, every, http, scene, body):
        made = await every()
        run, push = await claimed(made, "nested")
        keys = await keys_of(made)
        other, body.mark = Perdure(made.server_url, mode="serve"), "a"
        everything(other, Body())
        async with listening(serve.asgi(other, keys=(keys.current, keys.next))) as url:
            answers = await asyncio.gather(
                pushed(http, made.url, push, keys, id="a"), pushed(http, url, push, keys, id="b")
            )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        (kept,) = [answer for answer in answers if answer.status_code == 200]
        decision = msgspec.json.decode(kept.content, type=Pushed).decision
        (answer,) = await made.served.app.store.commit([decision])
        assert not answer.is_lost
        keys_told = [record.key for record in await run.journal()]
        assert keys_told == ["input", "outer/note", "outer/note#2", "outer", "output"]


class TestCallbacks:
    async def ask(self, made, http, name, token, given):
        body = b"" if given is None else msgspec.json.encode(given)
        return await http.post(f"{made.server_url}{TURNS}{name}", content=body, headers={TURN: token})

    async def decided(self, made, http):
        _, push = await claimed(made, "gathered")
        answer = await pushed(http, made.url, push, await keys_of(made))
        return push, msgspec.json.decode(answer.content, type=Pushed).decision

    async def test_a_token_commits_its_decision_once(self, every, http):
        made = await every()
        push, decision = await self.decided(made, http)
        first = await self.ask(made, http, "commit", push.token, CommitTurn(decision))
        again = await self.ask(made, http, "commit", push.token, CommitTurn(decision))
        assert (first.status_code, again.status_code) == (200, 200)
        record = msgspec.structs.replace(decision.records[0], payload='"other"')
        other = msgspec.structs.replace(decision, records=(record, *decision.records[1:]))
        refused = await self.ask(made, http, "commit", push.token, CommitTurn(other))
        assert refused.status_code == 409
        next_one = msgspec.structs.replace(decision, seq=decision.seq + 1)
        assert (await self.ask(made, http, "commit", push.token, CommitTurn(next_one))).status_code == 401

    @pytest.mark.parametrize(
        ("status", "mine", "other"),
        [
            (RunStatus.RUNNING, {"state": '{"phase": 1}'}, {"state": '{"phase": 2}'}),
            (
                RunStatus.QUEUED,
                {"renew": (Record(0, "input", "input", "ok", 2**40, "[1]"),)},
                {"renew": (Record(0, "input", "input", "ok", 2**40, "[2]"),)},
            ),
        ],
    )
    async def test_nor_is_what_changes_no_record(self, every, http, status, mine, other):
        made = await every()
        _, push = await claimed(made, "told")
        run, now = push.claim.run, made.app.world.now()
        decision = Decision(run.id, run.epoch, 1, now, status, None if status is RunStatus.RUNNING else now + 60_000)
        answers = [
            await self.ask(made, http, "commit", push.token, CommitTurn(msgspec.structs.replace(decision, **given)))
            for given in (mine, mine, other)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 409]

    async def test_what_was_made_known_before_is_not_made_known_again(self, every, http):
        made = await every()
        _, push = await claimed(made, "told")
        run, now = push.claim.run, made.app.world.now()
        first = Decision(run.id, run.epoch, 1, now, RunStatus.RUNNING, None, state="{}")
        answer = await self.ask(made, http, "commit", push.token, CommitTurn(first))
        second = msgspec.structs.replace(first, seq=2, state='{"phase": 1}')
        assert (await self.ask(made, http, "commit", answer.json()["token"], CommitTurn(second))).status_code == 200
        assert (await self.ask(made, http, "commit", push.token, CommitTurn(first))).status_code == 409

    async def test_what_a_token_is_not_for(self, every, http):
        made = await every()
        push, decision = await self.decided(made, http)
        for token in ("", "x", push.token[:-3], f"{push.token}x"):
            for name in ("commit", "extend", "inbox"):
                assert (await self.ask(made, http, name, token, CommitTurn(decision))).status_code == 401
        other = msgspec.structs.replace(decision, run_id="other")
        assert (await self.ask(made, http, "commit", push.token, CommitTurn(other))).status_code == 401
        lease = ExtendTurn(Lease("other", 1, 2**60))
        assert (await self.ask(made, http, "extend", push.token, lease)).status_code == 401

    async def test_a_lease_has_a_bound(self, every, http):
        made = await every()
        run, push = await claimed(made, "gathered")
        lease = ExtendTurn(Lease(run.id, 1, 2**60))
        assert (await self.ask(made, http, "extend", push.token, lease)).status_code == 200
        (row,) = await made.served.app.store.get([run.id])
        assert row.due_at <= made.served.app.world.now() + 300_000

    async def test_messages_are_read(self, every, http):
        made = await every()
        run, push = await claimed(made, "asked")
        await run.send_event("approval", "yes")
        answer = await self.ask(made, http, "inbox", push.token, None)
        assert [message["type"] for message in answer.json()["messages"]] == ["approval"]

    async def test_what_is_no_request(self, every, http):
        made = await every()
        _, push = await claimed(made, "gathered")
        for name in ("commit", "extend"):
            assert (await self.ask(made, http, name, push.token, {"a": 1})).status_code == 400


async def test_runs_do_not_wait_for_what_others_ask(every, monkeypatch):
    made = await every()
    asked, may_answer = [], asyncio.Event()
    usual = made.app.store.ask_of_turn

    async def slow(name, token, body):
        asked.append(name)
        await may_answer.wait()
        return await usual(name, token, body)

    monkeypatch.setattr(made.app.store, "ask_of_turn", slow)
    waiting = [await made.app.start("told") for _ in range(6)]
    try:
        async with asyncio.timeout(WITHIN):
            await until(lambda: len(asked) == 6)
            run = await made.app.start("undoing")
            with pytest.raises(RunCompensatedError):
                await run.result()
    finally:
        may_answer.set()
    (row,) = await made.served.app.store.get([run.id])
    assert row.epoch == 1  # no push of it failed
    for run in waiting:
        assert await run.result(timeout=WITHIN) == "two"
