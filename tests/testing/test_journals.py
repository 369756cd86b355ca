"""Recorded journals: what ran yesterday, replayed against the code of today."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import ChildFailedError, Perdure, Retry, RunNotFoundError, UsageError, flow, testing

ran: list[str] = []


def shop(**changed: Callable[..., Any]) -> Perdure:
    """An application of four steps and `checkout`, in yesterday's version or another one."""
    app = Perdure("memory://")
    parts: dict[str, Any] = {}
    for name in ("reserve", "charge", "ship", "notify"):

        def make(name: str) -> Callable[..., Awaitable[int]]:
            async def step(number: int = 1) -> int:
                ran.append(name)
                return number

            return step

        parts[name] = app.step(name=name, retry=Retry(attempts=1))(changed.get(name) or make(name))

    async def checkout(order: int) -> int:
        await parts["charge"](order)
        await flow.sleep("1 day")
        await flow.wait_for_event("pay", type="paid", timeout=None)
        return int(await parts["ship"](order))

    code = changed.get("checkout")
    app.workflow(name="checkout")(checkout if code is None else code(parts))
    return app


async def record(app: Perdure, *, is_finished: bool = True, name: str = "checkout", order: int = 3) -> bytes:
    async with testing.engine(app) as engine:
        run = await app.start(name, input={"order": order}, id="order-3")
        await engine.advance("1 day")
        if is_finished:
            await engine.send_event(run, "paid", 1)
            await engine.settle()
        return await testing.export_journal(run)


def changed(body: Callable[[dict[str, Any], int], Awaitable[Any]]) -> Perdure:
    def make(parts: dict[str, Any]) -> Callable[..., Any]:
        async def checkout(order: int) -> int:
            return await body(parts, order)  # type: ignore[no-any-return]

        return checkout

    return shop(checkout=make)


async def same(parts: dict[str, Any], order: int) -> Any:
    await parts["charge"](order)
    await flow.sleep("2 days")
    await flow.wait_for_event("pay", type="paid", timeout=None)
    return await parts["ship"](order)


async def renamed(parts: dict[str, Any], order: int) -> Any:
    await parts["reserve"](order)
    await flow.sleep("1 day")
    await flow.wait_for_event("pay", type="paid", timeout=None)
    return await parts["ship"](order)


async def shorter(parts: dict[str, Any], order: int) -> Any:
    await parts["charge"](order)
    return order


async def reordered(parts: dict[str, Any], order: int) -> Any:
    await flow.sleep("1 day")
    await parts["charge"](order)
    await flow.wait_for_event("pay", type="paid", timeout=None)
    return await parts["ship"](order)


async def longer(parts: dict[str, Any], order: int) -> Any:
    shipped = await same(parts, order)
    await parts["notify"](order)
    return shipped


async def wider(parts: dict[str, Any], order: int) -> Any:
    await parts["charge"](order)
    await parts["notify"](order)
    await flow.sleep("1 day")
    await flow.wait_for_event("pay", type="paid", timeout=None)
    return await parts["ship"](order)


async def dicing(parts: dict[str, Any], order: int) -> Any:
    flow.random()
    return await same(parts, order)


async def otherwise(parts: dict[str, Any], order: int) -> Any:
    return await same(parts, order) + 1


async def failing(parts: dict[str, Any], order: int) -> Any:
    await same(parts, order)
    raise ValueError("no more")


async def failing_later(parts: dict[str, Any], order: int) -> Any:
    await parts["charge"](order)
    await flow.sleep("1 day")
    raise ValueError("no more")


async def patched(parts: dict[str, Any], order: int) -> Any:
    shipped = await same(parts, order)
    if flow.patched("notify"):
        await parts["notify"](order)
    return shipped


async def bounded(parts: dict[str, Any], order: int) -> Any:
    async with asyncio.timeout(1_000_000):
        return await same(parts, order)


async def bounded_longer(parts: dict[str, Any], order: int) -> Any:
    async with asyncio.timeout(1_000_000):
        return await longer(parts, order)


async def writing(parts: dict[str, Any], order: int) -> Any:
    with open("/dev/null"):  # noqa: ASYNC230  # this is what is refused
        pass
    return await same(parts, order)


async def renewing(parts: dict[str, Any], order: int) -> Any:
    await same(parts, order)
    await flow.continue_as_new(order)


