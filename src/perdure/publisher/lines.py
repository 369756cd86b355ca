"""What messages go through: URL groups, queues, schedules, flow control; and the keys that they are signed with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import msgspec

from perdure.model.duration import Duration
from perdure.model.errors import UsageError
from perdure.publisher.answers import (
    Endpoint,
    FlowControlSummary,
    Group,
    Parallelism,
    Published,
    QueueSummary,
    ScheduleSummary,
    SigningKeys,
)
from perdure.publisher.asking import Plan, Request
from perdure.publisher.messages import Sent
from perdure.publisher.options import Carried, Message, Options, carried, require_known, target
from perdure.publisher.values import destination, period_of, segment, text_of, whole
from perdure.publisher.verbs import Area, Link, verb

_JSON = (("Content-Type", "application/json"),)


class Groups(Area[Link]):
    """URL groups: a message to one goes to each of its endpoints."""

    @verb
    def publish(self, name: str, **options: Unpack[Options]) -> Plan[list[Published]]:
        """Publish a message to each endpoint of a group; see `Publisher.publish`.

        Raises:
            UsageError: an option cannot be. PublishError: the server refuses it; with `status` 404, there is no such
                group.
        """
        message = Message(group=name, **options)
        return (yield from to_group(self._link.settings.new_id(), message, "/v2/publish/"))

    @verb
    def enqueue(self, queue: str, name: str, **options: Unpack[Options]) -> Plan[list[Published]]:
        """Put a message for each endpoint of a group into a queue; see `Publisher.enqueue`."""
        message = Message(group=name, **options)
        return (yield from to_group(self._link.settings.new_id(), message, f"/v2/enqueue/{segment(queue, 'queue')}/"))

    @verb
    def add(self, name: str, endpoints: Iterable[str | Endpoint]) -> Plan[None]:
        """Add endpoints to a group, which is made if there is none; one that is there gets its new name.

        Args:
            name: of the group.
            endpoints: URLs, or URLs with names.
        """
        yield _endpoints("POST", name, endpoints)

    @verb
    def remove(self, name: str, endpoints: Iterable[str | Endpoint]) -> Plan[None]:
        """Remove endpoints from a group, which is gone with its last one; see `add`."""
        yield _endpoints("DELETE", name, endpoints)

    @verb
    def get(self, name: str) -> Plan[Group]:
        """Return a group.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        answer = yield Request("GET", f"/v2/topics/{segment(name, 'name')}")
        found: Group = answer.read(Group)
        return found

    @verb
    def list(self) -> Plan[list[Group]]:
        """Return all groups."""
        answer = yield Request("GET", "/v2/topics")
        found: list[Group] = answer.read(list[Group])
        return found

    @verb
    def delete(self, name: str) -> Plan[None]:
        """Delete a group."""
        yield Request("DELETE", f"/v2/topics/{segment(name, 'name')}")


class Queues(Area[Link]):
    """Queues of messages."""

    @verb
    def set(self, name: str, *, parallelism: int = 1, paused: bool = False) -> Plan[None]:
        """Make a queue, or change it.

        Args:
            name: its name.
            parallelism: how many of its messages are under way at once; one keeps them in order.
            paused: none is begun.
        """
        whole(parallelism, "parallelism", 1)
        said = {"queueName": text_of(name, "name"), "parallelism": parallelism, "paused": paused}
        yield Request("POST", "/v2/queues", headers=_JSON, content=msgspec.json.encode(said))

    @verb
    def get(self, name: str) -> Plan[QueueSummary]:
        """Return how a queue stands.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        answer = yield Request("GET", f"/v2/queues/{segment(name, 'name')}")
        found: QueueSummary = answer.read(QueueSummary)
        return found

    @verb
    def list(self) -> Plan[list[QueueSummary]]:
        """Return all queues."""
        answer = yield Request("GET", "/v2/queues")
        found: list[QueueSummary] = answer.read(list[QueueSummary])
        return found

    @verb
    def delete(self, name: str) -> Plan[None]:
        """Delete a queue, and cancel the messages that are in it."""
        yield Request("DELETE", f"/v2/queues/{segment(name, 'name')}")

    @verb
    def pause(self, name: str) -> Plan[None]:
        """Have no further message of a queue begun."""
        yield Request("POST", f"/v2/queues/{segment(name, 'name')}/pause")

    @verb
    def resume(self, name: str) -> Plan[None]:
        """Have a queue's messages go on."""
        yield Request("POST", f"/v2/queues/{segment(name, 'name')}/resume")


