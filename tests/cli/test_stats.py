from __future__ import annotations


def test_counts_per_state_and_queue(shell, seeded):
    shell("start", "letter")
    said = shell("stats", columns=100)
    assert said.code == 0
    rows = {words[1]: words[2] for words in (line.split() for line in said.out.splitlines()) if words[:1] == ["●"]}
    assert rows == {
        "queued": "2", "running": "0", "waiting": "2", "paused": "0", "complete": "2", "errored": "1",
        "terminated": "0", "compensating": "0", "compensated": "0", "compensation_failed": "0",
    }  # fmt: skip
    lines = [line.split() for line in said.out.splitlines()]
    assert ["queue", "due", "later", "leased", "oldest", "due"] in lines
    assert ["default", "0", "3", "0", "–"] in lines
    assert ["mail", "1", "0", "0", "just", "now"] in lines


def test_counts_as_json(shell, seeded):
    said = shell("stats", "--json").json
    assert said["status"]["complete"] == 2
    assert said["status"]["paused"] == 0
    assert said["queues"] == [{"queue": "default", "due": 0, "later": 3, "leased": 0, "oldest_due_at": None}]


def test_an_empty_store(shell, url):
    shell("start", "letter", "--id", "x")
    shell("runs", "terminate", "x")
    assert "queue" not in shell("stats").out.replace("queued", "")
