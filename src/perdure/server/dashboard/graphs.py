"""Graphs of steps as drawings: layers from above, each step below all that it comes after."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perdure.core.wait import decode_waits
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus

MOST = 200
"""How many steps are drawn."""

LABEL = 24
"""How many characters of a name stand in its box."""

CHARACTER = 7.3
HEIGHT = 34
PADDING = 26
BESIDE = 22
BELOW = 38
MARGIN = 10
DUMMY_WIDTH = 12
SWEEPS = 6

StepState = Literal["pending", "open", "retry", "ok", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a graph: its name, what it comes after, what it calls, and what is special about it."""

    name: str
    after: tuple[str, ...]
    calls: str = ""
    is_map: bool = False
    is_conditional: bool = False
    has_undo: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A step as it is drawn: where, and in which state."""

    step: Step
    label: str
    x: float
    y: float
    width: float
    height: float
    state: StepState


@dataclass(frozen=True, slots=True)
class Line:
    """What leads from one step to another: a path of SVG."""

    path: str
    is_conditional: bool
    is_done: bool


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph as it is drawn."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def steps_of_definition(data: Mapping[str, Any]) -> list[Step]:
    """Return the steps of a definition as the store has it."""
    return [
        Step(
            str(step["name"]),
            tuple(map(str, step["after"])),
            str(step["task"]),
            "map" in step,
            step.get("when") is not None,
            "compensate" in step,
        )
        for step in data["definition"]["steps"]
    ]


def steps_of_details(details: Mapping[str, Any]) -> list[Step]:
    """Return the steps of a graph as workers announce it; none where they do not say what comes after what."""
    names, after = details.get("steps") or [], details.get("after") or []
    if len(names) != len(after):
        return []
    return [Step(name, tuple(names[each] for each in earlier)) for name, earlier in zip(names, after, strict=True)]


def states_of(steps: Sequence[Step], journal: Iterable[Record], run: Run) -> dict[str, StepState]:
    """Return what became of each step in a run."""
    told = _told(journal, run)
    followed = {name for step in steps if step.name in told for name in step.after}
    settled = {name for name, state in told.items() if state in ("ok", "error")}
    states: dict[str, StepState] = {}
    for step in steps:
        state = told.get(step.name)
        if state is not None:
            states[step.name] = "error" if run.status.is_finished and state in ("open", "retry") else state
        elif run.status.is_finished or step.name in followed:
            states[step.name] = "skipped"
        else:
            is_next = run.status is RunStatus.RUNNING and settled.issuperset(step.after)
            states[step.name] = "open" if is_next else "pending"
    return states


def _told(journal: Iterable[Record], run: Run) -> dict[str, StepState]:
    """Return what the journal, and what the run waits for, tell of steps."""
    states: dict[str, StepState] = {}
    for record in journal:
        key = record.key.partition("/")[0]
        if record.kind not in ("step", "child", "value"):
            continue
        if record.key != key:
            states.setdefault(key, "open")
        elif record.state == "open":
            states[key] = "retry" if record.kind == "step" else "open"
        else:
            states[key] = "ok" if record.state == "ok" else "error"
    for wait in decode_waits(run.wait).waits:
        key = wait.key.partition("/")[0]
        if states.get(key) not in ("ok", "error", "retry"):
            states[key] = "open"
    return states


def draw(steps: Sequence[Step], states: Mapping[str, StepState] | None = None) -> Drawing | None:
    """Return the drawing of a graph; None for none, or one of too many steps.

    Args:
        steps: without cycles; each name once.
        states: of the steps, by name; none for a graph that is not of a run.
    """
    if not steps or len(steps) > MOST:
        return None
    layers, chains = _layered(steps)
    _untangle(layers, chains)
    widths = {step.name: _width(step.name) for step in steps}
    places, width = _placed(layers, widths)
    boxes = tuple(
        Box(
            step,
            _label(step.name),
            places[step.name][0],
            places[step.name][1],
            widths[step.name],
            HEIGHT,
            (states or {}).get(step.name, "pending"),
        )
        for step in steps
    )
    by_name = {step.name: step for step in steps}
    lines = tuple(
        Line(
            _path([places[each] for each in chain], [widths.get(each, DUMMY_WIDTH) for each in chain]),
            by_name[chain[-1]].is_conditional,
            (states or {}).get(chain[0]) == "ok" and (states or {}).get(chain[-1]) not in (None, "pending", "skipped"),
        )
        for chain in chains
    )
    return Drawing(round(width), round(max(box.y for box in boxes) + HEIGHT + MARGIN), boxes, lines)


def _layered(steps: Sequence[Step]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the layers, with what stands for a line where it passes one, and each line as the chain of its places."""
    depth: dict[str, int] = {}
    known = {step.name for step in steps}
    waiting = list(steps)
    while waiting:
        ready = [step for step in waiting if all(name in depth or name not in known for name in step.after)]
        if not ready:
            break
        for step in ready:
            depth[step.name] = 1 + max((depth[name] for name in step.after if name in known), default=-1)
        waiting = [step for step in waiting if step.name not in depth]
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for step in steps:
        layers[depth.setdefault(step.name, 0)].append(step.name)
    chains = []
    for step in steps:
        for earlier in dict.fromkeys(step.after):
            if earlier not in known:
                continue
            chain = [earlier]
            for layer in range(depth[earlier] + 1, depth[step.name]):
                dummy = f"\0{earlier}\0{step.name}\0{layer}"
                layers[layer].append(dummy)
                chain.append(dummy)
            chains.append([*chain, step.name])
    return layers, chains


