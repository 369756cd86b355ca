"""Workflows: async functions that survive their process."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from perdure.authoring.context import replay_or_raise
from perdure.authoring.enqueuing import check_priority, check_tags, check_text
from perdure.authoring.schemas import whole
from perdure.authoring.step import undoing
from perdure.core.ask import ChildSpec, StepSpec
from perdure.core.loop import running
from perdure.model.codec import Parameters, Shape, annotations_of, encode
from perdure.model.errors import DefinitionError, SerializationError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.run import Retention, Run
from perdure.model.schema import DIALECT

P = ParamSpec("P")
R = TypeVar("R")

Check = Callable[[Mapping[str, Any], Collection[str]], Iterable[str]]
"""Says what is wrong with the arguments of a call, each beginning with its name. It gets those that are known before
the call, by name, and the names of all that the call will have."""


class Workflow(Generic[P, R]):
    """A registered workflow.

    Start it with `app.start(workflow, ...)`. Called in workflow code, it runs as a child; await the call. Called
    anywhere else, it is the plain function.

    Attributes:
        name: its name in the store.
        version: a label of the code that runs it; recorded with each run.
        queue: where its runs go.
        retention: how long its ended runs are kept; None takes the engine's.
        function: the plain function.
        parameters, result: how its input and output are stored.
        undo: what undoes a child run of it; None for nothing.
        undoing: how that is called.
        leaf: for a task, the step that is all of it; None for code of its own.
        priority: of its runs, unless they are given another one; None for 0, or for a child its parent's.
        expires_ms: how long after it is due a run may be begun, in milliseconds; None for ever.
        registered: what an application knows it as: itself, or what it was made of by giving it options.
        doc: what is written about it: its docstring.
        check: what is wrong with arguments, beyond their types; None for nothing.
    """

    leaf: StepSpec | None = None
    priority: int | None = None
    expires_ms: int | None = None
    check: Check | None = None

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        *,
        name: str,
        version: str = "",
        queue: str = "default",
        retention: Retention | None = None,
        local_names: Mapping[str, Any] | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> None:
        what = f"workflow {check_name(name, 'workflow name')!r}"
        self._require_callable(function, what)
        if len(version) > NAME_LENGTH:
            raise DefinitionError(f"{what}: its version is longer than {NAME_LENGTH} characters")
        self.registered = self
        self.name = name
        self.version = version
        self.queue = check_name(queue, f"{what}, queue")
        self.retention = None if retention is None else Retention.check(retention, f"{what}, retention")
        self.function = function
        self.doc = getattr(_innermost(function), "__doc__", None) or ""
        hints = annotations_of(function, what, local_names)
        self.parameters = self._parameters(function, hints, what)
        self.result = Shape(hints.get("return", Any), f"the result of {what}")
        self.undo = undo
        self.undoing = undoing(undo, self.signature(), what)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """Return the coroutine of the workflow's result: of a child run in workflow code, else of the plain function.

        Raises:
            ChildFailedError: when awaited in workflow code, if the child did not complete.
        """
        loop = running()
        if loop is None:
            return self.function(*args, **kwargs)
        return self._as_child(loop, args, kwargs)

    def begin(self, payload: str, run: Run) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of a run over an input payload."""
        args, kwargs = self.arguments(payload)
        return self.function(*args, **kwargs)

    def arguments(self, payload: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments of an input payload.

        Raises:
            SerializationError: the payload does not fit the parameters.
        """
        return self.parameters.decode(payload)

    def flaws(self, known: Mapping[str, Any], given: Collection[str]) -> list[str]:
        """Return what is wrong with the arguments of a call that is not made yet, each with its name.

        Args:
            known: arguments that are known already, as JSON data by name.
            given: the names of all arguments that it will have.
        """
        found, values = [], {}
        for name, value in known.items():
            shape = self.parameters.shapes.get(name)
            if shape is None:
                continue
            try:
                values[name] = shape.decode(encode(value, "it", 1 << 62))
            except SerializationError as error:
                found.append(f"{name}: it {str(error).removeprefix(shape.what).lstrip()}")
        return found if found or self.check is None else list(self.check(values, given))

    def limit_key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return what a run of these arguments counts as under its queue's limits per key; empty for none."""
        return ""

    def joined(self, app: Any) -> None:
        """Take note that it was registered with an application."""

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of its input: an object with its arguments by name.

        It says what the annotations say. Where a type has no schema, any value fits.
        """
        return {"$schema": DIALECT, **self.parameters.schema()}

    def output_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema (2020-12) of its result; None where no annotation says what that is."""
        if self.result.annotation is Any:
            return None
        return {"$schema": DIALECT, **self.result.schema(is_output=True)}

    @functools.cached_property
    def whole(self) -> str:
        """The one parameter that may be given in place of the arguments by name; see `perdure.authoring.schemas`."""
        if len(self.parameters.shapes) != 1 or getattr(self.parameters, "is_whole", False):
            return ""
        return whole(self.input_schema())

    @property
    def is_required(self) -> bool:
        """Whether it has a parameter without a default."""
        return any(each.default is each.empty for each in self.parameters.signature.parameters.values())

    def details(self) -> dict[str, Any]:
        """Return what workers announce of it beside its name, version, queue and schemas, as JSON data."""
        return {"kind": "workflow"}

    def renew(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> str:
        """Return the input payload of these arguments."""
        return self.parameters.encode(args, kwargs, limit)

    def child(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int, **options: Any) -> ChildSpec:
        """Return what starts this workflow as a child, which is kept as long as the workflow says.

        Raises:
            UsageError: the child's id, priority or tags are none that a run can have.
        """
        if options.get("run_id") is not None:
            check_text(options["run_id"], "id")
        if options.get("priority") is not None:
            check_priority(options["priority"], "priority")
        check_tags(options.get("tags", {}), "tags")
        options.setdefault("retention", self.retention)
        payload = self.parameters.encode(args, kwargs, limit)
        return ChildSpec(
            self.name,
            self.version,
            self.queue,
            payload,
            fingerprint(self.name, payload),
            self.result,
            **options,
        )

    def signature(self) -> inspect.Signature | None:
        """Return what it takes."""
        return self.parameters.signature

    async def called_as(self, key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call it in workflow code as a child, recorded under a key of its own, and without its undo."""
        replay = replay_or_raise("an undo")
        spec = self.child(args, kwargs, replay.limits.payload_bytes)
        return await replay.wait_for(replay.ask_child(spec, name=key))

    async def _as_child(self, loop: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        replay = loop.replay
        undo = None if self.undoing is None else self.undoing.of(args, kwargs)
        spec = self.child(args, kwargs, replay.limits.payload_bytes)
        return await replay.wait_for(replay.ask_child(spec, undo=undo))

    def _require_callable(self, function: Callable[..., Any], what: str) -> None:
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(f"{what} must be an `async def` function")

    def _parameters(self, function: Callable[..., Any], hints: Mapping[str, Any], what: str) -> Parameters:
        return Parameters(inspect.signature(function), hints, what)


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def fingerprint(workflow: str, payload: str) -> str:
    """Return a short hash of what a run is started with."""
    return hashlib.blake2b(f"{workflow}\0{payload}".encode(), digest_size=12).hexdigest()
