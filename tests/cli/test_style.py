from __future__ import annotations

import pytest
from rich.console import Console
from rich.text import Text

from perdure.cli.style import ago, clean, count, moment, short, table


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, "–"),
        (1_000_000, "just now"),
        (1_000_500, "now"),
        (995_000, "5 s ago"),
        (1_000_000 + 5_400_999, "in 1 h 30 min"),
    ],
)
def test_how_far_a_moment_is(moment, text):
    assert ago(moment, 1_000_000) == text


def test_moments():
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(None) == "–"


def test_texts():
    assert clean("a\x1b[2J\nb") == "a [2J b"
    assert short("first\nsecond") == "first"
    assert short("x" * 300, 10) == "x" * 9 + "…"
    assert count(1, "run") == "1 run"
    assert count(1_200, "run") == "1,200 runs"


def test_a_narrow_terminal_keeps_ids_whole_and_states_in_sight():
    console = Console(width=60, file=None, color_system=None)
    run_id, workflow = "schedule:report_of_everything@2026-11-20T10:25:00Z", "report_of_everything_there_is"
    row = (Text(run_id), Text(workflow), Text("● complete"), Text("a long remark about it"))
    made = table(("run", "workflow", "status", ""), [row], folds=["run"], cuts=["workflow"])
    with console.capture() as captured:
        console.print(made)
    _, first, second = captured.get().splitlines()
    assert first.split()[0] + second.strip() == run_id
    assert "…  ● complete" in first


def test_only_the_last_column_of_a_table_gives_way():
    console = Console(width=24, file=None, color_system=None)
    made = table(("id", "", ""), [(Text("0123456789abcdef"), Text("●"), Text("a long remark"))])
    with console.capture() as captured:
        console.print(made)
    assert captured.get().splitlines()[1].startswith("0123456789abcdef  ●  a")
    assert "…" in captured.get()