FINISHED: list[tuple[Any, str | None, bool]] = [
    # today's code, what is reported of a finished run, and whether that is so without `strict` too
    (same, None, False),
    (patched, None, False),
    (bounded, None, False),
    (renamed, "record 1 is step 'charge', but the code asked for step 'reserve'", False),
    (shorter, "record 2 is timer 'sleep', but the code came to its end without asking for it", True),
    (reordered, "record 1 is step 'charge', but the code asked for timer 'sleep'", True),
    (longer, "the code asked for step 'notify' beyond record 5, where the recorded run ended", False),
    (bounded_longer, "the code asked for step 'notify' beyond record 5, where the recorded run ended", False),
    (wider, "the code asked for step 'notify' ahead of record 2, timer 'sleep'", False),
    (dicing, "the code asked for value 'random', which was not recorded", False),
    (otherwise, "the recorded run ended with 3, but the code ends with 4", False),
    (failing, "the recorded run ended with 3, but the code ends with ValueError: no more", False),
    (renewing, "the recorded run ended with 3, but the code begins anew", False),
]


@pytest.mark.parametrize(("code", "problem", "is_always"), FINISHED, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_finished_run(code: Any, problem: str | None, is_always: bool):
    data = await record(shop())
    ran.clear()
    report = testing.replay_journal(data, changed(code))
    if problem is None:
        assert report.problems == ()
    elif (
        code is renamed
    ):  # the new step is taken for an insertion, until it turns out that the old one is not asked for
        assert report.problems == ("the code asked for step 'reserve' ahead of record 1, step 'charge'",)
    else:
        assert len(report.problems) == 1
        assert problem in report.problems[0]
    lenient = testing.replay_journal(data, changed(code), strict=False)
    assert lenient.is_clean is not is_always
    assert ran == []


UNFINISHED: list[tuple[Any, str | None]] = [
    (same, None),
    (longer, None),
    (otherwise, None),
    (patched, None),
    (shorter, "came to its end without asking for it"),
    (reordered, "but the code asked for timer 'sleep'"),
    (wider, "ahead of record 2, timer 'sleep'"),
    (dicing, "value 'random', which was not recorded"),
    (writing, "without asking for it, with NotDurableError: "),
    (failing_later, "the code now fails here: ValueError: no more"),
]


@pytest.mark.parametrize(("code", "problem"), UNFINISHED, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_run_that_goes_on(code: Any, problem: str | None):
    data = await record(shop(), is_finished=False)
    ran.clear()
    report = testing.replay_journal(data, changed(code))
    assert (report.problems == ()) is (problem is None)
    assert problem is None or problem in report.problems[0]
    assert ran == [], "a replay runs no step"


async def test_what_is_recorded_later_is_not_reported():
    async def code(parts: dict[str, Any], order: int, *, is_new: bool) -> Any:
        late = asyncio.create_task(flow.sleep("5 hours"))
        if is_new:
            await parts["notify"](order)
        await parts["charge"](order)
        await late
        return order

    def version(*, is_new: bool) -> Perdure:
        return changed(lambda parts, order: code(parts, order, is_new=is_new))

    report = testing.replay_journal(await record(version(is_new=False), is_finished=False), version(is_new=True))
    assert report.problems == ("the code asked for step 'notify' ahead of record 1, step 'charge'",)


async def test_a_run_whose_code_was_changed_on_its_way():
    app = shop()
    async with testing.engine(app) as engine:
        run = await app.start("checkout", input={"order": 3})
        await engine.advance("1 day")
        app.registry.workflows["checkout"] = changed(wider).registry.workflows["checkout"]
        await engine.send_event(run, "paid", 1)
        assert await run.result() == 3
        data = await testing.export_journal(run)
    assert [(entry["key"], entry.get("before")) for entry in json.loads(data)["journal"]] == [
        ("input", None),
        ("charge", None),
        ("sleep", None),
        ("notify", 2),
        ("pay", None),
        ("ship", None),
        ("output", None),
    ]
    assert testing.replay_journal(data, changed(wider)).problems == ()


async def test_a_type_that_no_longer_fits():
    async def charge(number: int = 1) -> str:
        return str(number)

    report = testing.replay_journal(await record(shop()), shop(charge=charge), strict=False)
    assert "record 1, step 'charge', cannot be read any more" in str(report)


async def test_an_input_that_no_longer_fits():
    def make(parts: dict[str, Any]) -> Any:
        async def checkout(order: int, customer: str) -> int:
            return 1

        return checkout

    for is_finished in (True, False):
        data = await record(shop(), is_finished=is_finished)
        report = testing.replay_journal(data, shop(checkout=make), strict=False)
        assert "record 0, input 'input', cannot be read any more" in report.problems[0]
        assert "missing required field `customer`" in report.problems[0]


async def test_a_workflow_that_is_gone():
    report = testing.replay_journal(await record(shop()), Perdure("memory://"))
    assert report.problems == ("no workflow 'checkout' is registered any more; registered: none",)


async def test_failures_children_races_and_steps_in_steps_replay(app: Perdure):
    @app.step(retry=Retry(attempts=2, delay="1 minute"))
    async def flaky(number: int) -> int:
        if flow.attempt() == 1:
            raise OSError("first")
        return number

    @app.step
    async def outer(number: int) -> int:
        return await flaky(number)

    @app.workflow
    async def child(number: int) -> int:
        raise ValueError(f"child {number}")

    @app.workflow
    async def background() -> None:
        await flow.sleep("1 year")

    @app.workflow
    async def checkout(order: int) -> list[Any]:
        await flow.start(background)
        flow.now()
        try:
            await child(order)
        except ChildFailedError as error:
            caught = str(error.__cause__)
        done, _ = await asyncio.wait(
            [asyncio.create_task(flow.sleep("1 hour")), asyncio.create_task(flow.sleep("2 hours", name="loser"))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        async with asyncio.timeout(100_000):
            results = await asyncio.gather(flaky(1), outer(2))
        return [caught, len(done), *results, str(flow.uuid())]

    @app.workflow
    async def failing(order: int) -> None:
        raise LookupError(order)

    for name in ("checkout", "failing"):
        report = testing.replay_journal(await record(app, is_finished=False, name=name), app)
        assert report.problems == (), str(report)
        assert report.is_clean


async def test_a_journal_that_has_been_through_a_file(tmp_path: Path):
    app = shop()
    async with testing.engine(app) as engine:
        run = await app.start("checkout", input={"order": 3}, id="order-3")
        await engine.advance("1 day")
        data = await testing.export_journal(run, tmp_path / "one.json")
        with pytest.raises(RunNotFoundError):
            await testing.export_journal(app.run("nobody"))
    assert (tmp_path / "one.json").read_bytes() == data
    file = json.loads(data)
    assert file["perdure"] == 1
    assert file["run"]["workflow"] == "checkout"
    assert [entry["key"] for entry in file["journal"]] == ["input", "charge", "sleep"]
    assert file["journal"][0]["payload"] == {"order": 3}
    assert "payload" not in file["journal"][2]
    assert data.count(b"\n") > 20, "one value to a line, so that a diff can be read"


async def test_replay_takes_patterns_and_tells_of_all_that_drifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "histories" / "old"
    folder.mkdir(parents=True)
    (folder / "a.json").write_bytes(await record(shop()))
    (folder / "b.json").write_bytes(await record(shop(), is_finished=False))
    (tmp_path / "histories" / "c.json").write_bytes(await record(shop()))
    reports = testing.replay("histories/**/*.json", shop())
    assert [report.source for report in reports] == [
        "histories/c.json",
        "histories/old/a.json",
        "histories/old/b.json",
    ]
    assert str(reports[0]) == "histories/c.json: run order-3 of workflow 'checkout', 6 records: replays"
    assert len(testing.replay([folder / "a.json", folder / "b.json"], shop())) == 2
    with pytest.raises(testing.DriftError) as drifted:
        testing.replay("histories/**/*.json", changed(longer))
    assert [report.source for report in drifted.value.reports] == ["histories/c.json", "histories/old/a.json"]
    assert isinstance(drifted.value, AssertionError)
    assert str(drifted.value).splitlines() == [
        "histories/c.json: run order-3 of workflow 'checkout', 6 records: has drifted",
        "  the code asked for step 'notify' beyond record 5, where the recorded run ended",
        "histories/old/a.json: run order-3 of workflow 'checkout', 6 records: has drifted",
        "  the code asked for step 'notify' beyond record 5, where the recorded run ended",
    ]
    testing.replay("histories/**/*.json", changed(longer), strict=False)
    with pytest.raises(UsageError, match=r"'nowhere/\*.json' matches no file"):
        testing.replay("nowhere/*.json", shop())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is no exported journal"),
        (b"[]", "is no exported journal"),
        (b"{}", "is no exported journal"),
        (b'{"perdure": 2}', "exported by a newer Perdure"),
        (
            b'{"perdure": 1, "run": {"id": "a", "workflow": "b", "status": "paused", "created_at": 1}, "journal": []}',
            "does not begin with an input",
        ),
    ],
)
async def test_what_is_no_journal_is_refused(data: bytes, message: str):
    with pytest.raises(UsageError, match=message):
        testing.replay_journal(data, shop())
