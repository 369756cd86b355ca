"""Workflows as data: JSON or YAML, checked whole before anything runs, and compiled to the graph that code builds.

A definition is read in three steps. Its text becomes data (bounded, and without YAML's aliases). The data becomes
steps: every field is looked at, in either spelling (`taskName`, `task_name`), and what is wrong is told with its
path, all at once. The steps become nodes, in `perdure.authoring.graphs.compiling`, as those of a graph in code do.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from perdure.authoring.enqueuing import check_priority
from perdure.authoring.expressions import FlawsError
from perdure.authoring.graphs.binding import Takes
from perdure.authoring.graphs.compiling import STEPS, UNMET, Compiler
from perdure.authoring.graphs.dag import Dag
from perdure.authoring.graphs.drafts import ByName, Draft
from perdure.authoring.graphs.fields import Reader, shown
from perdure.authoring.graphs.input_schema import InputSchema
from perdure.authoring.graphs.nodes import Found
from perdure.authoring.spreading import LIMIT, Bounds
from perdure.model.codec import read_json
from perdure.model.decision import StoredDefinition
from perdure.model.duration import seconds
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.retry import Retry

TEXT_BYTES = 1_000_000
"""The size of a definition's text, in bytes."""

FIELDS = ("name", "version", "description", "definition")
GRAPH = ("steps", "queue", "output", "input")
STEP = (
    "task", "workflow", "name", "data", "after", "when", "when_unmet", "retry", "timeout", "queue", "priority", "map",
    "compensate",
)  # fmt: skip
MAP = ("over", "limit", "tolerate", "collect")
RETRY = ("attempts", "delay", "backoff", "max_delay", "jitter")
COMPENSATE = ("task", "workflow", "data")


class Known(msgspec.Struct, frozen=True):
    """What is known of a task or workflow that a definition may call.

    Attributes:
        takes: its parameters; None where they are not known.
        kind: `task`, `workflow`, `dag` or `definition`.
    """

    takes: Takes | None
    kind: str = "task"


