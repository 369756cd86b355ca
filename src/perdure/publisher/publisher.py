"""The publisher: messages by a server's message API, awaited or waited for."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Self, Unpack

import msgspec

from perdure.model.duration import Duration
from perdure.model.errors import PublishError, UsageError
from perdure.publisher.answers import LogEntry, Published
from perdure.publisher.asking import Pages, Plan, Request
from perdure.publisher.filters import LogFilter
from perdure.publisher.lines import FlowControls, Groups, Keys, Queues, Schedules
from perdure.publisher.links import AsyncLink, BlockingLink
from perdure.publisher.messages import DeadLetters, Messages, Sent, logs_from
from perdure.publisher.options import Message, Options
from perdure.publisher.settings import Settings
from perdure.publisher.values import segment
from perdure.publisher.verbs import Area, Link, listing, verb
from perdure.publisher.workflows import Workflows

BATCH = 250
"""How many messages of a batch go in one request."""

BATCH_BYTES = 1_000_000
"""How many bytes of a batch go in one request; a message that is longer goes by itself."""


class Verbs(Area[Link]):
    """What a publisher can do."""

    @verb
    def publish(self, url: str, **options: Unpack[Options]) -> Plan[Published]:
        """Publish a message: it is delivered to a URL, at least once, and tried again where that fails.

        Where the server does not answer, it is asked again; that publishes nothing twice.

        Args:
            url: where to.
            options: see `Options`.

        Raises:
            UsageError: an option cannot be. SerializationError: `json` has no JSON form. PublishError: the server
                refuses it, or did not answer in time.
        """
        message = Message(url, **options)
        return (yield from _to_url(self._link.settings.new_id(), message, "/v2/publish/"))

    @verb
    def enqueue(self, queue: str, url: str, **options: Unpack[Options]) -> Plan[Published]:
        """Put a message into a queue, which is made if there is none: they are delivered in their order.

        Args:
            queue: its name.
            url: where to.
            options: see `Options`.

        Raises:
            UsageError: an option cannot be. SerializationError: `json` has no JSON form. PublishError: the server
                refuses it, or did not answer in time.
        """
        message = Message(url, **options)
        path = f"/v2/enqueue/{segment(queue, 'queue')}/"
        return (yield from _to_url(self._link.settings.new_id(), message, path))

    @verb
    def batch(self, messages: Iterable[Message]) -> Plan[list[Published]]:
        """Publish messages, many in one request; of one to a URL group come several.

        Each request publishes all of its messages or none. Where one is refused, those of the requests before it are
        published.

        Args:
            messages: any number; they are read as they are sent.

        Raises:
            UsageError: one cannot be sent in a batch. PublishError: the server refuses one, or did not answer in time;
                `published` has what was published before.
        """
        found: list[Published] = []
        for start, portion in _portions(messages, self._link.settings.new_id):
            content = b"[" + b",".join(item for item, _ in portion) + b"]"
            try:
                answer = yield Request("POST", "/v2/batch", headers=_JSON, content=content)
            except PublishError as error:
                raise _renumbered(error, start, found) from error.__cause__
            sent: list[Sent | list[Sent]] = answer.read_each(Sent | list[Sent], len(portion))
            for index, (each, (_, is_ours)) in enumerate(zip(sent, portion, strict=True), start):
                several = each if isinstance(each, list) else [each]
                found += [one.published(is_ours=is_ours, index=index) for one in several]
        return found

    @listing
    def logs(self, *, cursor: str = "", **chosen: Unpack[LogFilter]) -> Pages[LogEntry]:
        """List what happened to messages, latest first, from a cursor on."""
        return logs_from(cursor, chosen)

    @property
    def messages(self) -> Messages[Link]:
        """Messages that wait, or are being delivered."""
        return Messages(self._link)

    @property
    def groups(self) -> Groups[Link]:
        """URL groups."""
        return Groups(self._link)

    @property
    def queues(self) -> Queues[Link]:
        """Queues of messages."""
        return Queues(self._link)

    @property
    def schedules(self) -> Schedules[Link]:
        """Messages that are published at certain times."""
        return Schedules(self._link)

    @property
    def dlq(self) -> DeadLetters[Link]:
        """Messages and workflow runs that failed for good."""
        return DeadLetters(self._link)

    @property
    def flow_control(self) -> FlowControls[Link]:
        """Flow-control keys."""
        return FlowControls(self._link)

    @property
    def keys(self) -> Keys[Link]:
        """The keys that deliveries are signed with."""
        return Keys(self._link)

    @property
    def workflows(self) -> Workflows[Link]:
        """Runs of workflows that are written with the official workflow SDKs."""
        return Workflows(self._link)


class Publisher(Verbs[AsyncLink]):
    """Publishes messages by a server's message API: Perdure's, or any other that speaks QStash's, version 2.

    Use it as an async context manager, or call `close` at the end; nothing is connected before it is needed. It
    belongs to one event loop at a time.

    Args:
        url: the server's; that of `QSTASH_URL`, or else of `PERDURE_URL`, by default.
        token: or API key; by default that of `QSTASH_TOKEN` for the server of `QSTASH_URL`, and of `PERDURE_API_KEY`
            for that of `PERDURE_URL`, or for any other where that is not set. None, and none in the environment, is for
            a server that asks for none.
        namespace: on a Perdure server that has several.
        timeout: of each part of a request: to connect, to send, to wait for the answer, to get it (a duration).
        patience: for how long after its first failure a request is begun again (a duration).
        ca: a file with the certificates that the server's is checked by.

    Raises:
        UsageError: a setting cannot be.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        namespace: str | None = None,
        timeout: Duration = 30,
        patience: Duration = 15,
        ca: str | Path | None = None,
    ) -> None:
        settings = Settings(url, token, namespace=namespace, timeout=timeout, patience=patience, ca=ca)
        super().__init__(AsyncLink(settings))
        self.blocking = BlockingPublisher(BlockingLink(settings))
        """The same for code that cannot await. It has connections, and an end, of its own; any thread may use it."""

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Publisher({self._link.settings.shown!r})"


