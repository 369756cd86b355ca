"""Warns, when a workflow is registered, of calls in its body that a replay would not repeat.

Only the body counts: functions and lambdas written inside it are usually handed to a step.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_FIXES = {
    "time.time": "flow.now()",
    "time.time_ns": "flow.now()",
    "time.monotonic": "flow.now()",
    "time.perf_counter": "flow.now()",
    "time.sleep": "await flow.sleep(...)",
    "datetime.datetime.now": "flow.now()",
    "datetime.datetime.utcnow": "flow.now()",
    "datetime.datetime.today": "flow.now()",
    "datetime.date.today": "flow.now().date()",
    "uuid.uuid1": "flow.uuid()",
    "uuid.uuid4": "flow.uuid()",
    "os.urandom": "flow.uuid() or a step",
    "os.getenv": "a step, or an argument of the workflow",
    "builtins.open": "a step",
    "builtins.input": "a step or an event",
    "io.open": "a step",
}
_MODULES = {
    "random": "flow.random()",
    "secrets": "flow.uuid() or a step",
    "requests": "a step",
    "httpx": "a step",
    "aiohttp": "a step",
    "urllib.request": "a step",
    "http.client": "a step",
    "socket": "a step",
    "subprocess": "a step",
    "threading": "a plain `def` step, which runs in a thread",
    "multiprocessing": "a step with run_in='process'",
    "sqlite3": "a step",
}


class DeterminismWarning(UserWarning):
    """A workflow's body calls something that a replay would not repeat."""


def warn_of_impure_calls(function: Callable[..., Any], what: str) -> None:
    """Warn of each call in a function's body whose result differs from one replay to the next.

    Args:
        function: the workflow's function.
        what: its name, for the warning.
    """
    for line, call, fix in impure_calls(function):
        file = inspect.getsourcefile(function)
        warnings.warn(
            f"{file}:{line}: {what} calls {call}(), which gives something else on a replay; use {fix}",
            DeterminismWarning,
            stacklevel=4,
        )


def impure_calls(function: Callable[..., Any]) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the dotted name and the fix of each such call; nothing where the source cannot be read."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return
    known = {"open": open, "input": input, **vars(inspect.getmodule(function) or object), **_nonlocals(function)}
    written: Any = inspect.unwrap(function)
    known = {name: found for name, found in known.items() if name not in written.__code__.co_varnames}
    for node in _body_calls(tree.body[0]):
        name = _dotted(node.func, known)
        if name == "random.Random" and node.args:  # with a seed it is as good as any function
            continue
        fix = _FIXES.get(name) or next((fix for module, fix in _MODULES.items() if name.startswith(f"{module}.")), None)
        if fix is not None:
            yield first + node.lineno - 1, name, fix


def _nonlocals(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a function's closure holds by now; a function that calls itself is not in it yet."""
    found = {}
    written: Any = inspect.unwrap(function)
    for name, cell in zip(written.__code__.co_freevars, written.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # it is empty
            pass
    return found


def _body_calls(node: ast.AST) -> Iterator[ast.Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _body_calls(child)


def _dotted(node: ast.expr, known: Mapping[str, Any]) -> str:
    """Return what a called expression really is, by its module and name; empty when it is nothing known."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in known:
        return ""
    found = known[node.id]
    for name in attributes:
        if inspect.ismodule(found) and hasattr(found, name):
            found = getattr(found, name)
        else:
            return ".".join([_name_of(found), name]) if name == attributes[-1] else ""
    return _name_of(found)


def _name_of(found: object) -> str:
    if inspect.ismodule(found):
        return found.__name__
    module = getattr(found, "__module__", None)
    owner = getattr(found, "__self__", None)
    if module is None and inspect.ismodule(owner):
        module = owner.__name__
    if module is None and owner is not None:
        module = type(owner).__module__
    names = {"_io": "io", "_sqlite3": "sqlite3", "posix": "os", "nt": "os"}
    return f"{names.get(str(module), module)}.{getattr(found, '__qualname__', type(found).__name__)}"
