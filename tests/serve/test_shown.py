"""How endpoints answer, as the API and the dashboard show it."""

from __future__ import annotations

import asyncio

from perdure.dispatch.asking import PushFailedError
from perdure.dispatch.breaker import FAILURES
from tests.serve.conftest import answering
from tests.serve.test_serving import WITHIN, three


async def shown(made):
    (told,) = (await made.served.http.get("/api/v1/endpoints")).json()["items"]
    page = (await made.served.http.get("/endpoints", headers={"Accept": "text/html"})).text
    return told, page


async def test_what_an_endpoint_fails_with_is_shown_until_it_has_answered(scene):
    made = await scene(three)
    told, page = await shown(made)
    assert (told["failures"], told["error"]) == (0, "")
    assert made.url in page
    assert "no failure" in page
    assert ">sum_up</a>" in page

    made.faulty.faults = [answering(500, b"no tea")]
    run = await made.app.start("sum_up", input={"n": 1})
    while not (told := (await shown(made))[0])["failures"]:
        await asyncio.sleep(0.01)
    assert told["error"] == f"{made.url} answered with status 500: no tea"
    assert "answered with status 500: no tea" in (await shown(made))[1]
    assert await run.result(timeout=WITHIN) == 1
    assert (await shown(made))[0]["error"] == ""


async def test_one_that_is_left_alone_is_shown_as_that(scene):
    made = await scene(three)
    breaker = made.dispatcher.breaker_of(made.url)
    for _ in range(FAILURES):
        breaker.failed(str(PushFailedError("nobody is there")))
    told, page = await shown(made)
    assert told["failures"] == FAILURES
    assert "left alone" in page
    assert "nobody is there" in page
    assert breaker.rest() > 0


async def test_one_that_refuses_a_run_is_shown_as_that(scene):
    made = await scene(three)
    made.faulty.faults = [answering(403, b"not you")]
    await made.app.start("sum_up", input={"n": 1}, id="r")
    while not (told := (await shown(made))[0])["error"]:
        await asyncio.sleep(0.01)
    assert (told["failures"], "not you" in told["error"]) == (0, True)
    assert "refuses" in (await shown(made))[1]