class Definition:
    """A workflow as data, its fields in their own spelling; nothing of its graph is checked yet.

    Args:
        data: what was written.
        is_stored: it was checked when it was published.

    Attributes:
        name: of the workflow.
        version: as it is given, or a hash of the content.
        description: what is written about it; no part of its content.
        content: its steps, its queue, its output and the schema of its input.
        schema: of its input; None for any input.
        digest: a hash of all of it.
        found: what is wrong with its fields, which `compile` tells with the rest.
    """

    def __init__(self, data: object, *, is_stored: bool = False) -> None:
        reader = Reader()
        top = reader.fields(data, "", (*FIELDS, *GRAPH))
        self.name = reader.text(top, "name", "")
        self.description = top.get("description", "")
        if not isinstance(self.description, str):
            reader.found.append(f"description: {shown(self.description)} must be text")
        graph = _graph(reader, top)
        steps = graph.get("steps")
        if not isinstance(steps, list) or not steps:
            reader.found.append("steps: give a list of at least one step")
            steps = []
        if len(steps) > STEPS:
            reader.found.append(f"steps: {len(steps):,} are more than {STEPS:,}; call another workflow in a step")
            steps = steps[:1]
        self.content: dict[str, Any] = {"steps": list(_in_sequence(reader, steps))}
        self.content |= {field: graph[field] for field in ("queue", "output") if field in graph}
        if "queue" in graph and not reader.check(lambda: check_name(graph["queue"], "queue")):
            del self.content["queue"]
        self.schema: InputSchema | None = None
        if "input" in graph:
            try:
                self.schema = InputSchema(graph["input"], is_stored=is_stored)
                self.content["input"] = self.schema.data
            except FlawsError as error:
                reader.found += error.found
        version = top.get("version")
        if isinstance(version, bool) or not (version is None or isinstance(version, str | int)):
            reader.found.append(f"version: {version!r} must be text or a whole number")
        self.digest = _digest(reader, [self.name, self.content])
        self.version = self.digest[:12] if version is None else str(version)
        if not self.version or len(self.version) > NAME_LENGTH or not self.version.isprintable():
            reader.found.append(f"version: it must be printable text of 1 to {NAME_LENGTH} characters")
        self.found = reader.found

    @classmethod
    def of_text(cls, text: str) -> Definition:
        """Return the definition of a JSON or YAML text.

        Raises:
            DefinitionError: the text cannot be read, or is too long.
        """
        return cls(data_of(text))

    @classmethod
    def of_stored(cls, stored: StoredDefinition) -> Definition:
        """Return a definition as the store has it.

        Raises:
            DefinitionError: the text is not what `stored` makes.
        """
        damage = f"version {stored.version!r} of definition {stored.name!r} is damaged in the store"
        try:
            data = msgspec.json.decode(stored.text)
        except (msgspec.DecodeError, RecursionError):
            raise DefinitionError(damage) from None
        digest = data.pop("digest", None) if isinstance(data, dict) else None
        if not isinstance(digest, str):
            raise DefinitionError(damage)
        found = cls(data, is_stored=True)
        if found.found:
            raise DefinitionError(f"{damage}: {found.found[0]}", found.found)
        if not _is_written_out(data, found.content["steps"]):
            raise DefinitionError(damage)
        found.digest = digest
        return found

    def compile(self, known: Mapping[str, Known] | None, find: Callable[[str], Found | None]) -> Dag:
        """Return the workflow.

        Args:
            known: the tasks and workflows that there are; None checks nothing of them.
            find: returns what is known of one when it is called.

        Raises:
            DefinitionError: something is wrong; the message lists everything, each with its path.
        """
        reader = Reader(self.found)
        drafts = [self._draft(reader, number, known, find) for number in range(len(self.content["steps"]))]
        compiler = Compiler(drafts, schema=self.schema)
        try:
            graph, nodes, output = compiler.compile(self.content.get("output"))
        except FlawsError as error:
            reader.found += error.found
        reader.end(self.name)
        written = self._made_explicit(compiler.inputs)
        return Dag(
            graph,
            nodes,
            name=self.name,
            version=self.version,
            queue=self.content.get("queue", "default"),
            input=Any if self.schema is None else self.schema,
            output=output,
            doc=self.description,
            uses_expressions=compiler.uses_expressions,
            written=lambda: msgspec.json.format(msgspec.json.encode(written), indent=2).decode(),
            kind="definition",
        )

    def stored(self, dag: Dag, now: int) -> StoredDefinition:
        """Return what is kept of it: what each step is called with is written out, so that nobody has to know it."""
        data = {**msgspec.json.decode(dag.to_json()), "digest": self.digest}
        return StoredDefinition(self.name, self.version, msgspec.json.encode(data).decode(), now)

    def _made_explicit(self, inputs: Mapping[tuple[str, bool], Any]) -> dict[str, Any]:
        steps = []
        for step in self.content["steps"]:
            explicit = _written(step, inputs.get((step["name"], False), step.get("data")))
            if "compensate" in step:
                undo = step["compensate"]
                explicit["compensate"] = _written(undo, inputs.get((step["name"], True), undo.get("data")))
            steps.append(explicit)
        about = {"description": self.description} if self.description else {}
        return {"name": self.name, "version": self.version, **about, "definition": {**self.content, "steps": steps}}

    def _draft(
        self,
        reader: Reader,
        number: int,
        known: Mapping[str, Known] | None,
        find: Callable[[str], Found | None],
    ) -> Draft:
        step = self.content["steps"][number]

        def at(field: str) -> str:
            return f"steps[{number}]" + (f".map.{field}" if field in MAP else f".{field}" if field else "")

        spread = step.get("map")
        undo = step.get("compensate")
        kind = known[step["calls"]].kind if known is not None and step["calls"] in known else "task"
        if kind != "task" and ("retry" in step or "timeout" in step):
            reader.found.append(f"{at('retry' if 'retry' in step else 'timeout')}: a workflow has those of its steps")
        return Draft(
            step["name"],
            _by_name(reader, step["calls"], at(""), known, find),
            at,
            after=step["after"],
            when=step.get("when"),
            when_unmet=step.get("when_unmet", UNMET[0]),
            compensate=undo and _by_name(reader, undo["calls"], at("compensate"), known, find),
            compensate_data=undo.get("data") if undo else None,
            data=step.get("data"),
            over=spread and spread["over"],
            bounds=Bounds(spread["limit"], spread["tolerate"], spread.get("collect", True)) if spread else None,
            retry=Retry(**step["retry"]) if "retry" in step else None,
            retry_fields=frozenset(step.get("retry", ())),
            timeout=step.get("timeout"),
            queue=step.get("queue"),
            priority=step.get("priority"),
        )


