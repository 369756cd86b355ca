"""The sums of `perdure demo`: where every line of the file went, and what does not add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from perdure.cli.demo_processes import Ledger
from perdure.model import codec, failure
from perdure.model.run import Run, RunStatus


class Rejected(msgspec.Struct, frozen=True):
    """A line that is no order, and why."""

    line: int
    reason: str


class Killed(msgspec.Struct):
    """The worker that was killed, and the runs it had in hand, with the epochs they had in it."""

    pid: int = 0
    epochs: dict[str, int] = {}
    taken_over: int = 0


class Summary(msgspec.Struct):
    """What the demo ends with."""

    is_ok: bool
    lines: int
    completed: int
    cancelled: dict[str, int]
    rejected: list[Rejected]
    charges: int
    charge_requests: int
    requests: int
    webhooks: int
    mails: dict[str, int]
    killed_pid: int
    in_hand: int
    taken_over: int
    seconds: float
    runs_per_second: float
    problems: list[str]


def outcome(run: Run) -> tuple[str, str]:
    """Return what became of an ended run's order, and why."""
    if run.status is RunStatus.COMPLETE:
        found: Any = codec.decode_any(run.output)
        return str(found["status"]), str(found["reason"])
    error = failure.decode_error(run.output).message if run.status is RunStatus.ERRORED and run.output else ""
    return run.status.value, error


def summarize(
    lines: int,
    rejected: Sequence[Rejected],
    cents: Mapping[str, int],
    runs: Mapping[str, Run],
    ledger: Ledger,
    shop: Any,
    killed: Killed,
    seconds: float,
) -> Summary:
    """Add everything up.

    Args:
        lines: how many the file has.
        rejected: those that are no orders.
        cents: what each order costs, by its id.
        runs: the run of each order, by its id.
        ledger: the payment service's own account.
        shop: the shop's database, a `Shop` of the example.
        killed: the worker that was killed.
        seconds: how long it all took.
    """
    outcomes = {order: outcome(run) for order, run in runs.items()}
    statuses = Counter(status for status, _ in outcomes.values())
    mails = shop.mails()
    problems = [
        *_lines_left(lines, rejected, outcomes),
        *_money(cents, outcomes, ledger),
        *_mails(statuses, mails),
        *(f"more of {sku} was promised than there is" for sku in shop.oversold()),
        *_takeover(killed),
    ]
    return Summary(
        is_ok=not problems,
        lines=lines,
        completed=statuses["completed"],
        cancelled=dict(Counter(reason for status, reason in outcomes.values() if status == "cancelled")),
        rejected=list(rejected),
        charges=len(ledger.charges),
        charge_requests=ledger.charge_requests,
        requests=ledger.requests,
        webhooks=ledger.webhooks,
        mails=mails,
        killed_pid=killed.pid,
        in_hand=len(killed.epochs),
        taken_over=killed.taken_over,
        seconds=round(seconds, 2),
        runs_per_second=round(len(runs) / seconds, 1),
        problems=problems,
    )


def _lines_left(lines: int, rejected: Sequence[Rejected], outcomes: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for order, (status, why) in outcomes.items():
        if status not in ("completed", "cancelled"):
            yield f"{order} is {status}" + (f": {why}" if why else "")
    if lines != len(rejected) + len(outcomes):
        yield f"{lines} lines, but {len(outcomes)} runs and {len(rejected)} rejected lines"


def _money(cents: Mapping[str, int], outcomes: Mapping[str, tuple[str, str]], ledger: Ledger) -> Iterator[str]:
    """Yield what is wrong between the orders and the payment service's ledger."""
    charges: dict[str, list[Any]] = {}
    for charge in ledger.charges:
        charges.setdefault(charge.order_id, []).append(charge)
    for order in charges.keys() - outcomes.keys():
        yield f"{order} was charged, but nobody ordered it"
    wanted = {"completed": {"paid"}, "cancelled": {"failed", "voided", "refunded"}}
    for order, (status, _) in outcomes.items():
        made = charges.get(order, [])
        if len(made) != 1:
            yield f"{order} was charged {len(made)} times"
        elif made[0].cents != cents[order]:
            yield f"{order} costs {cents[order]} cents, and was charged {made[0].cents}"
        elif made[0].status not in wanted.get(status, ()):
            yield f"{order} is {status}, and its charge {made[0].status}"


def _mails(statuses: Mapping[str, int], mails: Mapping[str, int]) -> Iterator[str]:
    completed, cancelled = statuses.get("completed", 0), statuses.get("cancelled", 0)
    for subject, wanted in (("Confirmed:", completed), ("Thanks", completed), ("Cancelled:", cancelled)):
        if mails.get(subject, 0) != wanted:
            yield f"{wanted} orders, but {mails.get(subject, 0)} mails that begin {subject!r}"


def _takeover(killed: Killed) -> Iterator[str]:
    if not killed.pid:
        yield "no worker was killed"
    elif killed.taken_over != len(killed.epochs):
        yield f"the killed worker had {len(killed.epochs)} runs in hand, of which {killed.taken_over} were taken over"
