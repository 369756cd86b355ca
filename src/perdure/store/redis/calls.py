"""Calls of scripts: on the server that has the shard, again while it is not ready, acknowledged as the options ask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import AskError, BusyLoadingError, MovedError, NoScriptError, RedisError, TryAgainError

from perdure.model.errors import PerdureError, StoreReadOnlyError, StoreUnavailableError
from perdure.store.redis.connections import ANSWER_SECONDS, Command, Node, Trip
from perdure.store.redis.errors import is_of_replica, is_out_of_reach, is_passing, is_starting, translated
from perdure.store.redis.keys import NAMES, Shard
from perdure.store.redis.links import Link, answer_of, linked
from perdure.store.redis.rows import pack
from perdure.store.redis.scripts import Script, load_scripts
from perdure.store.redis.server import Server, examine
from perdure.store.redis.settings import Address, Settings

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_REDIRECTIONS = 8
BRIEF = 1.0
ABSENT = 2.0
"""Seconds for which a shard is waited for where others will do, and for which it is not asked again if none came."""
_SHORTEST_ANSWER = 1.0
_SYNCING: Command = ("CONFIG", "GET", "appendonly", "appendfsync")
_ALWAYS = {b"appendonly": b"yes", b"appendfsync": b"always"}
_SCRIPTS = load_scripts()
_LEASING = {"claim", "admit"}

ENDED = "."
"""What a hint ends with that tells of nothing but ends."""

FEW = 8
"""Of how many changes at most a script's own trip takes the hint along; the hint of more waits for others."""


