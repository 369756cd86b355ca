"""Workflows that are graphs of steps. `perdure.workflow(name)` builds one; see `perdure.authoring.graphs.builder`.

A run of one is workflow code like any other, on the same loop and over the same journal. Its steps are asked for from
the callbacks of those before them, without a task or a coroutine for each: what can be known of a graph is worked out
when it is built.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from perdure.authoring.graphs.context import Context, Results
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.graphs.nodes import Node
from perdure.authoring.workflow import Workflow
from perdure.core.graph import Fate, Graph, Walk
from perdure.core.loop import running
from perdure.core.replay import Replay
from perdure.model import codec, failure
from perdure.model.codec import Parameters, Shape
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.run import Retention, Run

TAKEN_KEPT = 10_000
"""Of how many inputs is remembered that they fit the schema."""

STEPS_TOLD = 100
"""How many steps are announced, and of a graph of no more also what comes after what."""


class Whole(Parameters):
    """One parameter that takes the whole input, which is stored as it is.

    Args:
        annotation: the type of the input, or its schema.
        what: whose input it is, for errors.
    """

    is_whole = True

    def __init__(self, annotation: Any, what: str) -> None:
        self._schema = annotation if isinstance(annotation, InputSchema) else None
        annotation = annotation if self._schema is None else Any
        self._taken: dict[str, None] = {}
        parameter = inspect.Parameter("input", inspect.Parameter.POSITIONAL_ONLY, default=None)
        self.what = what
        self.signature = inspect.Signature([parameter])
        self.shapes = {"input": Shape(annotation, f"the input of {what}")}

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any], limit: int) -> str:
        """Return the input as a payload: the one argument, or all keyword arguments as an object."""
        if len(args) > 1 or (args and kwargs):
            raise TypeError(f"{self.what} takes one value as its input, or its fields by name")
        what = f"the input of {self.what}"
        payload = codec.encode(args[0] if args else dict(kwargs), what, limit)
        value = self._read(payload)
        if self._schema is not None:
            payload = codec.encode(value, what, limit)
            self._keep(payload)
        return payload

    def decode(self, payload: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the input of a payload as the one argument."""
        return [self._read(payload)], {}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the input."""
        return self.shapes["input"].schema() if self._schema is None else self._schema.data

    def _read(self, payload: str) -> Any:
        value = self.shapes["input"].decode(payload)
        if self._schema is None or _hash(payload) in self._taken:
            return value
        taken = self._schema.taken(value, self.what)
        if taken == value:
            self._keep(payload)
        return taken

    def _keep(self, payload: str) -> None:
        """Remember a payload that fits as it is, for the run's next turns."""
        if len(self._taken) >= TAKEN_KEPT:
            self._taken.clear()
        self._taken[_hash(payload)] = None


def _hash(payload: str) -> str:
    return hashlib.blake2b(payload.encode(), digest_size=16).hexdigest()


class Dag(Workflow[..., Any]):
    """A workflow that is a graph of steps.

    Its input is one value, and its result that of `output`, or the results of all steps that ran, by name.

    Attributes:
        graph: which step comes before which.
        nodes: the steps, in the order of the graph's numbers.
        uses_expressions: conditions or data are text, which is evaluated over plain data.
        output: makes the result; None for the results of all steps.
        written: the DAG as data, made when it is asked for.
        kind: `dag`, or `definition` for one that was written as data.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        *,
        name: str,
        version: str = "",
        queue: str = "default",
        retention: Retention | None = None,
        input: Any = Any,
        output: Callable[[Context], Any] | None = None,
        uses_expressions: bool = False,
        written: Callable[[], str] | None = None,
        kind: str = "dag",
        doc: str = "",
    ) -> None:
        self.graph = graph
        self.nodes = tuple(nodes)
        self.uses_expressions = uses_expressions
        self.output = output
        self.written = written
        self.kind = kind
        self._input = input
        super().__init__(_plainly, name=name, version=version, queue=queue, retention=retention)
        self.doc = doc

    def begin(self, payload: str, run: Run) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of a run over an input payload."""
        (given,), _ = self.parameters.decode(payload)
        return Play(self, run, given).perform()

    def details(self) -> dict[str, Any]:
        """Return what workers announce of it beside its name, version, queue and input, as JSON data."""
        told: dict[str, Any] = {"kind": self.kind, "steps": [node.name for node in self.nodes][:STEPS_TOLD]}
        if self.kind == "dag" and isinstance(self._input, InputSchema):
            told["is_asked_of_schema"] = True
        if len(self.nodes) <= STEPS_TOLD:
            told["after"] = [list(earlier) for earlier in self.graph.after]
        return told

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        lines = ["flowchart TD"]
        for number, node in enumerate(self.nodes):
            label = node.name.replace('"', "#quot;")
            shape = f'[["{label}"]]' if node.over is not None else f'["{label}"]'
            lines.append(f"    s{number}{shape}")
        for number, earlier in enumerate(self.graph.after):
            arrow = "-->" if self.nodes[number].when is None else "-. when .->"
            lines += [f"    s{each} {arrow} s{number}" for each in earlier]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """Return the DAG as a definition: the same graph as data.

        Raises:
            DefinitionError: a part of it is a function, which cannot be written as data; the message says which.
        """
        if self.written is None:
            raise DefinitionError(f"workflow {self.name!r} cannot be written as data")
        return self.written()

    def _parameters(self, function: Callable[..., Any], hints: Mapping[str, Any], what: str) -> Parameters:
        return Whole(self._input, what)


