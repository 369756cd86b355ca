"""`app.blocking` from several threads at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perdure import Perdure, RunNotFoundError, StoreUnavailableError, flow


@pytest.fixture
def app(url):
    app = Perdure(url)

    @app.workflow
    async def w(n: int) -> int:
        return n

    @app.workflow
    async def waits() -> None:
        await flow.wait_for_event("go", type="go", timeout=None)

    yield app
    app.blocking.close()


def engine_threads():
    return [thread for thread in threading.enumerate() if thread.name == "perdure-blocking"]


def test_many_threads_are_the_first_at_once(app):
    begin = threading.Barrier(8)

    def first(n):
        begin.wait(5)
        return app.blocking.start("w", input={"n": n}).result(timeout="5s")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(first, range(8))) == list(range(8))
    assert len(engine_threads()) == 1
    app.blocking.close()
    assert engine_threads() == []


def test_it_opens_and_closes_while_others_use_it(app):
    said = set()

    def use(n):
        try:
            said.add(app.blocking.start("w", input={"n": n}, id=f"r{n}").result(timeout="5s") == n)
        except (StoreUnavailableError, RunNotFoundError) as error:  # a memory store forgets when it is closed
            said.add(type(error))

    with ThreadPoolExecutor(8) as pool:
        uses = [pool.submit(use, n) for n in range(60)]
        for _ in range(5):
            app.blocking.close()
            app.blocking.open()
        for one in uses:
            one.result(30)
    use(60)
    assert True in said
    assert len(engine_threads()) == 1


def test_a_wait_for_a_result_ends_when_another_thread_closes(app):
    run = app.blocking.start("waits")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.result)
        while not app.client.endings.awaited():
            pass
        app.blocking.close()
        with pytest.raises(StoreUnavailableError, match="closed"):
            waiting.result(10)


def test_a_verb_after_close_opens_again(app):
    assert app.blocking.start("w", input={"n": 1}).result(timeout=5) == 1
    app.blocking.close()
    assert app.blocking.start("w", input={"n": 2}).result(timeout=5) == 2