class Schedules(Area[Link]):
    """Messages that are published at certain times."""

    @verb
    def create(
        self,
        url: str | None = None,
        *,
        cron: str,
        tz: str | None = None,
        group: str | None = None,
        queue: str | None = None,
        id: str | None = None,
        **options: Unpack[Carried],
    ) -> Plan[str]:
        """Make a schedule, or, with the id of one, put this one in its place; return its id.

        Args:
            url: where its messages go.
            cron: when, in five fields, as in `"*/5 * * * *"`.
            tz: the time zone of `cron`, as in `"Europe/Paris"`; UTC by default.
            group: the name of a URL group, instead of `url`.
            queue: the queue that its messages are put into.
            id: its id; one is made by default.
            options: see `Carried`.

        Raises:
            UsageError: an option cannot be. PublishError: the server refuses it.
        """
        require_known(options, Carried, "schedules.create")
        where = target(url, group)
        headers, content = carried(options)
        expression = text_of(cron, "cron").strip()
        headers.append(("Upstash-Cron", f"CRON_TZ={text_of(tz, 'tz')} {expression}" if tz else expression))
        # An id of our own has a second request, where the answer to the first is lost, make the same schedule.
        headers.append(
            ("Upstash-Schedule-Id", text_of(id, "id") if id is not None else f"scd_{self._link.settings.new_id()}")
        )
        if queue is not None:
            headers.append(("Upstash-Queue-Name", text_of(queue, "queue")))
        answer = yield Request("POST", f"/v2/schedules/{where}", headers=tuple(headers), content=content)
        made: _Made = answer.read(_Made)
        return made.schedule_id

    @verb
    def get(self, id: str) -> Plan[ScheduleSummary]:
        """Return how a schedule stands.

        Raises:
            PublishError: with `status` 404: there is none.
        """
        answer = yield Request("GET", f"/v2/schedules/{segment(id, 'id')}")
        found: ScheduleSummary = answer.read(ScheduleSummary)
        return found

    @verb
    def list(self) -> Plan[list[ScheduleSummary]]:
        """Return all schedules."""
        answer = yield Request("GET", "/v2/schedules")
        found: list[ScheduleSummary] = answer.read(list[ScheduleSummary])
        return found

    @verb
    def delete(self, id: str) -> Plan[None]:
        """Delete a schedule."""
        yield Request("DELETE", f"/v2/schedules/{segment(id, 'id')}")

    @verb
    def pause(self, id: str) -> Plan[None]:
        """Have a schedule publish nothing until it is resumed."""
        yield Request("PATCH", f"/v2/schedules/{segment(id, 'id')}/pause")

    @verb
    def resume(self, id: str) -> Plan[None]:
        """Have a schedule go on."""
        yield Request("PATCH", f"/v2/schedules/{segment(id, 'id')}/resume")


