"""Every store does what the memory store does, whatever is done to it and in whatever order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from perdure.model.archive import Archive
from perdure.model.decision import (
    Action,
    CatalogEntry,
    Control,
    Decision,
    Lease,
    Message,
    RunFilter,
    StoredDefinition,
)
from perdure.model.document import Document
from perdure.model.queue import Admission, QueueLimits, QueueState, QueueView, Rate
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Dedup, NewRun, Retention, RunStatus
from perdure.store import Store
from tests.store.making import REOPENABLE, store_at

IDS = ["a", "b", "c", "d", "e'%_é", "f"]
QUEUES = ["default", "other"]
LIMIT_KEYS = ["", "t1", "t1", "é'"]
START = 1_000_000

ids = st.sampled_from(IDS)
payloads = st.sampled_from(
    [None, '"a"', "1e400", '{"a": [1, 2]}', '"\\u00e9\\n\\"🎉"', "123456789012345678901234567890"]
)
queues = st.sampled_from(QUEUES)
queues_gated = st.sampled_from(["other", "other", "default"])
statuses = st.sampled_from(list(RunStatus))
EXAMPLES = {"sqlite": 40, "postgres": 25, "redis": 40, "cluster": 10}
"""How many sequences the gate tries on each store: as many as it does in some ten seconds."""

# Runs that ended are dull, so few do.
RESULTS = [RunStatus.RUNNING] * 4 + [RunStatus.WAITING] * 3 + [RunStatus.COMPENSATING] * 2 + list(RunStatus)
actions = st.sampled_from([*Action, Action.RESTART, Action.RESTART])
# Mostly what a worker would do, and now and then what only a confused one does.
epochs = st.sampled_from([0, 0, 0, 0, 0, -1, 1])
RARELY = st.sampled_from([0, 0, 2])
seqs = st.sampled_from([1, 1, 1, 1, 1, 0, 2])


@st.composite
def new_runs(draw: st.DrawFn, now: int) -> NewRun:
    records = tuple(
        Record(position, f"k{position}", "input" if position == 0 else "step", "ok", now, draw(payloads))
        for position in range(draw(st.integers(1, 3)))
    )
    parent = draw(st.none() | ids)
    dedup = Dedup(
        key=draw(st.sampled_from(["once", "daily'é"])),
        until=draw(st.none() | st.integers(now - 5, now + 20)),
        is_replacing=draw(st.booleans()),
        latest_due_at=draw(st.none() | st.integers(now, now + 20)),
    )
    return NewRun(
        id=draw(ids),
        workflow=draw(st.sampled_from(["w", "v"])),
        created_at=now + draw(st.integers(-5, 0)),
        due_at=now + draw(st.integers(-20, 20)),
        records=records,
        queue=draw(queues),
        priority=draw(st.sampled_from([0, 0, 5, -1])),
        worker=draw(st.sampled_from([None, None, "creator"])),
        parent_id=parent,
        parent_key=None if parent is None else draw(st.sampled_from([None, "child", "child"])),
        is_detached=draw(st.sampled_from([False, False, True])),
        fingerprint=draw(st.sampled_from(["", "f1"])),
        tags=draw(st.dictionaries(st.sampled_from(["k", "q\"%'é"]), st.sampled_from(["1", "2"]), max_size=2)),
        retention=draw(st.sampled_from([Retention(), Retention(None, 0, 20), Retention(0, 5, 0)])),
        limit_key=draw(st.sampled_from(LIMIT_KEYS)),
        dedup=draw(st.sampled_from([dedup, None])),
    )


def told_runs(now: int) -> st.SearchStrategy[tuple[NewRun, ...]]:
    runs = st.builds(lambda new: replace(new, dedup=None), new_runs(now))
    return st.lists(runs, max_size=2).map(tuple)


@st.composite
def queue_states(draw: st.DrawFn, known: dict[str, int]) -> QueueState:
    """Mostly the next version of a queue's state; gated about every second time."""
    name = draw(queues)
    limits = st.sampled_from(
        [QueueLimits(), QueueLimits(), QueueLimits(2), QueueLimits(None, 1, Rate(3, 1000), is_fair=True)]
    )
    return QueueState(
        name,
        version=known.get(name, 0) + draw(st.sampled_from([1, 1, 1, 0, 2])),
        is_paused=draw(st.sampled_from([False, False, True])),
        limits=draw(limits),
        declared=draw(limits),
        turns=draw(st.integers(0, 1)),
    )


