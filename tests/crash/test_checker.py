"""The checker itself: a good history passes, and for everything that it looks for there is a bad one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.crash.checker import Evidence, Verdict, check

Record = list[Any]  # position, key, kind, state, at, payload, attempt, ref
A, B = 101, 102  # processes


@dataclass
class History:
    """A whole history, made to be spoilt: run `r` has a step that fails once, an event and the child `r/c`."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    expected: dict[str, object] = field(default_factory=lambda: {"r": 8})
    children: dict[str, object] = field(default_factory=lambda: {"r/c": 5})
    events: dict[str, list[str]] = field(default_factory=lambda: {"r": ["e1"]})
    killed: list[int] = field(default_factory=lambda: [A])
    stopped: list[int] = field(default_factory=list)
    in_order: list[str] = field(default_factory=lambda: ["r", "r/c"])
    least_hits: int = 1

    def judged(self, folder: Path) -> Verdict:
        store, ledger = folder / "store.db", folder / "ledger.jsonl"
        connection = apsw.Connection(str(store))
        connection.execute("""
            CREATE TABLE runs (n, id, status, epoch, journal_length, parent_id);
            CREATE TABLE records (n, position, key, kind, state, at, payload, attempt, ref);
            CREATE TABLE inbox (n, seq, id, is_read);
        """)
        for n, (run_id, run) in enumerate(self.runs.items(), 1):
            length = run.get("length", len(run["journal"]))
            row = (n, run_id, run["status"], length, run.get("parent"))
            if run["status"] is not None:
                connection.execute("INSERT INTO runs VALUES (?, ?, ?, 1, ?, ?)", row)
            for record in run["journal"]:
                connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (n, *record))
            for seq, (message, is_read) in enumerate(run.get("inbox", []), 1):
                connection.execute("INSERT INTO inbox VALUES (?, ?, ?, ?)", (n, seq, message, is_read))
        connection.close()
        ledger.write_text("".join(json.dumps(line) + "\n" for line in self.ledger))
        return check(
            Evidence(
                f"sqlite:///{store}",
                ledger,
                self.expected,
                self.children,
                self.events,
                killed=self.killed,
                stopped=self.stopped,
                in_order=self.in_order,
                least_hits=self.least_hits,
            )
        )

    def journal(self, run_id: str = "r") -> list[Record]:
        found: list[Record] = self.runs[run_id]["journal"]
        return found

    def drop(self, position: int, run_id: str = "r") -> None:
        """Take a record out and number the rest anew."""
        del self.journal(run_id)[position]
        for number, record in enumerate(self.journal(run_id)):
            record[0] = number

    def insert(self, position: int, record: Record, run_id: str = "r") -> None:
        self.journal(run_id).insert(position, record)
        for number, row in enumerate(self.journal(run_id)):
            row[0] = number


def line(what: str, key: str, pid: int, attempt: int = 1, run: str = "r", **more: Any) -> dict[str, Any]:
    return {"what": what, "run": run, "key": key, "attempt": attempt, "pid": pid, **more}


def good() -> History:
    history = History()
    history.runs["r"] = {
        "status": "complete",
        "inbox": [("e1", 1), ("r/c", 1)],
        "journal": [
            [0, "input", "input", "ok", 10, "{}", 1, None],
            [1, "s", "step", "open", 11, '{"type":"x"}', 1, None],
            [2, "s", "step", "ok", 12, "3", 2, None],
            [3, "e", "event", "ok", 12, "{}", 1, "e1"],
            [4, "c", "child", "open", 12, None, 1, "r/c"],
            [5, "c", "child", "ok", 15, "5", 1, "r/c"],
            [6, "output", "output", "ok", 15, "8", 1, None],
        ],
    }
    history.runs["r/c"] = {
        "status": "complete",
        "parent": "r",
        "journal": [
            [0, "input", "input", "ok", 12, "{}", 1, None],
            [1, "t", "step", "ok", 14, "5", 1, None],
            [2, "output", "output", "ok", 14, "5", 1, None],
        ],
    }
    history.ledger = [
        line("begin", "s", A),
        line("fail", "s", A),
        line("begin", "s", A, 2),  # killed in it
        line("begin", "s", B, 2),
        line("end", "s", B, 2, result=3),
        line("begin", "t", B, run="r/c"),
        line("end", "t", B, run="r/c", result=5),
    ]
    return history


