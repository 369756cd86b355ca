"""Perdure doing W9: the core alone replays a long journal."""

from __future__ import annotations

import json
import os
import sys
import time

from perdure import Limits, Record, Run, RunStatus
from perdure.authoring.step import Step, step_spec
from perdure.authoring.workflow import Workflow
from perdure.core.turn import Turn
from perdure.model.decision import Claim

STEPS = int(os.environ["RUNS"])
JOURNAL = 1_000
"""Steps per replayed run."""


async def _add(value: int) -> int:
    """Count one on."""
    return value + 1


add_step: Step[[int], int] = Step(_add, step_spec(_add, name="add"))


async def _sequence(steps: int) -> int:
    """So many steps, each on the result of the last."""
    value = 0
    for _ in range(steps):
        value = await add_step(value)
    return value


def main() -> None:
    """Replay, count, report."""
    workflow: Workflow[[int], int] = Workflow(_sequence, name="sequence")
    run = Run("r", workflow.name, RunStatus.RUNNING, 0, 0, epoch=1, started_at=0)
    payload = workflow.parameters.encode((JOURNAL,), {}, 1_000)
    keys = ["add", *(f"add#{use}" for use in range(2, JOURNAL + 1))]
    journal = [
        Record(0, "input", "input", "ok", 0, payload),
        *(Record(n, key, "step", "ok", n, str(n), 1, n) for n, key in enumerate(keys, 1)),
    ]
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    for _ in range(max(1, STEPS // JOURNAL)):
        turn = Turn(Claim(run, journal, []), workflow, Limits(), os.urandom)
        turn.begin(JOURNAL + 1)
        assert turn.replay.outcome == ("ok", str(JOURNAL)), turn.replay.drift
        turn.close()
    seconds = time.perf_counter() - begun
    steps = max(1, STEPS // JOURNAL) * JOURNAL
    print(json.dumps({"seconds": seconds, "figures": {"replay_rate": steps / seconds}}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
