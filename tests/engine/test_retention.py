"""How long ended runs are kept, by outcome; runs that live are never removed."""

from __future__ import annotations

import pytest

from perdure import Retention, RunNotFoundError, UsageError, flow

DAY = 86_400


def register(app, **options):
    @app.workflow(name="w", **options)
    async def w(what: str) -> str:
        if what == "errored":
            raise ValueError
        if what == "waiting":
            await flow.wait_for_event("go", type="go", timeout=None)
        if what in {"paused", "terminated"}:
            await flow.sleep("365 days")
        return what

    return w


async def left(app):
    return {run.id for run in (await app.runs()).runs}


async def ends(app, world, w, **options):
    """A run of each outcome, and some that have none."""
    for what in ("complete", "errored", "terminated", "waiting", "paused"):
        await app.start(w, what, id=what, **options)
    await app.start(w, "complete", id="queued", delay="300 days", **options)
    await world.settle()
    await app.run("terminated").terminate()
    await app.run("paused").pause()


async def passes(world, seconds):
    await world.advance(seconds)
    await world.advance(31)


async def test_each_outcome_has_its_age(make, world):
    app = make(retention=Retention.of(complete="1 day", errored="3 days", terminated="5 days"))
    w = register(app)
    async with app:
        await ends(app, world, w)
        live = {"waiting", "paused", "queued"}
        await passes(world, DAY / 2)
        assert await left(app) == {"complete", "errored", "terminated"} | live
        await passes(world, DAY)
        assert await left(app) == {"errored", "terminated"} | live
        await passes(world, 2 * DAY)
        assert await left(app) == {"terminated"} | live
        await passes(world, 200 * DAY)
        assert await left(app) == live
        with pytest.raises(RunNotFoundError):
            await app.run("complete").journal()


async def test_a_run_that_is_kept_for_ever_is(make, world):
    app = make(retention=Retention.of(None, None, None))
    w = register(app)
    async with app:
        await ends(app, world, w)
        await passes(world, 250 * DAY)
        assert len(await left(app)) == 6


async def test_the_call_wins_over_the_workflow_and_the_workflow_over_the_engine(make, world):
    app = make(retention=Retention.of("10 days"))
    w = register(app, retention=Retention.of("5 days"))

    @app.workflow
    async def plain(): ...

    async with app:
        await app.start(w, "complete", id="call", retention=Retention.of("1 day"))
        await app.start(w, "complete", id="workflow")
        await app.start(plain, id="engine")
        await world.settle()
        for kept in ({"workflow", "engine"}, {"engine"}, set()):
            await passes(world, 5 * DAY if kept != {"workflow", "engine"} else DAY)
            assert await left(app) == kept


async def test_a_child_is_kept_as_its_workflow_says_or_else_as_its_parent_is(make):
    app = make(retention=Retention.of("10 days"))

    @app.workflow(retention=Retention.of("1 day"))
    async def short(): ...

    @app.workflow
    async def plain(): ...

    @app.workflow
    async def parent() -> None:
        await short()
        await (await flow.start(short, id="started")).result()
        await plain()

    async with app:
        run = await app.start(parent, id="p", retention=Retention.of("5 days"))
        await run.result(timeout=5)
        kept = {child.id: child.expires_at - child.finished_at for child in (await app.runs(parent="p")).runs}
    assert kept == {"p/short": DAY * 1000, "started": DAY * 1000, "p/plain": 5 * DAY * 1000}


async def test_a_pruned_id_can_be_used_again(make, world):
    app = make(retention=Retention.of("1 hour"))
    w = register(app)
    async with app:
        assert await (await app.start(w, "complete", id="r")).result() == "complete"
        await passes(world, 3700)
        run = await app.start(w, "waiting", id="r")
        await run.send_event("go")
        assert await run.result(timeout=5) == "waiting"


async def test_a_restarted_run_is_not_removed_while_it_lives(make, world):
    app = make(retention=Retention.of("1 hour"))
    w = register(app)
    broken = [True]

    @app.workflow
    async def v() -> str:
        if not broken[0]:
            await flow.sleep("10 hours")
        return "done"

    async with app:
        run = await app.start(v)
        await run.result()
        broken[0] = False
        await run.restart()
        await passes(world, 9 * 3600)
        assert str((await run.get()).status) == "waiting"
        await world.advance(2 * 3600)
        assert await run.result(timeout=5) == "done"
    assert w.retention is None


async def test_a_thousand_expired_runs_go_in_one_round(make, world):
    app = make(retention=Retention.of("1 hour"))
    w = register(app)
    async with app:
        await app.start_many(w, [("complete",)] * 1_200)
        await world.settle()
        await passes(world, 3700)
        assert await left(app) == set()


@pytest.mark.parametrize("bad", ["soon", -1, float("nan")])
def test_a_bad_age_is_named(bad):
    with pytest.raises(UsageError, match="retention"):
        Retention.of(bad)


async def test_what_is_no_retention_is_refused_before_anything_runs(make):
    app = make()
    with pytest.raises(UsageError, match="workflow 'kept', retention: '1 hour' is no Retention"):

        @app.workflow(retention="1 hour")
        async def kept(): ...

    @app.task
    async def work() -> None: ...

    with pytest.raises(UsageError, match="task 'work', retention: 3 is no Retention"):
        work.options(retention=3)
    with pytest.raises(UsageError, match="retention: '1 hour' is no Retention"):
        make(retention="1 hour")
    async with app:
        with pytest.raises(UsageError, match="retention: '1 hour' is no Retention"):
            await app.start(work, retention="1 hour")
        assert (await app.runs()).runs == []