def test_a_good_history_passes_and_is_counted(tmp_path):
    verdict = good().judged(tmp_path)
    assert verdict.violations == []
    assert verdict.figures == {
        "runs": 2,
        "records": 10,
        "step_records": 3,
        "executions": 4,
        "executed_again": 1,
        "interrupted": 1,
        "ended_unrecorded": 0,
        "kills": 1,
        "kills_that_hit": 1,
        "claims": 2,
    }


def test_a_result_that_was_lost_with_its_worker_counts_as_such(tmp_path):
    history = good()
    history.ledger.insert(3, line("end", "s", A, 2, result=3))
    verdict = history.judged(tmp_path)
    assert verdict.violations == []
    assert verdict.figures["ended_unrecorded"] == 1
    assert verdict.figures["kills_that_hit"] == 1


def test_what_was_stopped_may_run_what_others_run_even_after_them(tmp_path):
    history = good()
    history.ledger += [line("begin", "t", A, run="r/c"), line("end", "t", A, run="r/c", result=5)]
    history.ledger += [line("begin", "t", A, run="r/c"), line("end", "t", A, run="r/c", result=5)]
    history.killed, history.stopped = [], [A]
    assert history.judged(tmp_path).violations == []


def test_a_commit_that_was_sent_before_the_next_claim_may_be_kept(tmp_path):
    history = good()
    history.ledger += [line("claimed", "", B, epoch=2, at=50), line("kept", "", A, epoch=1, at=40)]
    assert history.judged(tmp_path).violations == []


def set_status(history: History) -> None:
    history.runs["r"]["status"] = "errored"


def lose_a_run(history: History) -> None:
    history.expected["gone"] = 1


def lose_a_child(history: History) -> None:
    history.children["r/d"] = 1


def start_a_phantom(history: History) -> None:
    history.runs["ghost"] = {"status": "complete", "journal": []}


def leave_a_record_without_a_run(history: History) -> None:
    history.runs["gone"] = {"status": None, "journal": [[0, "input", "input", "ok", 10, "{}", 1, None]]}


def leave_a_message_without_a_run(history: History) -> None:
    history.runs["gone"] = {"status": None, "journal": [], "inbox": [("e9", 1)]}


def change_the_output(history: History) -> None:
    history.journal()[6][5] = "9"


def lose_the_output(history: History) -> None:
    history.drop(6)


def leave_a_gap(history: History) -> None:
    del history.journal()[3]


def double_a_position(history: History) -> None:
    history.journal()[3][0] = 2


def lose_the_tail(history: History) -> None:
    history.runs["r"]["length"] = 9


def turn_time_back(history: History) -> None:
    history.journal()[2][4] = 10


def settle_a_step_twice(history: History) -> None:
    history.insert(3, [0, "s", "step", "ok", 12, "3", 3, None])
    history.ledger += [line("begin", "s", B, 3), line("end", "s", B, 3, result=3)]


def settle_an_event_twice(history: History) -> None:
    history.insert(4, [0, "e", "event", "ok", 12, "{}", 1, "e2"])


def skip_an_attempt(history: History) -> None:
    history.journal()[2][6] = 3
    history.ledger[2:5] = [line("begin", "s", A, 3), line("begin", "s", B, 3), line("end", "s", B, 3, result=3)]


def reopen_a_step(history: History) -> None:
    history.insert(3, [0, "s", "step", "open", 12, "{}", 3, None])
    history.ledger += [line("begin", "s", B, 3)]


def record_what_never_ran(history: History) -> None:
    history.ledger = [one for one in history.ledger if one["key"] != "t"]


def record_what_never_ended(history: History) -> None:
    history.ledger = [one for one in history.ledger if one["what"] != "end" or one["key"] != "t"]


def record_another_result(history: History) -> None:
    history.ledger[-1]["result"] = 6


