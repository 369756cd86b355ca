"""The warning of calls that a replay would not repeat."""

# What a workflow must not do is what is tested:
# ruff: noqa: ASYNC210, ASYNC221, ASYNC230, ASYNC250, ASYNC251, DTZ003, DTZ011, ICN001

from __future__ import annotations

import asyncio
import datetime
import datetime as dt
import io
import os
import random
import random as dice
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
import uuid
import warnings
from datetime import date
from datetime import datetime as moment
from random import choice, randint
from time import sleep
from time import time as clock
from uuid import uuid4

import pytest

from perdure import DeterminismWarning, Perdure, WorkflowEntrypoint, flow
from perdure.authoring.purity import impure_calls


async def calls_time():
    return time.time()


async def calls_time_ns():
    return time.time_ns()


async def calls_monotonic():
    return time.monotonic()


async def calls_perf_counter():
    return time.perf_counter()


async def calls_sleep():
    time.sleep(1)


async def calls_imported_sleep():
    sleep(1)


async def calls_imported_clock():
    return clock()


async def calls_now():
    return datetime.datetime.now(datetime.UTC)


async def calls_now_of_alias():
    return dt.datetime.now(dt.UTC)


async def calls_now_of_class():
    return moment.now(dt.UTC)


async def calls_utcnow():
    return moment.utcnow()


async def calls_today():
    return date.today()


async def calls_random():
    return random.random()


async def calls_random_alias():
    return dice.randint(1, 6)


async def calls_imported_choice():
    return choice([1, 2]), randint(1, 2)


async def calls_secrets():
    return secrets.token_hex()


async def calls_uuid1():
    return uuid.uuid1()


async def calls_uuid4():
    return uuid4()


async def calls_urandom():
    return os.urandom(4)


async def calls_getenv():
    return os.getenv("HOME")


async def calls_open():
    with open("file", encoding="utf-8") as file:
        return file.read()


async def calls_io_open():
    return io.open("file")  # noqa: UP020  # what is tested


async def calls_input():
    return input("name? ")


async def calls_urlopen():
    return urllib.request.urlopen("http://localhost")


async def calls_socket():
    return socket.socket()


async def calls_subprocess():
    return subprocess.run(["ls"], check=True)


async def calls_thread():
    threading.Thread(target=print).start()


async def calls_sqlite():
    return sqlite3.connect("file")


IMPURE = [
    (calls_time, "time.time", "flow.now()"),
    (calls_time_ns, "time.time_ns", "flow.now()"),
    (calls_monotonic, "time.monotonic", "flow.now()"),
    (calls_perf_counter, "time.perf_counter", "flow.now()"),
    (calls_sleep, "time.sleep", "await flow.sleep(...)"),
    (calls_imported_sleep, "time.sleep", "await flow.sleep(...)"),
    (calls_imported_clock, "time.time", "flow.now()"),
    (calls_now, "datetime.datetime.now", "flow.now()"),
    (calls_now_of_alias, "datetime.datetime.now", "flow.now()"),
    (calls_now_of_class, "datetime.datetime.now", "flow.now()"),
    (calls_utcnow, "datetime.datetime.utcnow", "flow.now()"),
    (calls_today, "datetime.date.today", "flow.now().date()"),
    (calls_random, "random.", "flow.random()"),
    (calls_random_alias, "random.", "flow.random()"),
    (calls_imported_choice, "random.", "flow.random()"),
    (calls_secrets, "secrets.token_hex", "flow.uuid() or a step"),
    (calls_uuid1, "uuid.uuid1", "flow.uuid()"),
    (calls_uuid4, "uuid.uuid4", "flow.uuid()"),
    (calls_urandom, "os.urandom", "flow.uuid() or a step"),
    (calls_getenv, "os.getenv", "a step, or an argument"),
    (calls_open, "open", "a step"),
    (calls_io_open, "open", "a step"),
    (calls_input, "input", "a step or an event"),
    (calls_urlopen, "urllib.request.urlopen", "a step"),
    (calls_socket, "socket.socket", "a step"),
    (calls_subprocess, "subprocess.run", "a step"),
    (calls_thread, "threading.Thread", "a plain `def` step"),
    (calls_sqlite, "sqlite3.connect", "a step"),
]


@pytest.mark.parametrize(("function", "call", "fix"), IMPURE, ids=lambda value: getattr(value, "__name__", None))
def test_an_impure_call_is_warned_of_with_its_line_and_its_fix(function, call, fix):
    app = Perdure("memory://")
    with pytest.warns(DeterminismWarning) as caught:
        app.workflow(function)
    text = str(caught[0].message)
    line = function.__code__.co_firstlineno + 1
    assert f"test_purity.py:{line}: workflow {function.__name__!r} calls " in text
    assert call in text
    assert "which gives something else on a replay; use " + fix in text
    assert caught[0].filename == __file__, "it points at the decorator's place"


async def pure(orders):
    seeded = random.Random(7)
    seeded.random()
    moment.fromtimestamp(0, dt.UTC)
    uuid.UUID(int=1)
    await asyncio.sleep(1)
    flow.now()
    flow.random()
    return [time.strftime("%Y"), os.path.join("a", "b")]


def test_what_is_pure_is_not_warned_of():
    assert list(impure_calls(pure)) == []


async def nested():
    async def body():
        return time.time()

    class Inside:
        at = time.time()

        def now(self):
            return time.time()

    return await flow.do("now", body), await flow.do("roll", lambda: random.random()), Inside


def test_functions_inside_are_not_reported():
    """They are usually handed to a step. (A seeded Random, and the class body, are the user's affair.)"""
    assert list(impure_calls(nested)) == []


async def shadowed(time):
    return time.time()


def test_a_local_name_is_not_taken_for_the_module():
    assert list(impure_calls(shadowed)) == []


def test_names_of_the_scope_around_count():
    import time as around

    async def w():
        return around.time()

    assert [call for _, call, _ in impure_calls(w)] == ["time.time"]


def test_a_workflow_that_calls_itself_can_be_registered():
    app = Perdure("memory://")

    @app.workflow
    async def countdown(n: int) -> int:
        return await countdown(n - 1) if n else 0

    with pytest.warns(DeterminismWarning, match="time"):

        @app.workflow
        async def hurried(n: int) -> float:
            return await hurried(n - 1) if n else time.time()


def test_a_class_entrypoint_is_looked_at_too():
    class Entry(WorkflowEntrypoint):
        async def run(self, event, step):
            return time.time()

    with pytest.warns(DeterminismWarning, match="workflow 'Entry' calls time.time"):
        Perdure("memory://").register(Entry)


def test_code_without_source_is_not_judged():
    names = {}
    exec("import time\nasync def w(): return time.time()", names)
    assert list(impure_calls(names["w"])) == []


def test_the_warning_can_be_made_an_error_and_be_silenced():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeterminismWarning)
        with pytest.raises(DeterminismWarning):
            Perdure("memory://").workflow(calls_time)
        warnings.simplefilter("ignore", DeterminismWarning)
        Perdure("memory://").workflow(calls_time)
