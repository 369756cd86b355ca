"""The rows of W1 to W4, W6 and W7, written by apsw alone: run by `bench.floor`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any

import apsw

WORK, RUNS, CALLERS = os.environ["WORK"], int(os.environ["RUNS"]), int(os.environ["CALLERS"])
LENGTHS = json.loads(os.environ["LENGTHS"])
STAGES = {"W1": [1], "W2": [1] * 3, "W3": [1] * 10, "W4": [10, 1], "W6": [1]}
"""How many steps of a run are recorded together, stage by stage."""

RUN = """
INSERT INTO runs (n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at, started_at, epoch,
    seq, incarnation, crashes, journal_length, inbox_seq, unread, worker, is_pausing, is_detached, depth, fingerprint,
    tags, keep_complete)
VALUES (?, ?, 'hello', '', 'default', 'running', 0, 1795000000000, 1795000000000, 1795000015000, 1795000000000, 1,
    0, 0, 0, 1, 0, 0, ?, 0, 0, 0, ?, '{}', 259200000)
"""
RECORD = "INSERT INTO records VALUES (?, ?, ?, ?, 'ok', 1795000000000, ?, 1, 1795000000000, NULL, NULL, NULL)"
KEEP = "UPDATE runs SET seq = seq + 1, updated_at = 1795000000001, journal_length = journal_length + 1 WHERE n = ?"
END = """
UPDATE runs SET seq = seq + 1, status = 'complete', due_at = NULL, finished_at = 1795000000001,
    expires_at = 1795259200001, worker = NULL WHERE n = ?
"""


def connect() -> apsw.Connection:
    """Open the store with the engine's own tables."""
    connection = apsw.Connection(os.environ["STORE"])
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", 2)
    connection.execute(
        resources.files("perdure.store.sqlite").joinpath("migrations", "0001_first.sql").read_text(encoding="utf-8")
    )
    return connection


def write(connection: apsw.Connection, *batches: tuple[str, Iterator[tuple[Any, ...]]]) -> None:
    """Write in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for statement, rows in batches:
        connection.executemany(statement, rows)
    connection.execute("COMMIT")


def batch(connection: apsw.Connection, runs: range) -> None:
    """Write the runs of all callers, stage by stage."""
    write(
        connection,
        (RUN, ((n, f"{n:032x}", f"{7:032x}", f"{n:024x}") for n in runs)),
        (RECORD, ((n, 0, "input", "input", "{}") for n in runs)),
    )
    position = 1
    stages = STAGES[WORK]
    for index, steps in enumerate(stages):
        places = range(position, position + steps)
        rows = ((n, place, f"step#{place}", "step", '{"n":1}') for place in places for n in runs)
        if index < len(stages) - 1:
            write(connection, (RECORD, rows), (KEEP, ((n,) for n in runs)))
        else:
            end = position + steps
            output = ((n, end, "output", "output", '{"n":1}') for n in runs)
            write(connection, (RECORD, rows), (RECORD, output), (END, ((n,) for n in runs)))
        position += steps


def loop_ms(connection: apsw.Connection, n: int, steps: int) -> float:
    """How long a loop of single commits takes, in ms: the rows of one run's steps."""
    write(connection, (RUN, iter([(n, f"{n:032x}", f"{7:032x}", f"{n:024x}")])))
    begun = time.perf_counter()
    for position in range(1, steps + 1):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(RECORD, (n, position, f"step#{position}", "step", "1"))
        connection.execute(KEEP, (n,))
        connection.execute("COMMIT")
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    """Write, count, report."""
    connection = connect()
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    samples: dict[str, Any] = {}
    if WORK == "W7":
        samples["runs_ms"] = {
            steps: [loop_ms(connection, 1 + index * 100 + turn, steps) for turn in range(RUNS)]
            for index, steps in enumerate(LENGTHS)
        }
    else:
        for first in range(1, RUNS + 1, CALLERS):
            batch(connection, range(first, min(first + CALLERS, RUNS + 1)))
    print(json.dumps({"seconds": time.perf_counter() - begun, **samples}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
