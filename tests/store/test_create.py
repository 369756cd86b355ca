from __future__ import annotations

from perdure.model.run import Created, Retention, Run, RunStatus
from perdure.store import Store
from tests.store.making import NOW, leased, new, one, record

ODD = [
    "it's",
    'say "hi"',
    "100%",
    "a_b",
    "ünï-🎉",
    "back\\slash",
    "a/b c",
    "new\nline",
    "[0]",
    "$.id",
    "null",
    "1",
    "%s",
]


async def test_a_run_has_all_that_it_was_created_with(store: Store) -> None:
    made = new(
        "a",
        due_at=NOW + 5,
        version="v1",
        queue="q",
        priority=-3,
        parent_id="p",
        parent_key="pay#2",
        is_detached=True,
        depth=4,
        fingerprint="f",
        tags={"team": "red", "q\"'é": "%_"},
        retention=Retention(None, 5, 0),
        records=(record(0), record(1)),
    )
    assert await store.create([made]) == [Created("a", is_new=True, fingerprint="f")]
    assert await one(store, "a") == Run(
        id="a",
        workflow="checkout",
        status=RunStatus.QUEUED,
        created_at=NOW,
        updated_at=NOW,
        version="v1",
        queue="q",
        priority=-3,
        due_at=NOW + 5,
        journal_length=2,
        parent_id="p",
        parent_key="pay#2",
        is_detached=True,
        depth=4,
        fingerprint="f",
        tags={"team": "red", "q\"'é": "%_"},
        retention=Retention(None, 5, 0),
    )
    assert await store.journal("a") == list(made.records)


async def test_a_run_with_a_worker_is_leased_at_once(store: Store) -> None:
    await store.create([new("a", due_at=NOW + 50, worker="w9")])
    run = await one(store, "a")
    assert (run.status, run.worker, run.epoch, run.seq) == (RunStatus.RUNNING, "w9", 1, 0)
    assert (run.started_at, run.due_at, run.crashes) == (NOW, NOW + 50, 0)
    assert await store.claim(["default"], 1, "w", NOW + 49, NOW + 99) == []


async def test_a_repeated_create_leaves_the_run_and_tells_its_fingerprint(store: Store) -> None:
    await store.create([new("a", fingerprint="first", worker="w")])
    before = await one(store, "a")
    again = new("a", fingerprint="second", workflow="other", records=(record(0), record(1)))
    assert await store.create([again]) == [Created("a", is_new=False, fingerprint="first")]
    assert await one(store, "a") == before
    assert len(await store.journal("a")) == 1


async def test_new_and_old_ids_in_one_call_are_answered_in_order(store: Store) -> None:
    await store.create([new("b", fingerprint="old")])
    runs = [new(name, fingerprint=f"{number}") for number, name in enumerate("cbaac")]
    created = await store.create(runs)
    assert [(run.id, run.is_new, run.fingerprint) for run in created] == [
        ("c", True, "0"),
        ("b", False, "old"),
        ("a", True, "2"),
        ("a", False, "2"),
        ("c", False, "0"),
    ]
    assert [len(await store.journal(name)) for name in "abc"] == [1, 1, 1]


async def test_nothing_is_created_by_an_empty_call(store: Store) -> None:
    assert await store.create([]) == []


async def test_ids_may_hold_any_character(store: Store) -> None:
    created = await store.create([new(name, fingerprint=name) for name in ODD])
    assert all(run.is_new for run in created)
    assert [run and run.id for run in await store.get(ODD)] == ODD
    assert [run and run.fingerprint for run in await store.get(ODD)] == ODD
    assert not any(run.is_new for run in await store.create([new(name) for name in ODD]))


async def test_payloads_come_back_byte_for_byte(store: Store) -> None:
    payloads = [
        "1e400",
        "-0.0",
        "1.10",
        "123456789012345678901234567890",
        '"a"',
        '"\\u00e9\\ud83c\\udf89\\u0000\\"\\\\\\/"',
        '"é🎉\u2028"',
        '{"b": 1,  "a":[1,2 ,3], "b": 2}',
        "null",
        "true",
        '""',
        " [ ] ",
        '"' + "x" * 1_000_000 + '"',
        None,
    ]
    records = tuple(record(position, payload=payload) for position, payload in enumerate(payloads))
    await store.create([new("a", records=records)])
    assert [entry.payload for entry in await store.journal("a")] == payloads
    await leased(store, "a")


async def test_tags_are_not_shared_with_the_caller(store: Store) -> None:
    tags = {"a": "1"}
    await store.create([new("a", tags=tags)])
    tags["a"] = "2"
    run = await one(store, "a")
    run.tags["a"] = "3"
    assert (await one(store, "a")).tags == {"a": "1"}


async def test_a_thousand_runs_of_ten_records_are_one_call(store: Store) -> None:
    records = tuple(record(position, payload=f'{{"n": {position}}}') for position in range(10))
    await store.create([new(f"r{number}", records=records) for number in range(1000)])
    claims = await store.claim(["default"], 1000, "w", NOW, NOW + 1)
    assert [claim.run.id for claim in claims] == [f"r{number}" for number in range(1000)]
    assert all(claim.journal == list(records) for claim in claims)
