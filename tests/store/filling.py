"""A store with a run in every state and with everything that a run can have, and how to read a whole store."""

from __future__ import annotations

from perdure.model.archive import Archive
from perdure.model.decision import Action, Control, Lease, Message
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.record import Record
from perdure.model.run import Retention
from perdure.store import Store, open_store
from tests.store.making import CAPACITY, DAY, NOW, decide, event, finish, held, leased, new, record

ODD = "é\"'%_🎉\n"


async def dumped(store: Store, limit: int = 100) -> list[Archive]:
    """Everything, page by page."""
    found: list[Archive] = []
    cursor = None
    while True:
        page = await store.dump(limit, cursor)
        assert len(page.archives) <= limit
        found += page.archives
        cursor = page.cursor
        if cursor is None:
            return found


async def memory() -> Store:
    store = open_store("memory://")
    await store.open()
    return store


async def fill(store: Store) -> None:
    """Make runs in every state and with everything that a run can have."""
    for status in ("complete", "errored", "terminated", "compensated"):
        await finish(store, status, status, retention=Retention(DAY, None, 2 * DAY))
    await finish(store, "for ever", retention=Retention(None, None, None))
    await held(store, "crashed")
    await leased(store, "crashed", NOW + 60_000, NOW + 120_000)
    again = await leased(store, "crashed", NOW + 120_000, NOW + 180_000)
    await store.extend([Lease("crashed", again.epoch, NOW + 200_000, '{"p": 1}')], NOW + 120_000)
    pausing = await held(store, "pausing")
    await store.control([Control("pausing", Action.PAUSE)], NOW)
    await store.commit([decide(pausing, records=(record(1),), state="{}")])
    await store.create([new("paused", workflow="refund"), new("renewed"), new("queued", due_at=NOW + 5, priority=9)])
    await store.control([Control("paused", Action.PAUSE)], NOW)
    renewed = await leased(store, "renewed")
    forgotten = Message("renewed", "k", "child", "kid", "1", NOW, ref="k")
    await store.post([forgotten, event("renewed", "behind-a-gap")], NOW, CAPACITY)
    renew = (record(0, "input", '"again"'),)
    await store.commit([decide(renewed, "queued", due_at=None, renew=renew)])
    for status, due_at in (("compensating", None), ("compensation_failed", None)):
        await store.commit([decide(await held(store, status), status, due_at=due_at)])
    between = await held(store, "between two undos", limit_key=ODD)
    await store.commit([decide(between, "compensating", due_at=NOW + 3)])
    await store.create([new("admitted", queue="few", limit_key="tenant"), new("in line", queue="few", limit_key=ODD)])
    await store.set_queue(QueueState("few", limits=QueueLimits(concurrency=1)))
    await store.admit(Admission("few", 0, ("admitted",), {}), "chooser", NOW, NOW + 11)
    await store.create([new("made-leased", worker="creator", due_at=NOW + 7)])
    run = await held(store, "waiting", tags={"k": "1", ODD: ODD}, fingerprint="f", priority=-3, version="v2")
    failed = Record(1, "a/b#2", "step", "open", NOW, '{"type": "m:E"}', 3, NOW - 5, NOW + 9, '{"n": 1}', 0)
    children = (
        new("kid", parent_id="waiting", parent_key="kid", depth=1, queue="other"),
        new("loose", parent_id="waiting", parent_key=None, is_detached=True, depth=1, retention=Retention(1, 2, 3)),
    )
    await store.post([event("waiting", name) for name in ("read-1", "unread", "read-2")], NOW, CAPACITY)
    await store.extend([Lease("waiting", run.epoch, NOW + 60_000, '{"k1": 0.5}')], NOW)
    await store.commit(
        [
            decide(
                run,
                "waiting",
                due_at=NOW + DAY,
                records=(failed, record(2, "b", "123456789012345678901234567890"), record(3, ODD, None)),
                seen=3,
                consumed=("read-2", "read-1"),
                children=children,
                wait='[{"on": "event"}]',
                state='{"s": "' + ODD.strip() + '"}',
            )
        ]
    )
    await store.control([Control("loose", Action.TERMINATE, '{"type": "x"}')], NOW + 1)
    await store.post([Message("waiting", "end", "child", "kid", "1e400", NOW, "error", "kid")], NOW, CAPACITY)