def _untangle(layers: list[list[str]], chains: Iterable[Sequence[str]]) -> None:
    """Sort each layer by where its neighbours stand, down and up, so that few lines cross."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            below.setdefault(upper, []).append(lower)
            above.setdefault(lower, []).append(upper)
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        neighbours = above if is_down else below
        order = range(1, len(layers)) if is_down else range(len(layers) - 2, -1, -1)
        for number in order:
            beside = layers[number - 1 if is_down else number + 1]
            at = {name: place for place, name in enumerate(beside)}
            now = {name: place for place, name in enumerate(layers[number])}

            def middle(
                name: str,
                at: Mapping[str, int] = at,
                now: Mapping[str, int] = now,
                beside: Sequence[str] = beside,
                size: int = len(layers[number]),
            ) -> float:
                found = [at[each] for each in neighbours.get(name, ()) if each in at]  # noqa: B023  # called at once
                return sum(found) / len(found) if found else now[name] * len(beside) / max(1, size)

            layers[number].sort(key=middle)


def _placed(
    layers: Sequence[Sequence[str]], widths: Mapping[str, float]
) -> tuple[dict[str, tuple[float, float]], float]:
    """Return where each name of the layers stands, and how wide it all is."""
    rows = [sum(widths.get(name, DUMMY_WIDTH) for name in layer) + BESIDE * (len(layer) - 1) for layer in layers]
    widest = max(rows)
    places: dict[str, tuple[float, float]] = {}
    for number, layer in enumerate(layers):
        x = MARGIN + (widest - rows[number]) / 2
        for name in layer:
            places[name] = round(x, 1), MARGIN + number * (HEIGHT + BELOW)
            x += widths.get(name, DUMMY_WIDTH) + BESIDE
    return places, widest + 2 * MARGIN


def _path(places: Sequence[tuple[float, float]], widths: Sequence[float]) -> str:
    """Return a line through the places, from the foot of the first to the head of the last."""
    middles = [(x + width / 2, y) for (x, y), width in zip(places, widths, strict=True)]
    x, y = middles[0][0], middles[0][1] + HEIGHT
    parts = [f"M{x:.1f} {y:.1f}"]
    last = len(middles) - 1
    for number, (to_x, to_y) in enumerate(middles[1:], 1):
        bend = (to_y - y) / 2
        parts.append(f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if number < last:
            parts.append(f"V{y + HEIGHT:.1f}")
            y += HEIGHT
    return "".join(parts)


def _label(name: str) -> str:
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"


def _width(name: str) -> float:
    return round(len(_label(name)) * CHARACTER + PADDING, 1)
