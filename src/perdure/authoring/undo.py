"""How a step, or a workflow that is called as a child, is undone: what is called, and with which of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from perdure.core.saga import Undo, undo_key
from perdure.model.errors import DefinitionError

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@runtime_checkable
class Durable(Protocol):
    """What workflow code can call durably: a step, a task, a workflow."""

    def signature(self) -> inspect.Signature | None:
        """Return what it takes; None where that is not known."""

    async def called_as(self, key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call it in workflow code, recorded under a key of its own."""


class Undoing:
    """One way to undo, checked against what it undoes.

    Args:
        call: what is called.
        signature: of what is undone; None where it is not known.
        what: whose undo it is, for errors.

    Raises:
        DefinitionError: it has a parameter that nothing is known for.
    """

    def __init__(self, call: Durable, signature: inspect.Signature | None, what: str) -> None:
        self._call = call
        self._signature = signature
        own = call.signature()
        parameters = {} if own is None else dict(own.parameters)
        taken = [p for p in parameters.values() if p.kind not in _STARRED]
        self._is_open = signature is None or own is None or len(taken) < len(parameters)
        known = {} if signature is None else dict(signature.parameters)
        self._takes_result = "result" in parameters
        if self._takes_result and "result" in known:
            raise DefinitionError(f"{what}: `result` is a parameter of both; in an undo it is the result, rename it")
        self._names: list[str] = []
        for parameter in taken:
            name = parameter.name
            if name == "result":
                continue
            if name in known:
                self._names.append(name)
            elif parameter.default is parameter.empty and not self._is_open:
                raise DefinitionError(
                    f"{what} takes {name!r}; it can take `result` and the parameters of what it undoes: "
                    + (", ".join(known) or "none")
                )
        if any(p.kind is p.POSITIONAL_ONLY for p in taken):
            raise DefinitionError(f"{what}: its parameters are given by name, so none can be positional only")

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Undo:
        """Return the undo of one call with these arguments."""

        async def undo(result: Any) -> None:
            await self._call.called_as(undo_key(), *self._arguments(args, kwargs, result))

        return undo

    def _arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        more = {"result": result} if self._takes_result else {}
        if self._is_open or self._signature is None:
            return args, {**kwargs, **more}
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return (), {**{name: bound.arguments[name] for name in self._names}, **more}


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return what a callable takes; None for one that does not say, as some of the interpreter's own do not."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