class FlowControls(Area[Link]):
    """Flow-control keys: the bounds that messages share."""

    @verb
    def get(self, key: str) -> Plan[FlowControlSummary]:
        """Return how a key stands.

        Raises:
            PublishError: with `status` 404: no message ever named it.
        """
        answer = yield Request("GET", _flow(key))
        found: FlowControlSummary = answer.read(FlowControlSummary)
        return found

    @verb
    def list(self, search: str = "") -> Plan[list[FlowControlSummary]]:
        """Return all keys, or those that hold a text."""
        query = (("search", text_of(search, "search")),) if search else ()
        answer = yield Request("GET", "/v2/flowControl", query)
        found: list[FlowControlSummary] = answer.read(list[FlowControlSummary])
        return found

    @verb
    def total(self) -> Plan[Parallelism]:
        """Return how many messages may be under way at once, of all keys and none, and are."""
        answer = yield Request("GET", "/v2/globalParallelism")
        found: Parallelism = answer.read(Parallelism)
        return found

    @verb
    def pause(self, key: str) -> Plan[None]:
        """Have no further message of a key begun."""
        yield Request("POST", f"{_flow(key)}/pause")

    @verb
    def resume(self, key: str) -> Plan[None]:
        """Have a key's messages go on."""
        yield Request("POST", f"{_flow(key)}/resume")

    @verb
    def pin(
        self, key: str, *, parallelism: int | None = None, rate: int | None = None, per: Duration = 1
    ) -> Plan[None]:
        """Bound a key, whatever messages say of it from now on.

        Args:
            key: which.
            parallelism: how many are under way at once; None leaves that as it is.
            rate: how many are begun per period; None leaves that as it is.
            per: the period (a duration of whole seconds).

        Raises:
            UsageError: nothing is bounded, or a number cannot be.
        """
        if parallelism is None and rate is None:
            raise UsageError("parallelism: give parallelism, rate or both")
        query = [] if parallelism is None else [("parallelism", str(whole(parallelism, "parallelism", 1)))]
        if rate is not None:
            query += [("rate", str(whole(rate, "rate", 1))), ("period", str(period_of(per, "per")))]
        yield Request("POST", f"{_flow(key)}/pin", tuple(query))

    @verb
    def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> Plan[None]:
        """Have what messages say of a key count again: of its parallelism, of its rate, or of both."""
        chosen = (("parallelism", parallelism), ("rate", rate))
        yield Request("POST", f"{_flow(key)}/unpin", tuple((name, "true") for name, is_chosen in chosen if is_chosen))

    @verb
    def reset_rate(self, key: str) -> Plan[None]:
        """Begin a key's period anew, with nothing begun in it."""
        yield Request("POST", f"{_flow(key)}/resetRate")


class Keys(Area[Link]):
    """The keys that deliveries are signed with."""

    @verb
    def get(self) -> Plan[SigningKeys]:
        """Return the keys."""
        answer = yield Request("GET", "/v2/keys")
        found: SigningKeys = answer.read(SigningKeys)
        return found

    @verb
    def rotate(self) -> Plan[SigningKeys]:
        """Have the next key be the current one, and make another next one.

        It is asked for once: where the answer is lost, look with `get` which keys there are.
        """
        answer = yield Request("POST", "/v2/keys/rotate", may_repeat=False)
        found: SigningKeys = answer.read(SigningKeys)
        return found


def to_group(own_id: str, message: Message, path: str) -> Plan[list[Published]]:
    """Publish a message to a group; return one for each endpoint.

    Args:
        own_id: what it is not to be published twice as, unless it says so itself.
        message: it.
        path: what the request's begins with.
    """
    headers = tuple(message.headers_with(own_id))
    where = segment(message.destination, "group")
    answer = yield Request("POST", f"{path}{where}", headers=headers, content=message.content)
    sent: list[Sent] = answer.read(list[Sent])
    return [each.published(is_ours=not message.has_own_id) for each in sent]


class _Made(msgspec.Struct, frozen=True, rename="camel"):
    schedule_id: str


def _flow(key: str) -> str:
    return f"/v2/flowControl/{segment(key, 'key')}"


def _endpoints(method: str, name: str, endpoints: Iterable[str | Endpoint]) -> Request:
    if isinstance(endpoints, str):
        raise UsageError(f"endpoints: {endpoints[:80]!r} is one; give a list")
    said: Sequence[Any] = [
        Endpoint(destination(each.url, "endpoints"), each.name)
        if isinstance(each, Endpoint)
        else Endpoint(destination(each, "endpoints"))
        for each in endpoints
    ]
    path = f"/v2/topics/{segment(name, 'name')}/endpoints"
    return Request(method, path, headers=_JSON, content=msgspec.json.encode({"endpoints": said}))