@st.composite
def messages(draw: st.DrawFn, now: int) -> Message:
    return Message(
        run_id=draw(ids),
        id=draw(st.sampled_from(["m1", "m2", "m3", "m4", *IDS[:2]])),
        kind=draw(st.sampled_from(["event", "child"])),
        type=draw(st.sampled_from(["go", "stop'"])),
        payload=draw(payloads),
        at=now,
        state=draw(st.sampled_from(["ok", "error"])),
        ref=draw(st.none() | ids),
    )


async def looked_into(store: Store, queue: str, now: int, keys: int, each: int, known: Any) -> QueueView | None:
    """All that is seen of a queue, however a store cuts it into pages, without paces that may be forgotten."""
    whole, after = None, None
    while True:
        view = await store.look_into(queue, now, keys, each, after, known)
        if view is None:
            return whole
        before = [] if whole is None else whole.candidates
        paces = ({} if whole is None else whole.paces) | {key: at for key, at in view.paces.items() if at > now}
        whole = replace(view, candidates=before + view.candidates, paces=paces)
        after = view.last_key
        if after is None:
            return whole


async def dumped(store: Store) -> list[Archive]:
    """Every run whole, page by page."""
    found: list[Archive] = []
    cursor: str | None = None
    while True:
        page = await store.dump(4, cursor)
        found += page.archives
        cursor = page.cursor
        if cursor is None:
            return found