class Play:
    """One run of a DAG, as far as it has come. The code around it is one coroutine, which waits for the end."""

    __slots__ = ("_dag", "_end", "_given", "_plain", "_replay", "_results", "_run", "_scope", "_walk")

    def __init__(self, dag: Dag, run: Run, given: Any) -> None:
        self._dag = dag
        self._run = run
        self._given = given
        self._results: dict[str, Any] = {}
        self._plain: dict[str, Any] = {}
        self._walk = Walk(dag.graph)
        self._scope: dict[str, Any] | None = None
        self._replay: Replay
        self._end: asyncio.Future[None]

    async def perform(self) -> Any:
        """Run the graph; return its result."""
        loop = running()
        assert loop is not None
        self._replay = loop.replay
        self._end = loop.create_future()
        self._proceed(self._dag.graph.roots)
        await self._end
        output = self._dag.output
        if output is None:
            return {node.name: self._results[node.name] for node in self._dag.nodes if node.name in self._results}
        return output(PlayContext(self, None, frozenset(self._results)))

    def scope(self) -> dict[str, Any]:
        """Return what expressions are evaluated over; only what comes before a step is referred to by it."""
        if self._scope is None:
            about = {"id": self._run.id, "name": self._dag.name}
            steps = self._plain if self._dag.uses_expressions else self._results
            self._scope = {"input": _as_data(self._given), "steps": steps, "workflow": about}
        return self._scope

    def context(
        self, node: Node, item: object = None, index: int = 0, own: Mapping[str, Any] | None = None
    ) -> PlayContext:
        """Return what a step is given."""
        visible = node.before if own is None else node.before | {node.name}
        return PlayContext(self, node, visible, item, index, own)

    def _proceed(self, ready: Iterable[int]) -> None:
        """Ask for the steps that nothing is left before, or skip them and go on behind them."""
        walk, nodes = self._walk, self._dag.nodes
        waiting = deque(ready)
        node = nodes[0]
        try:
            while waiting:
                number = waiting.popleft()
                node = nodes[number]
                if number in walk.doomed:
                    waiting += walk.settle(number, Fate.CASCADES)
                elif node.when is not None and not node.when(self.context(node)):
                    waiting += walk.settle(number, Fate.CASCADES if node.cascades else Fate.SKIPPED)
                else:
                    future = node.begin(self._replay, self.context)
                    future.add_done_callback(functools.partial(self._settled, number))
        except Exception as error:
            self._fail(node, error)
            return
        if not walk.left and not self._end.done():
            self._end.set_result(None)

    def _settled(self, number: int, future: asyncio.Future[Any]) -> None:
        if self._end.done() or future.cancelled():
            return
        error = future.exception()
        node = self._dag.nodes[number]
        if error is not None:  # what is still under way ends with the code
            self._fail(node, error)
            return
        result = future.result()
        self._results[node.name] = result
        if self._dag.uses_expressions:
            self._plain[node.name] = result if node.is_plain else _as_data(result)
        self._proceed(self._walk.settle(number, Fate.DONE))

    def _fail(self, node: Node, error: BaseException) -> None:
        failure.failed_at(error, node.name)
        self._end.set_exception(error)


class PlayContext(Context):
    """The context of a step, with what expressions are evaluated over."""

    __slots__ = ("_own", "_play")

    def __init__(
        self,
        play: Play,
        node: Node | None,
        visible: AbstractSet[str],
        item: object = None,
        index: int = 0,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        name = node.name if node is not None else "output"
        values = play._results if own is None else {**play._results, **own}
        super().__init__(play._run.id, play._dag.name, name, play._given, Results(values, visible, name), item, index)
        self._play = play
        self._own = own

    def scope(self) -> dict[str, Any]:
        """Return what expressions are evaluated over."""
        scope = self._play.scope()
        scope["item"], scope["index"] = _as_data(self.item), self.index
        if self._own is not None:
            own = {name: _as_data(value) for name, value in self._own.items()}
            return {**scope, "steps": {**scope["steps"], **own}}
        return scope


async def _plainly(input: Any = None) -> Any:
    raise UsageError("a DAG is run by an engine: start it with app.start(dag, input), or call it in workflow code")


_PLAIN = (str, int, float, bool, type(None))


def _as_data(value: Any) -> Any:
    """Return a value as plain JSON data."""
    if isinstance(value, _PLAIN):
        return value
    return codec.decode_any(codec.encode(value, "a value", 1 << 62))
