"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

ALL = "*"
"""Stands for every namespace that the server has, and will have."""


class Role(IntEnum):
    """What somebody may do; each may do what those below it may."""

    METRICS = 1
    VIEWER = 2
    OPERATOR = 3
    ADMIN = 4

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        name: for the audit log.
        role: what they may do.
        kind: how they proved who they are: an API key, a signed token, a session of the dashboard, or by being on
            this machine where nothing else is set up.
        namespaces: where they may do it.
        is_everywhere: whether they may in namespaces that are yet to come, too.
        chosen: the one of these that a session is about; None for none.
        id: of the API key that says so, or of whoever a token is about; empty for neither.
        csrf: what pages made for them have to send along when they change something, as the header `Perdure-CSRF`.
    """

    name: str
    role: Role
    kind: Literal["key", "token", "session", "local"]
    namespaces: tuple[str, ...]
    chosen: str | None = None
    id: str = ""
    csrf: str = field(default="", repr=False)
    is_everywhere: bool = False

    def has(self, namespaces: Iterable[str]) -> bool:
        """Return whether all these namespaces are theirs, so that they may say who else may do something there."""
        return self.is_everywhere or set(namespaces) <= set(self.namespaces)
