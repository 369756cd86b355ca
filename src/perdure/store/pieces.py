"""How stores cut a list, in its order, so that each piece can be carried out in one go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from perdure.model.decision import Decision


class _About(Protocol):
    @property
    def run_id(self) -> str: ...


L = TypeVar("L", bound=_About)


def independent(decisions: Sequence[Decision]) -> Iterator[Sequence[Decision]]:
    """Cut the decisions, in their order, where one meets what an earlier one of the same piece does."""
    if len({decision.run_id for decision in decisions}) == len(decisions) and not any(
        decision.reaches_others for decision in decisions
    ):
        yield decisions
        return
    piece: list[Decision] = []
    decided: set[str] = set()
    reached: set[str] = set()
    for decision in decisions:
        born = {child.id for child in decision.children}
        reaches = born | {message.run_id for message in decision.posts}
        meets = decision.run_id in decided | reached or not reaches.isdisjoint(decided) or not born.isdisjoint(reached)
        if piece and (meets or _reaches_further(decision) or _reaches_further(piece[-1])):
            yield piece
            piece, decided, reached = [], set(), set()
        piece.append(decision)
        decided.add(decision.run_id)
        reached |= reaches
    yield piece


def _reaches_further(decision: Decision) -> bool:
    """Return whether a decision may change runs that it does not name: descendants, or those that stand for others."""
    return bool(decision.terminate or decision.unclaimed) or any(child.dedup is not None for child in decision.children)


def distinct(items: Sequence[L]) -> Iterator[Sequence[L]]:
    """Cut a list, in its order, so that no run is in a piece twice."""
    piece: dict[str, L] = {}
    for item in items:
        if item.run_id in piece:
            yield list(piece.values())
            piece = {}
        piece[item.run_id] = item
    if piece:
        yield list(piece.values())