class Calls:
    """What one event loop says to the servers.

    Args:
        settings: the store's.
        channel, own: where the other processes are told that something has changed, and what they are told.
        tell: called where that is to be told by a message of its own, soon.

    Attributes:
        server: what the first server said of itself.
    """

    server: Server

    def __init__(self, settings: Settings, channel: str, own: str, tell: Callable[[], None]) -> None:
        self._settings = settings
        self._hint: Command = ("PUBLISH", channel, own)
        self._end_hint: Command = ("PUBLISH", channel, own + ENDED)
        self._tell = tell
        self._telling = 0
        self._link: Link | None = None
        self._absent: dict[int, float] = {}
        self._where = str(settings.addresses[0])

    @property
    def may_hand_over(self) -> bool:
        """Whether somebody may begin with what is written before it is acknowledged, and a script knows who listens.

        In a cluster it knows of those who listen to its own node alone.
        """
        return not (self._settings.fsync or self._settings.replicas or self.server.is_cluster)

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreError: no server can be reached, or it cannot hold a store.
        """
        self._link, self.server = await self._patiently(lambda: linked(self._settings), is_starting)

    async def close(self) -> None:
        """Disconnect."""
        if self._link is not None:
            await self._link.close()

    async def run(
        self,
        shard: Shard,
        name: str,
        asked: Any,
        texts: Sequence[bytes] = (),
        *,
        writes: bool,
        is_only_one: bool = False,
        patience: float | None = None,
        news: int = 0,
        tells: bool = False,
        only_ends: bool = False,
    ) -> Any:
        """Run a script on a shard and return its answer.

        Args:
            shard: whose keys it gets.
            name: which script.
            asked: its first argument, packed.
            texts: the others.
            writes: whether it may write, and has to be waited for as `durability` says.
            is_only_one: whether it must not be run again once it may have been.
            patience: for how many seconds it is tried again; None for as many as the options say.
            news: of how many of its changes the other processes are to hear; their hint goes along behind few of them,
                unless others are on their way, so that what happens seldom is heard at once, and much in few messages.
            tells: whether the script sends that hint itself: what it is asked then ends with channel and message.

            only_ends: whether the changes are ends that concern no other run.

        Raises:
            StoreUnavailableError: it may or may not have been run; what is not to be run only once was tried again.
        """
        is_telling = news > 0
        goes_along = is_telling and news <= FEW and not self._telling
        if goes_along and tells:
            asked = (*asked, self._hint[1:])
        hints = [self._end_hint if only_ends else self._hint] if goes_along and not tells else []
        self._telling += is_telling
        try:
            return await self._run(shard, name, asked, texts, hints, writes, is_only_one, patience)
        finally:
            self._telling -= is_telling
            if is_telling and not goes_along:
                self._tell()

    async def _run(
        self,
        shard: Shard,
        name: str,
        asked: Any,
        texts: Sequence[bytes],
        hints: Sequence[Command],
        writes: bool,
        is_only_one: bool,
        patience: float | None,
    ) -> Any:
        script = _SCRIPTS[name]
        is_awaited = self._settings.fsync or self._settings.replicas
        # nobody is told what a claim does that finds nothing
        mark = b"1" if writes and is_awaited and name not in _LEASING else b""
        call: Command = ("EVALSHA", script.sha, len(NAMES), *shard.keys, pack(asked), mark, *texts)
        if name not in _LEASING and not is_only_one:
            attempt = partial(self._acknowledged, shard.slot, call, script, writes=writes, hints=hints)
            return await self._patiently(attempt, patience=patience)
        trip = Trip(is_only_one=is_only_one)

        def may_be_repeated(error: BaseException) -> bool:
            # a claim whose answer is on the way has leased what it found, so another one would not see it
            may_be_done = trip.is_out and (is_only_one or isinstance(error, TimeoutError))
            return is_passing(error) and not may_be_done

        try:
            return await self._patiently(
                partial(self._acknowledged, shard.slot, call, script, writes=writes, trip=trip),
                may_be_repeated,
                patience,
            )
        except StoreUnavailableError as error:
            if not (trip.is_out and is_only_one):
                raise
            raise StoreUnavailableError(
                f"{self._where} was lost before it answered; what was asked may or may not have happened, and a "
                "restart is not asked for twice: look at the run"
            ) from error

    async def look(self, shards: Sequence[Shard], name: str, asked: Any) -> list[Any]:
        """Run a script that does not write on several shards, and return their answers in that order."""
        if len(shards) == 1:
            return [await self.run(shards[0], name, asked, writes=False)]
        script, packed = _SCRIPTS[name], pack(asked)
        groups: dict[Node, list[int]] = {}
        for place, shard in enumerate(shards):
            groups.setdefault(await self._node(shard.slot), []).append(place)
        answers: list[Any] = [None] * len(shards)

        async def ask(node: Node, places: list[int]) -> None:
            calls: list[Command] = [
                ("EVALSHA", script.sha, len(NAMES), *shards[place].keys, packed, b"") for place in places
            ]
            try:
                told = await node.send(calls)
            except (RedisError, OSError) as error:
                if not is_passing(error):
                    raise self.translated(error) from error
                told = [error] * len(places)
            for place, answer in zip(places, told, strict=True):
                failed = isinstance(answer, Exception)
                answers[place] = await self.run(shards[place], name, asked, writes=False) if failed else answer

        await asyncio.gather(*[ask(node, places) for node, places in groups.items()])
        return answers

    async def look_around(self, shards: Sequence[Shard], name: str, asked: Any) -> list[Any]:
        """Like `look`, but do not wait for shards out of reach: None for each, unless that is all of them."""
        if len(shards) == 1:
            return await self.look(shards, name, asked)
        loop = asyncio.get_running_loop()
        present = [shard for shard in shards if self._absent.get(shard.index, 0.0) <= loop.time()] or shards
        answers: dict[int, Any] = {}
        try:
            async with asyncio.timeout(BRIEF):
                found = await self.look(present, name, asked)
            answers = {shard.index: answer for shard, answer in zip(present, found, strict=True)}
        except (StoreUnavailableError, TimeoutError):

            async def ask(shard: Shard) -> None:
                try:
                    async with asyncio.timeout(BRIEF):
                        answers[shard.index] = await self.run(shard, name, asked, writes=False)
                except (StoreUnavailableError, TimeoutError):
                    self._absent[shard.index] = loop.time() + ABSENT

            await asyncio.gather(*map(ask, present))
        if not answers:
            return await self.look(shards, name, asked)
        return [answers.get(shard.index) for shard in shards]

    async def command(
        self, shard: Shard, *command: bytes | str | int, writes: bool = False, patience: float | None = None
    ) -> Any:
        """Send a plain command that has keys of one shard, and return its answer; `patience` as in `run`."""
        attempt = partial(self._acknowledged, shard.slot, command, None, writes=writes)
        return await self._patiently(attempt, patience=patience)

    async def publish(self, channel: str, message: str) -> None:
        """Tell everybody who listens on a channel; not again if it fails."""
        try:
            node = await self._linked().node(0)
            await node.send([("PUBLISH", channel, message)])
        except (RedisError, OSError) as error:
            raise translated(error, self._where, 0) from error

    def look_again(self) -> None:
        """Forget who is the master, or who has which slot."""
        if self._link is not None:
            self._link.look_again()

    async def any_node(self) -> Node:
        """Return a server on which to listen."""
        return await self._node(0)

    async def examined(self) -> Server:
        """Return what the server says of itself now."""

        async def look() -> Server:
            return await examine(await self._linked().node(0), self._settings)

        return await self._patiently(look)

    def translated(self, error: BaseException) -> BaseException:
        """Return an error in Perdure's words."""
        return translated(error, self._where, self._settings.patience)

    async def _node(self, slot: int) -> Node:
        return await self._patiently(lambda: self._linked().node(slot))

    def _linked(self) -> Link:
        if self._link is None:
            raise StoreUnavailableError(f"{self._settings.url} is not open: await the store's open() first")
        return self._link

    async def _patiently(
        self,
        attempt: Callable[[], Awaitable[T]],
        is_worth_it: Callable[[BaseException], bool] = is_passing,
        patience: float | None = None,
    ) -> T:
        """Make an attempt, and again while that may help and the patience lasts."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._settings.patience if patience is None else patience)
        tried = 0
        while True:
            try:
                return await attempt()
            except (RedisError, PerdureError, OSError) as error:
                if not (is_worth_it(error) or self._is_old_master(error)) or loop.time() >= deadline:
                    raise self.translated(error) from error
                if not _is_busy(error):
                    self.look_again()
            await asyncio.sleep(_pause(tried))
            tried += 1

    def _is_old_master(self, error: BaseException) -> bool:
        """Whether this is the server that the sentinels named a moment ago, and now follows the one they name next."""
        return self._settings.service is not None and isinstance(error, StoreReadOnlyError)

    async def _acknowledged(
        self,
        slot: int,
        call: Command,
        script: Script | None,
        *,
        writes: bool,
        trip: Trip | None = None,
        hints: Sequence[Command] = (),
    ) -> Any:
        """Send a call to the server that has the slot, with what makes sure that it is kept, and its hint behind it."""
        settings = self._settings
        seconds = min(ANSWER_SECONDS, max(settings.patience, _SHORTEST_ANSWER))
        if writes and (settings.fsync or settings.replicas):
            seconds += settings.patience
        node, answers = await self._delivered(slot, call, script, seconds, writes=writes, trip=trip, hints=hints)
        answer, *kept = map(answer_of, answers)
        if kept:
            self._require_kept(node, kept[0])
        return answer

    def _asks_to_keep(self, node: Node, trip: Trip | None) -> list[Command]:
        """Return what makes sure that the write before it is kept.

        A server that syncs always answers when it has, which is sooner than `WAITAOF` does: so it is only asked
        whether it still does. If not, the write has to be made again, which some must not.
        """
        settings = self._settings
        milliseconds = int(settings.patience * 1000) or 1
        if settings.fsync and node.syncs_always and not (trip and trip.is_only_one):
            return [_SYNCING]
        if settings.fsync:
            return [("WAITAOF", 1, 0, milliseconds)]
        return [("WAIT", settings.replicas, milliseconds)] if settings.replicas else []

    def _require_kept(self, node: Node, kept: Any) -> None:
        settings = self._settings
        if settings.fsync and isinstance(kept[0], bytes):
            node.syncs_always = dict(zip(kept[::2], kept[1::2], strict=True)) == _ALWAYS
            if not node.syncs_always:
                raise ConnectionError(f"{self._where} was told to sync no longer before it answers")
        elif settings.fsync and kept[0] < 1:
            raise StoreUnavailableError(
                f"{self._where} did not say within {settings.patience:g} s that the write is on its disk; it may "
                "or may not be kept: look at the server's disk"
            )
        elif settings.replicas and kept < settings.replicas:
            raise StoreUnavailableError(
                f"{self._where}: {kept} of {settings.replicas} replicas had the write within {settings.patience:g} s; "
                "it may or may not be kept: look at the replicas"
            )

    async def _delivered(
        self,
        slot: int,
        call: Command,
        script: Script | None,
        seconds: float,
        *,
        writes: bool,
        trip: Trip | None,
        hints: Sequence[Command],
    ) -> tuple[Node, list[Any]]:
        """Send a call to the server that has the slot, and to where it sends us, with what makes sure it is kept."""
        link = self._linked()
        node, first = await link.node(slot), list[Command]()
        for _ in range(_REDIRECTIONS):
            self._where = str(node.address)
            try:
                if not node.is_known:
                    await examine(node, self._settings)
                commands = [call, *(self._asks_to_keep(node, trip) if writes else ())]
                sent = [each for command in commands for each in (*first, command)]
                told = await node.send([*sent, *hints], seconds, trip)
                answers = told[len(first) : len(sent) : 1 + len(first)]
            except (RedisError, OSError) as error:
                if trip is not None and isinstance(error, BusyLoadingError):
                    trip.is_out = False
                if is_out_of_reach(error):
                    await node.lose()
                raise
            answer = answers[0]
            if isinstance(answer, MovedError):
                await link.moved(answer, node.address)
                node, first = await link.node(slot), []
            elif isinstance(answer, AskError):
                node, first = link.at(Address(answer.host or node.address.host, answer.port)), [("ASKING",)]
            elif is_of_replica(answer):
                await node.lose()  # its name may lead to another server by now
                raise answer
            elif isinstance(answer, NoScriptError) and script is not None:
                answer_of((await node.send([("SCRIPT", "LOAD", script.text)]))[0])
            else:
                return node, answers
        raise StoreUnavailableError(f"{self._where}: the nodes send each other's calls in circles: try again")


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, TryAgainError) or "BUSY " in str(error)


def _pause(tried: int) -> float:
    """Return how many seconds to wait before the next attempt: longer each time, and not all processes alike."""
    pause: float = min(_FIRST_PAUSE * 1.6 ** min(tried, 20), _LONGEST_PAUSE)
    return pause * (0.5 + (os.getpid() * 0.7548776662 + tried * 0.5698402910) % 1)