def _graph(reader: Reader, top: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a graph, which stand in `definition`, or beside the name, or some here and some there."""
    graph = {field: top[field] for field in GRAPH if field in top}
    if "definition" not in top:
        return graph
    given = top["definition"]
    inner = reader.fields({"steps": given} if isinstance(given, list) else given, "definition", GRAPH)
    reader.found += [f"definition.{field}: {field!r} is given twice" for field in inner if field in graph]
    return {**graph, **inner}


def _digest(reader: Reader, content: object) -> str:
    """Return a hash of data; where it is none that JSON can hold, that is taken down."""
    try:
        told = msgspec.json.encode(content, order="deterministic")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reader.found.append(f"definition: it is no JSON data: {error}")
        told = b""
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def data_of(text: str) -> Any:
    """Return the data of a JSON or YAML text.

    Raises:
        DefinitionError: it cannot be read, or is too long.
    """
    try:
        if len(text.encode()) > TEXT_BYTES:
            raise DefinitionError(f"the definition is longer than {TEXT_BYTES:,} bytes")
        if text.lstrip().startswith(("{", "[")):
            return read_json(text)
        return yaml.load(text, _Loader)  # noqa: S506  # a safe loader, see there
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DefinitionError(f"the definition cannot be read: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Plain data only, without aliases, by which a short text could stand for endless data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*) are not for definitions; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [name for name, count in names.most_common(1) if count > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def _in_sequence(reader: Reader, steps: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the steps with their fields in order; one that does not say what it comes after follows the one before."""
    taken: set[str] = set()
    before: list[str] = []
    for number, data in enumerate(steps):
        path = f"steps[{number}]"
        step = _step(reader, reader.fields(data, path, STEP), path)
        if "name" not in step:
            step["name"] = _free_name(step["calls"] or f"step-{number}", taken)
        taken.add(str(step["name"]))
        after = step.get("after", before)
        step["after"] = [after] if isinstance(after, str) else after
        if not isinstance(step["after"], list) or not all(isinstance(each, str) for each in step["after"]):
            reader.found.append(f"{path}.after: {shown(after)} must be a step's name or a list of them")
            step["after"] = []
        before = [str(step["name"])]
        yield step


def _step(reader: Reader, fields: dict[str, Any], path: str) -> dict[str, Any]:
    step = {**fields, "calls": _called(reader, fields, path)}
    step.pop("task", None)
    step.pop("workflow", None)
    if "name" in step:
        reader.text(step, "name", path)
        step["name"] = str(step["name"])
    if "when" in step and not isinstance(step["when"], str):
        reader.found.append(f"{path}.when: {shown(step['when'])} must be an expression, as text")
        del step["when"]
    if "timeout" in step and not reader.check(lambda: seconds(step["timeout"], field=f"{path}.timeout")):
        del step["timeout"]
    if "queue" in step and not reader.check(lambda: check_name(step["queue"], f"{path}.queue")):
        del step["queue"]
    if "priority" in step and not reader.check(lambda: check_priority(step["priority"], f"{path}.priority")):
        del step["priority"]
    if "retry" in step:
        step["retry"] = reader.fields(step["retry"], f"{path}.retry", RETRY)
        _check_retry(reader, step, f"{path}.retry")
    if "map" in step:
        spread = reader.fields(step["map"], f"{path}.map", MAP)
        step["map"] = {"over": None, "limit": LIMIT, "tolerate": 0, **spread}
    if "compensate" in step:
        given = step["compensate"]
        where = f"{path}.compensate"
        undo = reader.fields({"task": given} if isinstance(given, str) else given, where, COMPENSATE)
        step["compensate"] = {"calls": _called(reader, undo, where)}
        step["compensate"] |= {"data": undo["data"]} if "data" in undo else {}
    return step


def _check_retry(reader: Reader, step: dict[str, Any], path: str) -> None:
    try:
        Retry(**step["retry"])
    except (UsageError, TypeError) as error:
        reader.found.append(f"{path}{str(error).removeprefix('retry')}")
        del step["retry"]


def _called(reader: Reader, fields: Mapping[str, Any], path: str) -> str:
    named = [field for field in ("task", "workflow") if field in fields]
    if len(named) != 1:
        reader.found.append(f"{path}: give one of task (or taskName) and workflow, which it calls")
        return ""
    return reader.text(fields, named[0], path)


def _written(call: Mapping[str, Any], data: object) -> dict[str, Any]:
    """Return a step or an undo as it is written, with what it is called with."""
    fields = {name: value for name, value in call.items() if name != "calls"}
    return {"task": call["calls"], **fields, "data": {} if data is None else data}


def _is_written_out(data: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether data has its graph, and of each step what it is called, calls and comes after, as `_written`."""
    graph = data.get("definition")
    given = graph.get("steps") if isinstance(graph, dict) else None
    if not isinstance(given, list):
        return False
    told = [(step["name"], step["calls"], step["after"]) for step in steps]
    return [(step.get("name"), step.get("task"), step.get("after")) for step in given] == told


def _free_name(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _by_name(
    reader: Reader,
    name: str,
    path: str,
    known: Mapping[str, Known] | None,
    find: Callable[[str], Found | None],
) -> ByName:
    takes: Takes | None = None
    if known is not None and name in known:
        takes = known[name].takes
    elif known is not None and name:
        close = difflib.get_close_matches(name, known, 1)
        advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)[:10]) or 'none'}"
        reader.found.append(f"{path}: there is no task or workflow {name!r}; {advice}")
    return ByName(name, takes, find)
