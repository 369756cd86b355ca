"""Results for whoever waits: in another engine, another thread, another process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading

import pytest

from perdure import (
    Perdure,
    RunFailedError,
    RunNotFinishedError,
    RunNotFoundError,
    StoreUnavailableError,
    UsageError,
    flow,
)


class OutOfStock(Exception):
    """An error of the user's own."""


def register(app):
    @app.workflow(name="w")
    async def w(what: str) -> str:
        if what == "fails":
            raise OutOfStock("sorry", 5)
        if what == "waits":
            return await flow.wait_for_event("go", type="go", timeout=None)
        return what

    return w


async def test_a_client_is_told_the_results_of_what_others_run(make, world):
    client, worker = make(mode="client"), make(mode="worker")
    w = register(client)
    register(worker)
    async with client, worker:
        run = await client.start(w, "well")
        assert await run.result(timeout=10) == "well"
        failing = await client.start(w, "fails")
        with pytest.raises(RunFailedError, match="OutOfStock: ") as failed:
            await failing.result(timeout=10)
        assert type(failed.value.__cause__) is OutOfStock
        assert failed.value.__cause__.args == ("sorry", 5)


async def test_many_wait_for_one_run(make, world):
    client, worker = make(mode="client"), make(mode="worker")
    w = register(client)
    register(worker)
    async with client, worker:
        run = await client.start(w, "waits")
        waiting = [asyncio.create_task(client.run(run.id, w).result(timeout=10)) for _ in range(50)]
        waiting.append(asyncio.create_task(worker.run(run.id).result(timeout=10)))
        await world.settle()
        await run.send_event("go", "gone")
        assert await asyncio.gather(*waiting) == ["gone"] * 51


async def test_one_waits_for_many_runs(make, world):
    client, worker = make(mode="client"), make(mode="worker")
    w = register(client)
    register(worker)
    async with client, worker:
        runs = await client.start_many(w, [(f"r{n}",) for n in range(800)])
        results = await asyncio.gather(*(run.result(timeout=20) for run in runs))
        assert results == [f"r{n}" for n in range(800)]


async def test_a_wait_that_is_cancelled_disturbs_nobody(make, world):
    app = make()
    w = register(app)
    async with app:
        run = await app.start(w, "waits")
        one, two = (asyncio.create_task(run.result(timeout=10)) for _ in range(2))
        await world.settle()
        one.cancel()
        await run.send_event("go", "gone")
        assert await two == "gone"
        with pytest.raises(asyncio.CancelledError):
            await one


async def test_a_result_is_there_after_the_engine_was_opened_again(make, world):
    app = make()
    w = register(app)
    async with app:
        run_id = (await app.start(w, "well")).id
        await world.settle()
    again = make(mode="client")
    async with again:
        assert await again.run(run_id).result(timeout=5) == "well"


async def test_an_error_whose_class_is_unknown_here_is_named(make, world):
    app = make()

    @app.workflow
    async def w():
        class Local(Exception):
            pass

        raise Local("where am I")

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError, match="Local: where am I") as failed:
            await run.result()
        assert "Local: where am I" in str(failed.value.__cause__)
        assert any("Traceback" in note for note in failed.value.__cause__.__notes__)


def test_another_process_sees_the_runs_of_this_one(tmp_path):
    """A child process works; this one starts, sends events and waits for results, through nothing but the file."""
    url = f"sqlite:///{tmp_path}/store.db"
    worker = textwrap.dedent(
        """
        import asyncio, sys
        from perdure import Perdure, flow

        app = Perdure(sys.argv[1], mode="worker")

        @app.step
        async def shout(text: str) -> str:
            return text.upper()

        @app.workflow
        async def w(name: str) -> str:
            word = await flow.wait_for_event("word", type="word", timeout=None)
            return await shout(f"{name} says {word}")

        async def main():
            async with app:
                print("open", flush=True)
                await asyncio.to_thread(sys.stdin.readline)

        asyncio.run(main())
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", worker, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "open\n"
        with Perdure(url, mode="client").blocking as client:
            runs = [client.start("w", input={"name": f"n{n}"}) for n in range(5)]
            for run in runs:
                run.send_event("word", "hello")
            assert [run.result(timeout=20) for run in runs] == [f"N{n} SAYS HELLO" for n in range(5)]
        process.communicate("stop\n", timeout=10)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def blocking(url):
    app = Perdure(url)
    w = register(app)
    with app.blocking as opened:
        yield opened, w


def test_blocking_starts_and_waits(blocking):
    app, w = blocking
    run = app.start(w, "well", id="r", tags={"k": "v"})
    assert run.id == "r"
    assert run.result(timeout=5) == "well"
    assert str(run.status().status) == "complete"
    assert [record.key for record in run.journal()] == ["input", "output"]
    assert [found.id for found in app.runs(tags={"k": "v"}).runs] == ["r"]
    assert [run.result(timeout=5) for run in app.start_many(w, [("a",), ("b",)])] == ["a", "b"]
    assert app.stats().status == {"complete": 3}
    assert app.describe().schema_version >= 1


def test_blocking_moves_and_events(blocking):
    app, w = blocking
    app.start(w, "waits", id="r")
    run = app.run("r", w)
    with pytest.raises(RunNotFinishedError):
        run.result(timeout=0.01)
    assert str(run.pause()) in {"paused", "running"}
    run.resume()
    assert run.send_event("go", "gone", id="1") is True
    assert run.result(timeout=5) == "gone"
    assert "it ended" in str(run.explain())
    fork = run.fork(from_step="go", id="f")
    assert fork.terminate() == "terminated"
    assert run.restart() is not None
    with pytest.raises(RunNotFoundError):
        app.run("nobody").get()


def test_blocking_serves_many_threads(blocking):
    app, w = blocking
    results = []

    def work(n):
        results.append(app.start(w, str(n)).result(timeout=10))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=int) == [str(n) for n in range(16)]


def test_blocking_opens_by_itself_and_can_be_used_again(url):
    app = Perdure(url)
    w = register(app)
    assert app.blocking is app.blocking
    for _ in range(2):
        assert app.blocking.start(w, "well").result(timeout=5) == "well"
        app.blocking.close()
        app.blocking.close()


def test_blocking_on_its_own_thread_would_wait_for_itself(memory):
    app = Perdure(memory)
    said = []

    @app.step
    async def wrong():
        try:
            app.blocking.stats()
        except UsageError as error:
            said.append(str(error))

    @app.workflow
    async def w():
        await wrong()

    with app.blocking as opened:
        opened.start(w).result(timeout=5)
    assert "await instead" in said[0]


def test_blocking_from_a_step_in_a_thread_works(memory):
    app = Perdure(memory)

    @app.workflow
    async def other() -> int:
        return 7

    @app.step
    def starts() -> int:
        return app.blocking.start(other, id="other").result(timeout=5)

    @app.workflow
    async def w() -> int:
        return await starts()

    with app.blocking as opened:
        assert opened.start(w).result(timeout=5) == 7


def test_a_handle_of_a_closed_engine_says_so(memory):
    app = Perdure(memory)
    w = register(app)
    with app.blocking as opened:
        run = opened.start(w, "well")
    with pytest.raises(StoreUnavailableError, match="not open"):
        run.get()


def test_an_engine_that_cannot_open_its_store_leaves_no_thread(tmp_path):
    app = Perdure(f"sqlite:///{tmp_path}/no/such/folder/store.db")
    before = threading.active_count()
    with pytest.raises(Exception, match="folder"):
        app.blocking.open()
    assert threading.active_count() <= before + 1