class Differential(RuleBasedStateMachine):
    """Does everything on both stores and compares the answers, and after each step all that can be read."""

    kind = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.now = START
        self.kept: list[Archive] = []

    @initialize()
    def begin(self) -> None:
        place = Path(self.folder.name)
        self.reference, self.store = store_at("memory", place), store_at(self.kind, place)
        self.both(lambda store: store.open())
        self.both(lambda store: store.set_queue(QueueState("other", limits=QueueLimits(2))))

    def teardown(self) -> None:
        self.both(lambda store: store.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, ask: Callable[[Store], Awaitable[Any]]) -> Any:
        async def answers() -> tuple[Any, Any]:
            return await ask(self.reference), await ask(self.store)

        expected, found = self.runner.run(answers())
        assert found == expected
        return expected

    @rule(by=st.integers(1, 30))
    def time_passes(self, by: int) -> None:
        self.now += by

    @rule(data=st.data())
    def create(self, data: st.DataObject) -> None:
        runs = data.draw(st.lists(new_runs(self.now), max_size=4))
        self.both(lambda store: store.create(runs))

    @rule(data=st.data(), capacity=st.integers(1, 4))
    def post(self, data: st.DataObject, capacity: int) -> None:
        sent = data.draw(st.lists(messages(self.now), max_size=5))
        self.both(lambda store: store.post(sent, self.now, capacity))

    @rule(
        wanted=st.lists(queues, max_size=3),
        limit=st.integers(1, 5),
        lasting=st.integers(1, 20),
        known=st.sampled_from([None, None, None, ["w"], ["v", "w"], []]),
    )
    def claim(self, wanted: list[str], limit: int, lasting: int, known: list[str] | None) -> None:
        self.both(lambda store: store.claim(wanted, limit, "worker", self.now, self.now + lasting, known))

    @rule(data=st.data())
    def claim_and_commit(self, data: st.DataObject) -> None:
        self.both(lambda store: store.claim(QUEUES, 10, "worker", self.now, self.now + 10))
        self.commit_drawn(data)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.commit_drawn(data)

    def commit_drawn(self, data: st.DataObject) -> None:
        runs = {run.id: run for run in self.both(lambda store: store.get(IDS)) if run is not None}
        decisions: list[Decision] = []
        running = [run_id for run_id, run in runs.items() if run.worker is not None]
        likely = st.sampled_from(running * 4 + IDS)
        for run_id in data.draw(st.lists(likely, min_size=1, max_size=4)):
            run = runs.get(run_id)
            epoch = data.draw(epochs) + (run.epoch if run else 1)
            seq = data.draw(seqs) + (run.seq if run else 0)
            renew = data.draw(st.sampled_from([None, None, None, 0, 1, 2]))
            length = run.journal_length if run else 1
            written = data.draw(st.integers(0, 2))
            first = length if renew is None else renew
            decision = Decision(
                run_id=run_id,
                epoch=epoch,
                seq=seq,
                at=self.now,
                status=data.draw(st.sampled_from(RESULTS)),
                due_at=data.draw(st.none() | st.integers(self.now - 5, self.now + 20)),
                records=self.records(data, first, written),
                seen=data.draw(st.integers(0, 4)),
                consumed=tuple(data.draw(st.lists(st.sampled_from(["m1", "m2", "m3", "m4", "a", "b"]), max_size=4))),
                children=tuple(data.draw(st.lists(new_runs(self.now), max_size=data.draw(RARELY)))),
                posts=tuple(data.draw(st.lists(messages(self.now), max_size=data.draw(RARELY)))),
                terminate=tuple(data.draw(st.lists(ids, max_size=data.draw(RARELY) // 2))),
                unclaimed=tuple(data.draw(st.lists(ids, max_size=data.draw(RARELY)))),
                wait=data.draw(st.none() | st.just('{"on": "x"}')),
                state=data.draw(st.none() | st.just('{"s": 1}')),
                renew=None if renew is None else self.records(data, 0, renew),
            )
            decisions.append(decision)
            if run and epoch == run.epoch and seq == run.seq + 1 and run.worker is not None:
                worker = run.worker if decision.keeps_lease else None
                runs[run_id] = replace(run, seq=seq, journal_length=first + written, worker=worker)
        committed = self.both(lambda store: store.commit(decisions))
        if not any(done.is_lost for done in committed):
            again = self.both(lambda store: store.commit(decisions))
            ends_some = any(decision.terminate for decision in decisions)  # of these runs, maybe: then they are lost
            assert ends_some or not any(done.is_lost for done in again)

    @staticmethod
    def records(data: st.DataObject, first: int, count: int) -> tuple[Record, ...]:
        return tuple(
            Record(
                position, f"k{position}", data.draw(st.sampled_from(["step", "output"])), "ok", 1, data.draw(payloads)
            )
            for position in range(first, first + count)
        )

    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        runs = {run.id: run for run in self.both(lambda store: store.get(IDS)) if run is not None}
        leases = [
            Lease(
                run_id,
                (runs[run_id].epoch if run_id in runs else 1) + data.draw(epochs),
                self.now + data.draw(st.integers(-5, 20)),
                data.draw(st.none() | st.just('{"k1": 1}')),
            )
            for run_id in data.draw(st.lists(ids, max_size=4))
        ]
        self.both(lambda store: store.extend(leases, self.now))

    @rule(data=st.data(), run_ids=st.lists(ids, min_size=1, max_size=3), action=actions, notice=payloads)
    def control(self, data: st.DataObject, run_ids: list[str], action: Action, notice: str | None) -> None:
        named = data.draw(st.sampled_from([(), (), (), (), IDS[:2], IDS, IDS]))
        told = dict.fromkeys(named, data.draw(told_runs(self.now))) if named else None
        actions = [Control(run_id, action, notice, told) for run_id in run_ids]
        self.both(lambda store: store.control(actions, self.now))

    @rule(limit=st.integers(1, 3), age=st.integers(-10, 10))
    def prune(self, limit: int, age: int) -> None:
        self.both(lambda store: store.prune(self.now - age, limit))

    @rule(
        workflow=st.sampled_from(["w", "v"]), version=st.sampled_from(["1", "2"]), schema=st.sampled_from(["{}", "1"])
    )
    def publish(self, workflow: str, version: str, schema: str) -> None:
        entry = CatalogEntry(workflow, version, "default", schema, self.now, "worker")
        self.both(lambda store: store.publish([entry]))

    @rule(
        name=st.sampled_from(["w", "v'é"]), version=st.sampled_from(["1", "2"]), text=st.sampled_from(["{}", "1e400"])
    )
    def define(self, name: str, version: str, text: str) -> None:
        definition = StoredDefinition(name, version, text, self.now)
        self.both(lambda store: store.define([definition]))

    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        places = st.tuples(st.sampled_from(["views", "log'é"]), st.sampled_from(["a", "b%", "é🎉"]))
        documents = []
        for collection, key in data.draw(st.lists(places, max_size=4, unique=True)):
            (kept,) = self.both(lambda store, c=collection, k=key: store.read(c, [k]))
            revision = (0 if kept is None else kept.revision) + data.draw(st.sampled_from([0, 0, 0, -1, 1]))
            text = data.draw(st.sampled_from([None, "{}", "1e400"]))
            documents.append(Document(collection, key, text, max(revision, 0), self.now))
        self.both(lambda store: store.put(documents))

    @rule(run_id=ids, texts=st.dictionaries(payloads.map(str), payloads.map(str), max_size=4))
    def reword(self, run_id: str, texts: dict[str, str]) -> None:
        rewordings = [
            Rewording("run", run_id, texts),
            Rewording("document", "views", texts, "b%"),
            Rewording("definition", "v'é", texts, "2"),
        ]
        self.both(lambda store: store.reword(rewordings))

    @rule(data=st.data())
    def set_queue(self, data: st.DataObject) -> None:
        known = {state.name: state.version for state in self.both(lambda store: store.queues())}
        state = data.draw(queue_states(known))
        self.both(lambda store: store.set_queue(state))

    @rule(data=st.data(), lasting=st.integers(0, 20), known=st.sampled_from([None, None, ["w"], []]))
    def admit(self, data: st.DataObject, lasting: int, known: list[str] | None) -> None:
        self.admit_drawn(data, lasting, known)

    @rule(data=st.data())
    def create_and_admit(self, data: st.DataObject) -> None:
        self.create(data)
        self.admit_drawn(data, 10, None)
        self.commit_drawn(data)

    def admit_drawn(self, data: st.DataObject, lasting: int, known: list[str] | None) -> None:
        queue, keys, each = data.draw(queues_gated), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
        view = self.both(lambda store: looked_into(store, queue, self.now, keys, each, known))
        likely = IDS if view is None else [candidate.run_id for candidate in view.candidates] * 4 + IDS
        admission = Admission(
            queue,
            turns=(0 if view is None else view.state.turns) + data.draw(st.sampled_from([0, 0, 0, 0, 1])),
            run_ids=tuple(data.draw(st.lists(st.sampled_from(likely), min_size=1, max_size=4))),
            paces=data.draw(st.dictionaries(st.sampled_from(LIMIT_KEYS), st.integers(self.now, self.now + 20))),
        )
        self.both(lambda store: store.admit(admission, "chooser", self.now, self.now + lasting))

    @rule()
    def keep(self) -> None:
        self.kept = self.both(dumped)

    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        some = [archive for archive in self.kept if data.draw(st.booleans())]
        self.both(lambda store: store.load(some))

    @rule()
    def reopen(self) -> None:
        if self.kind in REOPENABLE:
            self.runner.run(self.store.close())
            self.store = store_at(self.kind, Path(self.folder.name))
            self.runner.run(self.store.open())

    @rule(
        status=st.lists(statuses, max_size=2),
        workflow=st.none() | st.just("w"),
        queue=st.none() | queues,
        parent_id=st.none() | ids,
        id_prefix=st.none() | st.sampled_from(["", "e'", "e'%", "a"]),
        tags=st.dictionaries(st.sampled_from(["k", "q\"%'é"]), st.sampled_from(["1", "2"]), max_size=1),
        created_from=st.none() | st.integers(START, START + 100),
        created_until=st.none() | st.integers(START, START + 100),
        limit=st.integers(1, 3),
    )
    def find(self, limit: int, status: list[RunStatus], **more: Any) -> None:
        where = RunFilter(status=tuple(status), **more)
        self.same_pages(where, limit)

    def same_pages(self, where: RunFilter, limit: int) -> None:
        async def pages(store: Store) -> list[Any]:
            found, cursor = [], None
            while True:
                page = await store.find(where, limit, cursor)
                found.append(page.runs)
                cursor = page.cursor
                if cursor is None:
                    return found

        self.both(pages)

    @invariant()
    def the_same_is_stored(self) -> None:
        if not hasattr(self, "store"):
            return

        async def snapshot(store: Store) -> list[Any]:
            return [
                await store.get(IDS),
                [await store.journal(run_id) for run_id in IDS],
                [await store.journal(run_id, 0, 1) for run_id in IDS[:2]],
                [await store.inbox(run_id) for run_id in IDS],
                await store.stats(self.now),
                [await store.next_due(names) for names in (["default"], QUEUES, [])],
                [await store.next_due(QUEUES, known) for known in (["w"], [])],
                await dumped(store),
                await store.catalog(),
                await store.definitions(),
                [await store.documents(name, 2) for name in ("views", "log'é", "log")],
                await store.documents("views", 2, "b%", newest_first=True),
                await store.collections(),
                await store.queues(),
                [await looked_into(store, queue, self.now, 2, 2, None) for queue in QUEUES],
            ]

        self.both(snapshot)
        self.same_pages(RunFilter(), 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_store_does_what_the_memory_store_does(kind: str) -> None:
    quick = settings(max_examples=EXAMPLES[kind], stateful_step_count=40, deadline=None)
    machine = type("Differential", (Differential,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings() if settings().max_examples > 1000 else quick)
