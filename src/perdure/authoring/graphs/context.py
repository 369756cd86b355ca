"""What the steps of a DAG are given: the input, the results of the steps before them, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from perdure.authoring.context import step_or_raise


class Results(Mapping[str, Any]):
    """The results of the steps that come before one, by name; a step that was skipped has none.

    Args:
        values: the results of the run so far.
        visible: the names of the steps that come before.
        step: whose view this is, for errors.
    """

    __slots__ = ("_step", "_values", "_visible")

    def __init__(self, values: Mapping[str, Any], visible: AbstractSet[str], step: str) -> None:
        self._values = values
        self._visible = visible
        self._step = step

    def __getitem__(self, name: str) -> Any:
        if name not in self._visible:
            raise KeyError(f"step {name!r} does not come before step {self._step!r}; add it to after=")
        if name not in self._values:
            raise KeyError(f"step {name!r} was skipped; use results.get({name!r})")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in sorted(self._visible) if name in self._values)

    def __len__(self) -> int:
        return sum(name in self._values for name in self._visible)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:  # to another process go the results that can be seen
        return Results, (dict(self), frozenset(self._visible), self._step)


class Job(NamedTuple):
    """A run as PsyQueue's handlers see one: its `payload` is the input, its `id` the run's."""

    payload: Any
    id: str


class DagRun(NamedTuple):
    """The run, as `ctx.workflow`: its id, the step's name and the results, and the workflow's name."""

    workflow_id: str
    step_id: str
    results: Mapping[str, Any]
    name: str


class Context:
    """What a step of a DAG is given.

    Attributes:
        input: the run's input.
        results: the results of the steps before this one; in an undo, of this one too.
        item, index: in a map, which item this is for, and its number from 0.
    """

    __slots__ = ("_run_id", "_step", "_workflow", "index", "input", "item", "results")

    def __init__(
        self,
        run_id: str,
        workflow: str,
        step: str,
        given: object,
        results: Mapping[str, Any],
        item: object = None,
        index: int = 0,
    ) -> None:
        self._run_id = run_id
        self._workflow = workflow
        self._step = step
        self.input: Any = given
        self.results = results
        self.item: Any = item
        self.index = index

    @property
    def workflow(self) -> DagRun:
        """The run's id, the step's name, the results, and the workflow's name."""
        return DagRun(self._run_id, self._step, self.results, self._workflow)

    @property
    def job(self) -> Job:
        """The run, with the input as its `payload`."""
        return Job(self.input, self._run_id)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run_id

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1; in a step's body only."""
        return step_or_raise("ctx.attempt").attempt

    @property
    def idempotency_key(self) -> str:
        """A key that is the same on every attempt of this step and different for every other; in its body only."""
        return step_or_raise("ctx.idempotency_key").idempotency_key

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self._run_id, self._workflow, self._step, self.input, self.results, self.item, self.index)
        return Context, given
