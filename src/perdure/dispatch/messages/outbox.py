"""Publishing: from what is asked for to the runs that are messages, all of them or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from perdure.dispatch.messages.flow_control import FlowControls
from perdure.dispatch.messages.groups import Group, Groups
from perdure.dispatch.messages.lines import Lines
from perdure.dispatch.messages.message import DELIVERY, Message, digest, message_id_of, payload_of
from perdure.dispatch.messages.options import Options, destination, name, read, with_body
from perdure.engine.app import Perdure
from perdure.engine.env import new_id
from perdure.model.errors import PayloadTooLargeError, UsageError
from perdure.model.record import Record
from perdure.model.run import Dedup, NewRun, Retention
from perdure.tasks.addresses import AddressRefusedError, Guard

BATCH = 1_000
"""How many messages one batch may come to, those of URL groups counted."""

WINDOW_MS = 600_000
"""For how many milliseconds a message stands for those of the same deduplication id, or content."""

MESSAGE_BYTES = 1_000_000
"""How long a message may be as it is stored, in bytes of JSON: its URL, headers and body."""

RETENTION = Retention.of("3 days", "30 days", "3 days")
"""How long messages are kept that were delivered, that failed, and that were cancelled."""


class Publication(NamedTuple):
    """Something that is to be published.

    Attributes:
        destination: a URL, or the name of a URL group.
        options: what its headers say.
        body: what is delivered.
        queue: the queue that it is enqueued to; empty for the one that the options name, or none.
    """

    destination: str
    options: Options
    body: bytes = b""
    queue: str = ""


class Outbox:
    """Publishes messages in one namespace.

    Args:
        app: the namespace's engine.
        guard: says which addresses may be delivered to; None lets all pass.
        window: see `WINDOW_MS`.
    """

    def __init__(self, app: Perdure, guard: Guard | None, *, window: int = WINDOW_MS) -> None:
        self._app = app
        self._guard = guard
        self._window = window
        self.groups = Groups(app.store, app.world)
        self.lines = Lines(app)
        self.flows = FlowControls(app)

    async def publish(self, publication: Publication, *, caller_ip: str = "", schedule: str = "") -> Any:
        """Publish one message, or one for each endpoint of a URL group; return QStash's answer: an object, or a list.

        Args:
            publication: what.
            caller_ip: the address of who publishes.
            schedule: the id of the schedule that publishes.

        Raises:
            UsageError: it cannot be published; nothing is.
        """
        runs = self._runs(publication, await self._groups([publication]), caller_ip, schedule)
        messages = [message for message, _ in runs]
        await self._prepare(messages)
        if len(runs) == 1:
            (_, created) = await self._app.client.create(runs[0][1])
            answers = [_answer(messages[0], created.id, created.is_new)]
        else:
            every = await self._app.store.create([run for _, run in runs])
            answers = [_answer(*pair) for pair in _zipped(messages, every)]
        return answers if messages[0].group else answers[0]

    async def publish_each(self, publications: Sequence[Publication], *, caller_ip: str = "") -> list[Any]:
        """Publish several, all or none; return QStash's answer to each, in order.

        Raises:
            UsageError: one of them cannot be published; its number is told.
        """
        if len(publications) > BATCH:
            raise UsageError(f"batch: {len(publications):,} messages, over {BATCH:,} (BATCH)")
        groups = await self._groups(publications, is_batch=True)
        count = sum(
            len(groups[each.destination].endpoints) if each.destination in groups else 1 for each in publications
        )
        if count > BATCH:
            raise UsageError(f"batch: {count:,} messages with those of URL groups, over {BATCH:,} (BATCH)")
        every: list[list[tuple[Message, NewRun]]] = []
        for number, each in enumerate(publications):
            try:
                every.append(self._runs(each, groups, caller_ip, ""))
            except UsageError as error:
                raise type(error)(f"batch[{number}]: {error}") from None
        flat = [pair for pairs in every for pair in pairs]
        await self._prepare([message for message, _ in flat])
        created = iter(await self._app.store.create([run for _, run in flat]) if flat else ())
        answers: list[Any] = []
        for pairs in every:
            made = [next(created) for _ in pairs]
            found = [_answer(*pair) for pair in _zipped([message for message, _ in pairs], made)]
            answers.append(found if pairs[0][0].group else found[0])
        return answers

    async def publish_again(self, dead: Mapping[str, Message]) -> list[dict[str, Any]]:
        """Publish messages anew that failed for good, at once; whoever does so twice does so once.

        Args:
            dead: by the id of the run that failed.

        Raises:
            UsageError: one of them is too long.
        """
        now = self._app.world.now()
        messages = [replace(each, published_at=now, not_before=now) for each in dead.values()]
        ids = [f"msg_{digest(f'{run_id}/again')}" for run_id in dead]
        runs = [replace(self._run(each, now, None), id=new) for new, each in zip(ids, messages, strict=True)]
        await self._prepare(messages)
        await self._app.store.create(runs)
        return [{"messageId": message_id_of(run.id)} for run in runs]

    async def _groups(self, publications: Sequence[Publication], *, is_batch: bool = False) -> dict[str, Group]:
        found: dict[str, Group] = {}
        for number, each in enumerate(publications):
            if "://" not in each.destination and each.destination not in found:
                try:
                    found[each.destination] = await self.groups.get(each.destination)
                except UsageError as error:
                    raise type(error)(f"batch[{number}]: {error}" if is_batch else str(error)) from None
        return found

    async def _prepare(self, messages: Sequence[Message]) -> None:
        """Have the queues be there that messages and callbacks are for, and flow-control keys bound what they say."""
        every = [each for message in messages for each in (message, *_callbacks_of(message))]
        if lines := {message.queue for message in every if message.queue}:
            await self.lines.need(sorted(lines))
        await self.flows.note(every)

    def _runs(
        self, publication: Publication, groups: dict[str, Group], caller_ip: str, schedule: str
    ) -> list[tuple[Message, NewRun]]:
        """Return the messages that a publication comes to, and their runs."""
        given, options = publication, publication.options
        now = self._app.world.now()
        group = groups.get(given.destination)
        targets = [(given.destination, "")] if group is None else [(each.url, each.name) for each in group.endpoints]
        base = replace(
            with_body(options.message, given.body),
            queue=name(given.queue, "queue") if given.queue else options.message.queue,
            group="" if group is None else group.name,
            schedule=schedule,
            caller_ip=caller_ip,
            published_at=now,
            not_before=options.due_at(now),
        )
        self.require_callbacks_permitted(base)
        found = []
        for url, endpoint in targets:
            self.require_permitted(url)
            message = replace(base, url=url, endpoint=endpoint)
            if options.deduplication_id:
                where = "" if group is None else f"{group.name} {url}"
                key = f"{DELIVERY}/{digest(f'{options.deduplication_id}:{where}')}"
            elif options.is_deduplicated_by_content:
                key = f"{DELIVERY}/{options.fingerprint(message)}"
            else:
                key = None
            found.append((message, self._run(message, now, key)))
        return found

    def _run(self, message: Message, now: int, key: str | None) -> NewRun:
        payload = payload_of(message)
        if len(payload.encode()) > min(MESSAGE_BYTES, self._app.settings.limits.payload_bytes):
            raise PayloadTooLargeError(
                f"a message may have {MESSAGE_BYTES:,} bytes of JSON (MESSAGE_BYTES), and this one has "
                f"{len(payload.encode()):,}: send where its body can be fetched"
            )
        made = new_id(self._app.world)
        return NewRun(
            # What has one deduplication key has ids that are alike up to the first `/`.
            id=f"msg_{made}" if key is None else f"msg_{digest(key)}/{made}",
            workflow=DELIVERY,
            created_at=now,
            due_at=max(now, message.not_before),
            records=(Record(0, "input", "input", "ok", now, payload),),
            queue=message.place,
            tags=message.tags(),
            retention=RETENTION if key is None else RETENTION.of_at_least(self._window),
            limit_key=message.limit_key,
            dedup=None if key is None else Dedup(key, now + self._window),
        )

    def require_permitted(self, url: str, message: Message | None = None) -> None:
        """Refuse a destination whose address may not be delivered to, and a message for it with such callbacks.

        Raises:
            UsageError: it may not, or is none.
        """
        host = destination(url).hostname or ""
        if self._guard is not None:
            try:
                self._guard.check_number(host)
            except AddressRefusedError as error:
                raise UsageError(f"invalid destination url: {error}") from None
        if message is not None:
            self.require_callbacks_permitted(message)

    def require_callbacks_permitted(self, message: Message) -> None:
        """Refuse a message whose callbacks, or theirs, go where may not be delivered to.

        Raises:
            UsageError: one does.
        """
        if self._guard is not None:
            for each in _callbacks_of(message):
                try:
                    self.require_permitted(each.url)
                except UsageError as error:
                    raise UsageError(f"callback: {error}") from None


def _callbacks_of(message: Message) -> Iterator[Message]:
    """Give what is said of the messages that will tell of a message, and of those that will tell of them."""
    for callback in (message.callback, message.failure_callback):
        if callback is not None:
            carrier = replace(read(callback.options).message if callback.options else Message(""), url=callback.url)
            yield carrier
            yield from _callbacks_of(carrier)


def _zipped(messages: Sequence[Message], created: Sequence[Any]) -> list[tuple[Message, str, bool]]:
    return [(message, each.id, each.is_new) for message, each in zip(messages, created, strict=True)]


def _answer(message: Message, run_id: str, is_new: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"messageId": message_id_of(run_id)}
    if message.group:
        answer["url"] = message.url
    if not is_new:
        answer["deduplicated"] = True
    return answer
