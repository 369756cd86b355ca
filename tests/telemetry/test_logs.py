"""Logs that say where they are from, say nothing twice, and keep secrets."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from perdure import Perdure, Retry, flow
from perdure.cli import logs
from perdure.telemetry import RunContext, run_context
from tests.engine.bodies import log_and_tell

_log = logging.getLogger("shop")


@pytest.fixture
def lines():
    """What a handler with the filter gets, as in an application of its own."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.addFilter(RunContext(default="-"))
    handler.emit = found.append
    _log.addHandler(handler)
    _log.setLevel("INFO")
    yield found
    _log.removeHandler(handler)
    _log.setLevel("NOTSET")


def said(lines) -> list[tuple]:
    return [(line.getMessage(), line.run_id, line.workflow, line.step, line.attempt) for line in lines]


async def test_logs_say_where_they_are_from(world, url, lines):
    app = world.app(url)

    @app.step(name="charge", retry=Retry(attempts=2, delay=1))
    async def charge() -> None:
        _log.info("charging")
        if flow.attempt() == 1:
            raise ConnectionError

    @app.step(name="plain")
    def plain() -> None:
        _log.info("in a thread", extra={"step": "mine"})

    @app.workflow(name="order")
    async def order() -> None:
        _log.info("begins")
        await charge()
        await plain()
        _log.info("ends")

    async with app:
        _log.info("outside")
        await app.start(order, id="o")
        await world.advance(2)
        await world.settle()
    assert said(lines) == [
        ("outside", "-", "-", "-", "-"),
        ("begins", "o", "order", "-", "-"),
        ("charging", "o", "order", "charge", 1),
        ("charging", "o", "order", "charge", 2),
        ("in a thread", "o", "order", "mine", 1),
        ("ends", "o", "order", "-", "-"),
    ]
    assert run_context() == {}


async def test_nothing_is_logged_twice_by_replays(world, url, lines):
    app = world.app(url)

    @app.step
    async def work() -> None: ...

    @app.workflow
    async def w() -> None:
        _log.info("begins")
        await flow.sleep(60)
        _log.info("slept")
        await work()
        _log.info("worked")
        await flow.sleep(60)
        _log.info(f"at {flow.now().year}")
        await flow.wait_for_event("go", type="go")
        _log.info("ends")

    async with app:
        run = await app.start(w, id="w")
        for _ in range(3):
            await world.advance(61)
        await run.send_event("go")
        await world.settle()
        assert (await run.get()).epoch >= 3
    assert [line.getMessage() for line in lines] == ["begins", "slept", "worked", "at 2023", "ends"]


async def test_what_a_crash_took_along_is_logged_again(world, memory, lines):
    one, two = world.app(memory), world.app(memory)

    def register(app):
        @app.step(name="work")
        async def work() -> int:
            return 1

        @app.workflow(name="w")
        async def w() -> None:
            _log.info("begins")
            await work()
            _log.info("ends")

        return w

    w, _ = register(one), register(two)
    await one.open()
    release = one.store.hold("commit")
    await one.start(w)
    await world.settle()
    await world.crash(one)
    release.set()
    del lines[:]
    async with two:
        await world.advance(20)
        await world.settle()
    assert [line.getMessage() for line in lines] == ["begins", "ends"]


@pytest.mark.usefixtures("_quiet_logs")
async def test_a_workers_lines_have_it_too_and_mask_secrets(memory, capsys, monkeypatch):
    monkeypatch.setenv("PERDURE_REDACT", "card_number, iban")
    logs.configure(as_json=True, level="info")
    log = structlog.get_logger("shop")
    app = Perdure(memory)

    @app.step(name="charge")
    async def charge() -> None:
        log.info("charging", cardNumber="4111", order={"api_key": "k", "n": 1})
        _log.info("charged", extra={"authorization": "Bearer x", "items": [{"IBAN": "DE1"}]})
        try:
            raise ValueError("with a traceback")
        except ValueError:
            _log.exception("failed")

    @app.workflow(name="order")
    async def order() -> None:
        log.info("begins")
        await charge()

    async with app:
        await (await app.start(order, id="o")).result(timeout=10)
    found = {line["event"]: line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    where = {"run_id": "o", "workflow": "order", "step": "charge", "attempt": 1}
    assert found["begins"].items() >= {"run_id": "o", "workflow": "order"}.items()
    assert "step" not in found["begins"]
    assert found["charging"].items() >= {**where, "cardNumber": "***", "order": {"api_key": "***", "n": 1}}.items()
    assert found["charged"].items() >= {**where, "authorization": "***", "items": [{"IBAN": "***"}]}.items()
    assert found["failed"]["exception"][0]["exc_value"] == "with a traceback"


@pytest.mark.usefixtures("_quiet_logs")
@pytest.mark.parametrize("as_json", [True, False])
async def test_a_workers_lines_are_not_repeated(world, memory, capsys, as_json):
    logs.configure(as_json=as_json, level="info")
    log = structlog.get_logger("shop")
    app = world.app(memory)

    @app.workflow
    async def w() -> None:
        log.info("by structlog", password="p")
        _log.info("by logging")
        await flow.sleep(60)

    async with app:
        await app.start(w, id="w")
        await world.advance(61)
        await world.settle()
        assert (await app.run("w").get()).epoch >= 2
    text = capsys.readouterr().err
    assert (text.count("by structlog"), text.count("by logging")) == (1, 1)
    assert "password" in text
    assert "***" in text


async def test_what_a_step_in_a_process_logs_is_logged_here_and_says_where_it_is_from(memory, lines):
    app = Perdure(memory)
    draw = app.step(log_and_tell, name="draw", run_in="process")
    logging.getLogger("shop.pictures").setLevel("INFO")
    level, root = logging.root.level, logging.root
    root.setLevel("DEBUG")

    @app.workflow(name="pictures")
    async def pictures() -> list[str | None]:
        return await draw("drawn")

    try:
        async with app:
            assert await (await app.start(pictures, id="p")).result(timeout=30) == [None]
    finally:
        root.setLevel(level)
    assert said(lines)[0] == ("drawn", "p", "pictures", "draw", 1)
    assert (lines[0].size, lines[0].levelname) == (7, "INFO")
    assert "lock" in lines[0].lock
    assert "it went wrong" in lines[1].getMessage()
    assert "ValueError: as the test wishes" in lines[1].getMessage()
    assert len(lines) == 2
