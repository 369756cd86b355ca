"""Which server to speak to: the one there is, the one that the sentinels name, or the one that has the slot."""

from __future__ import annotations

from typing import Any, Protocol

from redis.exceptions import AuthenticationError, MovedError, NoPermissionError, RedisError, ResponseError

from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.store.redis.cluster import ClusterLink
from perdure.store.redis.connections import Node
from perdure.store.redis.errors import is_passing
from perdure.store.redis.server import Server, examine
from perdure.store.redis.settings import Address, Settings


class Link(Protocol):
    """The way from one event loop to the servers."""

    async def node(self, slot: int) -> Node:
        """Return the server that has a slot, looked for if it is not known."""

    def at(self, address: Address) -> Node:
        """Return the server at an address that another one gave."""

    async def moved(self, error: MovedError, told_by: Address) -> None:
        """Note that a slot is elsewhere, as a node told."""

    def look_again(self) -> None:
        """Forget who has what: something went wrong."""

    async def close(self) -> None:
        """Drop every connection."""


class SingleLink:
    """To one server, always the same; or, with a service, to the one that the sentinels call its master."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sentinels = [Node(address, settings, is_sentinel=True) for address in settings.addresses]
        self._nodes: dict[Address, Node] = {}
        self._master: Node | None = None

    async def node(self, slot: int) -> Node:
        """See `Link`."""
        if self._master is None:
            address = self._settings.addresses[0]
            if self._settings.service is not None:
                address = await self._named_by_sentinels(self._settings.service)
            self._master = self.at(address)
        return self._master

    def at(self, address: Address) -> Node:
        """See `Link`."""
        if address not in self._nodes:
            self._nodes[address] = Node(address, self._settings)
        return self._nodes[address]

    async def moved(self, error: MovedError, told_by: Address) -> None:
        """See `Link`."""
        raise error

    def look_again(self) -> None:
        """See `Link`."""
        self._master = None

    async def close(self) -> None:
        """See `Link`."""
        for node in [*self._nodes.values(), *self._sentinels]:
            await node.close()

    async def _named_by_sentinels(self, service: str) -> Address:
        failed: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                named = await self._name(sentinel, service)
            except (RedisError, OSError) as error:
                if not is_passing(error):
                    raise
                await sentinel.lose()
                failed.append(f"{sentinel.address}: {' '.join(str(error).split())}")
                continue
            if named is None:
                raise StoreUnavailableError(
                    f"{sentinel.address} watches no service {service!r}: correct the name in the store's URL"
                )
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return Address(named[0].decode(), int(named[1]))
        raise ConnectionError(f"no sentinel answers: {'; '.join(failed)}")

    async def _name(self, sentinel: Node, service: str) -> list[bytes] | None:
        asked = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)]
        try:
            named = answer_of((await sentinel.send(asked))[0])
        except (AuthenticationError, NoPermissionError):
            if sentinel.logs_in or self._settings.password is None:
                raise
            sentinel.logs_in = True
            await sentinel.lose()
            named = answer_of((await sentinel.send(asked))[0])
        found: list[bytes] | None = named
        return found


async def linked(settings: Settings) -> tuple[Link, Server]:
    """Find out what is at the store's address, and return the way there with what the server says of itself.

    Raises:
        UsageError: several addresses lead to servers that are no cluster.
    """
    single = SingleLink(settings)
    try:
        server = await _first_that_answers(single, settings)
        if not server.is_cluster:
            if settings.service is None and len(settings.addresses) > 1:
                raise UsageError(f"store: {settings.url!r} names several servers that are no cluster: give one of them")
            return single, server
    except BaseException:
        await single.close()
        raise
    await single.close()
    cluster = ClusterLink(settings)
    try:
        await cluster.node(0)
    except BaseException:
        await cluster.close()
        raise
    return cluster, server


async def _first_that_answers(single: SingleLink, settings: Settings) -> Server:
    if settings.service is not None:
        return await examine(await single.node(0), settings)
    failure: BaseException | None = None
    for address in settings.addresses:
        try:
            return await examine(single.at(address), settings)
        except (RedisError, OSError) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def answer_of(answer: Any) -> Any:
    """Return an answer, or raise it if it is an error."""
    if isinstance(answer, ResponseError):
        raise answer
    return answer
