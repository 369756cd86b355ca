"""URL groups: names that messages are published to in place of a URL, one for each endpoint."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from perdure.dispatch.messages.documents import Kept
from perdure.dispatch.messages.options import destination, name
from perdure.engine.env import Env
from perdure.model.errors import UsageError
from perdure.store.contract import Store

COLLECTION = "messages.groups"
"""The collection of URL groups; the keys are their names."""

ENDPOINTS = 100
"""How many endpoints a URL group may have."""


class UnknownGroupError(UsageError):
    """There is no URL group of this name."""


class GroupEndpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where messages of a group go: `url`, and a `name`, which may be empty."""

    url: str = ""
    name: str = ""


class Group(msgspec.Struct, frozen=True):
    """A URL group: its endpoints, and when it was made and changed, in milliseconds since the epoch."""

    name: str
    endpoints: tuple[GroupEndpoint, ...]
    created_at: int
    updated_at: int


class Groups:
    """The URL groups of one namespace.

    Args:
        store: the namespace's.
        env: for the present.
    """

    def __init__(self, store: Store, env: Env) -> None:
        self._kept = Kept(store, env, COLLECTION, Group)
        self._env = env

    async def get(self, group: str) -> Group:
        """Return a group.

        Raises:
            UnknownGroupError: there is none of this name.
        """
        (found,) = await self._kept.read(name(group, "URL group"))
        if found is None:
            raise UnknownGroupError(f"URL group {group!r} is unknown; add an endpoint to it first")
        return found

    async def all(self) -> list[Group]:
        """Return every group, by name."""
        return list((await self._kept.all()).values())

    async def add(self, group: str, endpoints: Iterable[GroupEndpoint]) -> Group:
        """Add endpoints to a group, which is made if it is not there; one of the same URL, or name, is replaced.

        Raises:
            UsageError: a URL or a name is none, or there would be too many.
        """
        name(group, "URL group")
        given = list(endpoints)
        if not given:
            raise UsageError("endpoints: give at least one")
        for number, each in enumerate(given):
            try:
                destination(each.url)
                if each.name:
                    name(each.name, "name")
            except UsageError as error:
                raise UsageError(f"endpoints[{number}]: {error}") from None

        def change(before: Group | None) -> Group:
            now = self._env.now()
            left = [] if before is None else _without(before.endpoints, given)
            added = _unique(given)
            if len(left) + len(added) > ENDPOINTS:
                raise UsageError(f"endpoints: a URL group has at most {ENDPOINTS} (ENDPOINTS)")
            return Group(group, (*left, *added), now if before is None else before.created_at, now)

        _, after = await self._kept.change(group, change)
        assert after is not None
        return after

    async def remove(self, group: str, endpoints: Iterable[GroupEndpoint]) -> None:
        """Remove endpoints, each by its URL or by its name; the group goes with the last one."""
        given = list(endpoints)

        def change(before: Group | None) -> Group | None:
            if before is None:
                return None
            left = tuple(_without(before.endpoints, given))
            if left == before.endpoints:
                return before
            return replace(before, endpoints=left, updated_at=self._env.now()) if left else None

        await self._kept.change(name(group, "URL group"), change)

    async def delete(self, group: str) -> None:
        """Remove a group; one that is not there is none."""
        await self._kept.change(name(group, "URL group"), lambda _: None)


def _without(endpoints: Iterable[GroupEndpoint], others: Iterable[GroupEndpoint]) -> list[GroupEndpoint]:
    """Return endpoints without those that have the URL, or the name, of one of the others."""
    urls, names = {each.url for each in others if each.url}, {each.name for each in others if each.name}
    return [each for each in endpoints if each.url not in urls and each.name not in names]


def _unique(endpoints: Iterable[GroupEndpoint]) -> list[GroupEndpoint]:
    found: list[GroupEndpoint] = []
    for each in endpoints:
        found = [*_without(found, [each]), each]
    return found