def run_without_a_record(history: History) -> None:
    history.ledger.append(line("begin", "u", B))


def run_again_without_a_kill(history: History) -> None:
    history.ledger += [line("begin", "t", A, run="r/c"), line("end", "t", A, run="r/c", result=5)]


def run_twice_in_one_process(history: History) -> None:
    history.ledger.insert(3, line("begin", "s", A, 2))


def begin_the_next_step_before_this_one_is_safe(history: History) -> None:
    history.ledger.insert(0, history.ledger.pop(2))


def end_without_a_begin(history: History) -> None:
    history.ledger.append(line("end", "s", 999, 2, result=3))


def take_a_commit_of_the_past(history: History) -> None:
    history.ledger += [line("claimed", "", B, epoch=2, at=50), line("kept", "", A, epoch=1, at=60)]


def claim_one_epoch_twice(history: History) -> None:
    history.ledger += [line("claimed", "", A, epoch=2, at=50), line("claimed", "", B, epoch=2, at=60)]


def lose_an_event(history: History) -> None:
    history.runs["r"]["inbox"] = [("r/c", 1)]


def double_an_event(history: History) -> None:
    history.runs["r"]["inbox"].append(("e1", 1))


def leave_an_event_unread(history: History) -> None:
    history.runs["r"]["inbox"][0] = ("e1", 0)


def read_an_event_without_a_record(history: History) -> None:
    history.drop(3)


def take_the_parent_away(history: History) -> None:
    history.runs["r/c"]["parent"] = "nobody"


def not_hear_of_a_child(history: History) -> None:
    history.drop(5)


def begin_a_child_twice(history: History) -> None:
    history.insert(5, [0, "c", "child", "open", 12, None, 1, "r/c"])


def kill_nobody_at_work(history: History) -> None:
    history.least_hits = 2


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (set_status, "r is errored"),
        (lose_a_run, "gone was acknowledged and is gone"),
        (lose_a_child, "r/d was acknowledged and is gone"),
        (start_a_phantom, "nobody started it"),
        (leave_a_record_without_a_run, "there is not has a record of input"),
        (leave_a_message_without_a_run, "there is not has the message e9"),
        (change_the_output, "ended with 9, not with 8"),
        (lose_the_output, "without an output"),
        (leave_a_gap, "has records at"),
        (double_a_position, "has records at"),
        (lose_the_tail, "has records at"),
        (turn_time_back, "older than the one before"),
        (settle_a_step_twice, "r:s is settled 2 times"),
        (settle_an_event_twice, "r:e is settled 2 times"),
        (skip_an_attempt, "attempt 3 where 2 is due"),
        (reopen_a_step, "open again"),
        (record_what_never_ran, "r/c:t (attempt 1) is recorded and never ran"),
        (record_what_never_ended, "which no execution of it returned"),
        (record_another_result, "which no execution of it returned"),
        (run_without_a_record, "ran and has no record"),
        (run_again_without_a_kill, f"although process {B} was not killed"),
        (run_twice_in_one_process, f"ran 2 times in process {A}"),
        (begin_the_next_step_before_this_one_is_safe, "ran again after r:s (attempt 2) had begun"),
        (end_without_a_begin, "without a begin"),
        (take_a_commit_of_the_past, "under epoch 1, which was over"),
        (claim_one_epoch_twice, "claimed 2 times under epoch 2"),
        (lose_an_event, "in its inbox 0 times"),
        (double_an_event, "in its inbox 2 times"),
        (leave_an_event_unread, "0 of them read"),
        (read_an_event_without_a_record, "0 records of event e1"),
        (take_the_parent_away, "no parent nobody"),
        (not_hear_of_a_child, "records of its child"),
        (begin_a_child_twice, "records of its child"),
        (kill_nobody_at_work, "vacuous"),
    ],
)
def test_a_bad_history_is_refused(tmp_path: Path, spoil: Callable[[History], None], told: str):
    history = good()
    spoil(history)
    violations = history.judged(tmp_path).violations
    assert any(told in violation for violation in violations), violations
