"""The queues of the reference: how each is set, whose turn it is, and what of it is shown to whoever chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec.structs import replace

from perdure.model.queue import Admission, Candidate, QueueState, QueueView
from perdure.model.run import Run


class Queues:
    """The states and paces of queues, by name."""

    def __init__(self) -> None:
        self._states: dict[str, QueueState] = {}
        self._paces: dict[str, dict[str, int]] = {}

    def is_gated(self, queue: str) -> bool:
        """Return whether the runs of a queue are not for `claim`."""
        state = self._states.get(queue)
        return state is not None and state.is_gated

    def states(self) -> list[QueueState]:
        """Return every state, by name."""
        return [state for _, state in sorted(self._states.items())]

    def set(self, state: QueueState) -> bool:
        """Keep a state if its version is the next one, or if it is kept already; say whether."""
        there = self._states.get(state.name)
        if there is not None and there == replace(state, turns=there.turns):
            return True
        if state.version != (1 if there is None else there.version + 1):
            return False
        self._states[state.name] = replace(state, turns=0 if there is None else there.turns + 1)
        return True

    def view(
        self,
        queue: str,
        due: Iterable[Run],
        admitted: Iterable[Run],
        begun: Sequence[Run],
        room: tuple[int, int],
        after: str | None,
    ) -> QueueView | None:
        """Return what is to be chosen from.

        Args:
            queue: which.
            due: its due runs, in the order in which they would be claimed.
            admitted: its admitted runs whose lease holds.
            begun: those that are due and admitted all the same.
            room: how many keys, and how many runs of each.
            after: see `Store.look_into`.
        """
        state, (keys, each) = self._states.get(queue), room
        if state is None:
            return None
        behind = [run for run in due if after is None or run.limit_key > after]
        found = [(key, list(runs)) for key, runs in groupby(sorted(behind, key=_limit_key), _limit_key)]
        chosen = found[:keys]
        paces = self._paces.get(queue, {})
        return QueueView(
            state,
            admitted=dict(Counter(run.limit_key for run in admitted)),
            begun=[_candidate(run) for run in begun[:each]],
            paces={key: paces[key] for key, _ in chosen if key in paces},
            candidates=[_candidate(run) for _, runs in chosen for run in runs[:each]],
            last_key=chosen[-1][0] if len(found) > len(chosen) else None,
        )

    def take_turn(self, admission: Admission, now: int) -> bool:
        """Keep the paces of an admission if it is the next one; say whether."""
        state = self._states.get(admission.queue)
        if state is None or state.is_paused or state.turns != admission.turns:
            return False
        self._states[state.name] = replace(state, turns=state.turns + 1)
        paces = self._paces.get(state.name, {}) | admission.paces
        self._paces[state.name] = {key: at for key, at in paces.items() if at > now}
        return True


def _limit_key(run: Run) -> str:
    return run.limit_key


def _candidate(run: Run) -> Candidate:
    assert run.due_at is not None
    return Candidate(run.id, run.priority, run.due_at, run.limit_key, is_first=run.started_at is None)