class BlockingPublisher(Verbs[BlockingLink]):
    """A publisher for code that cannot await: `Publisher(...).blocking`. Its methods wait."""

    def close(self) -> None:
        """Close every connection."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"BlockingPublisher({self._link.settings.shown!r})"


_JSON = (("Content-Type", "application/json"),)


def _to_url(own_id: str, message: Message, path: str) -> Plan[Published]:
    headers = tuple(message.headers_with(own_id))
    answer = yield Request("POST", f"{path}{message.destination}", headers=headers, content=message.content)
    sent: Sent = answer.read(Sent)
    return sent.published(is_ours=not message.has_own_id)


def _portions(messages: Iterable[Message], new_id: Any) -> Generator[tuple[int, list[tuple[bytes, bool]]]]:
    """Yield the items of each request, with whether their ids are ours; ahead of them the number of the first."""
    start, size = 0, 0
    portion: list[tuple[bytes, bool]] = []
    for number, message in enumerate(messages):
        try:
            item = _item(message, number, new_id())
        except UsageError as error:
            told = f"; the {start} messages before messages[{start}] are published" if start else ""
            raise UsageError(f"{error}{told}") from None
        if portion and (len(portion) == BATCH or size + len(item) > BATCH_BYTES):
            yield start, portion
            start, size, portion = number, 0, []
        portion.append((item, not message.has_own_id))
        size += len(item)
    if portion:
        yield start, portion


def _item(message: Message, number: int, own_id: str) -> bytes:
    if not isinstance(message, Message):
        raise UsageError(f"messages[{number}]: an object of type {type(message).__qualname__}; give a Message")
    try:
        body = message.content.decode()
    except UnicodeDecodeError:
        raise UsageError(f"messages[{number}].body: a batch carries text; publish these bytes by themselves") from None
    item = {"destination": message.destination, "headers": dict(message.headers_with(own_id)), "body": body}
    return msgspec.json.encode(item if message.queue is None else item | {"queue": message.queue})


def _renumbered(error: PublishError, start: int, published: list[Published]) -> PublishError:
    """Return an error of one request as that of the whole batch."""
    field, text = error.field, str(error)
    number, bracket, rest = field.removeprefix("messages[").partition("]")
    if bracket and number.isdecimal():
        field = f"messages[{start + int(number)}]{rest}"
        text = text.replace(error.field, field, 1)
    if published:
        text += f"; the {len(published)} messages before messages[{start}] are published"
    return type(error)(text, error.status, field, published)
