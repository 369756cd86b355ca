"""`perdure demo` from end to end, on a small file of orders, with a payment service that works and ones that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.crash, pytest.mark.slow]


def order(number: int, card: str = "tok_visa", sku: str = "MUG-BLUE", quantity: object = 1) -> str:
    customer = {"name": "A B", "email": "a.b@example.com"}
    items = [{"sku": sku, "quantity": quantity}]
    placed_at = "2025-03-01T08:00:00Z"
    return json.dumps(
        {"id": f"ord-{number}", "placed_at": placed_at, "customer": customer, "items": items, "card": card}
    )


def lost_answers() -> list[int]:
    """Orders whose first charge the service makes without a proper answer; see `payments.py`."""
    return [number for number in range(1, 200) if zlib.crc32(f"ord-{number}:charge".encode()) % 16 == 1][:3]


def demo(folder: Path, lines: list[str], *args: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    path = folder / "orders.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return subprocess.run(
        [sys.executable, "-m", "perdure.cli.demo", "--orders", str(path), *args],
        cwd=ROOT,
        env={**os.environ, "ORDERS_FAULT": fault, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )


def test_every_line_is_accounted_for_and_charged_once(tmp_path):
    lost = lost_answers()
    lines = [order(number) for number in (*lost, *range(1001, 1031))]
    lines += [order(2001, "tok_declined"), order(2002, "tok_abandoned"), order(2003, quantity=-1), "", order(1001)]
    lines += ['{"id": "ord-9', order(2004, sku="NOTHING")]
    lines += [order(3000 + number, sku="LAMP-BRASS", quantity=7) for number in range(3)]
    done = demo(tmp_path, lines, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["is_ok"]
    assert found["problems"] == []
    assert found["lines"] == 43
    assert found["completed"] == 3 + 30 + 2
    assert found["cancelled"] == {"card declined": 1, "payment timed out": 1, "out of stock": 1}
    assert [(line["line"], line["reason"].partition(": ")[0]) for line in found["rejected"]] == [
        (36, "wrong value"),
        (37, "empty line"),
        (38, "ordered before"),
        (39, "no JSON"),
        (40, "unknown SKU"),
    ]
    assert found["charges"] == 38
    assert found["charge_requests"] >= 38 + len(lost)
    assert found["mails"] == {"Confirmed:": 35, "Thanks": 35, "Cancelled:": 3}
    assert found["killed_pid"] > 0
    assert found["taken_over"] == found["in_hand"]
    assert not list(tmp_path.glob("perdure-demo-*")), "files are left"


def test_a_service_that_forgets_keys_does_not_add_up(tmp_path):
    lost = lost_answers()
    done = demo(tmp_path, [order(number) for number in lost], fault="forgets-keys")
    assert done.returncode == 1, done.stdout + done.stderr
    for number in lost:
        assert f"ord-{number} was charged 2 times" in done.stdout
    assert "\x1b" not in done.stdout, "colours where there is no terminal"


def test_a_service_that_is_down_does_not_add_up(tmp_path):
    done = demo(tmp_path, [order(1), order(2)], "--json", fault="down")
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert not found["is_ok"]
    assert found["completed"] == 0
    assert any("ord-1 is errored" in problem for problem in found["problems"])
    assert any("ord-2 was charged 0 times" in problem for problem in found["problems"])


def test_a_missing_file_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "perdure.cli.demo", "--orders", str(tmp_path / "none")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "there is no file" in done.stderr
    assert "Traceback" not in done.stderr
