"""Numbers over time as small charts: an area below a line, in a box that the page stretches as it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 600
HEIGHT = 100
POINTS = 120
"""How many points a line has at most; of more, the greatest of those beside each other stands for them."""

_HEAD = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        line, area: paths of SVG, in a box of `WIDTH` by `HEIGHT`.
        most: the greatest number, at the upper edge.
        last: the latest one.
        span: how many milliseconds it covers.
    """

    line: str
    area: str
    most: float
    last: float
    span: int


def chart(points: Sequence[tuple[int, float]]) -> Chart | None:
    """Return the chart of numbers; None for fewer than two.

    Args:
        points: each with its time in milliseconds, in their order.
    """
    if len(points) < 2:
        return None
    start, end = points[0][0], points[-1][0]
    most = max(value for _, value in points)
    high = most or 1.0
    places = [
        (WIDTH * (at - start) / max(1, end - start), HEIGHT - (HEIGHT - _HEAD) * value / high)
        for at, value in _thinned(points)
    ]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Chart(line, f"{line}V{HEIGHT}H0Z", most, points[-1][1], end - start)


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    size = -(-len(points) // POINTS)
    if size == 1:
        return points
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [points[0], *((group[-1][0], max(value for _, value in group)) for group in groups)]
