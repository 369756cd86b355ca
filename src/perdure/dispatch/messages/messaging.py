"""The messages of one namespace, as its dispatcher has them: published, delivered, looked at and moved.

Nothing of it costs anything until a message is published for the first time; from then on a document says so to every
server of the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

from perdure.dispatch.messages.delivery import delivery_workflow, run_now
from perdure.dispatch.messages.documents import Kept
from perdure.dispatch.messages.lines import UnknownQueueError
from perdure.dispatch.messages.message import FLOWS, QUEUE, QUEUES, UNENDED, Message, Rests, message_of
from perdure.dispatch.messages.options import Options
from perdure.dispatch.messages.outbox import Outbox, Publication
from perdure.dispatch.messages.plans import Plans, publishing_workflow
from perdure.dispatch.messages.reading import Reading, Wanted
from perdure.dispatch.messages.sending import Sender
from perdure.dispatch.signing import SigningKeys
from perdure.engine.app import Perdure
from perdure.model.decision import Action
from perdure.model.errors import RunFinishedError, RunNotFoundError, UsageError
from perdure.model.run import RunStatus
from perdure.tasks.addresses import Guard

COLLECTION = "messages"
"""The collection of the one document that says that messages were published, under `began`."""


MOVED = 10_000
"""How many messages one call cancels, forgets or publishes anew."""

AT_ONCE = 100
"""How many are published anew in one store operation."""

DEAD = (RunStatus.ERRORED,)


class Messaging:
    """The messages of one namespace.

    Args:
        app: the namespace's engine.
        keys: gives what attempts are signed with.
        changed: called when there may be more queues to serve.
        wake: called when there may be due messages.
        guard: says which addresses may be delivered to; None lets all pass.
        rests: has a message of a queue take no place in the worker while it waits.

    Attributes:
        outbox: publishes.
        sender: makes attempts.
        reading: looks at messages.
        plans: schedules of messages.
        workflow: the runs of which are messages.
        workflows: all that its worker works, that one among them.
    """

    def __init__(
        self,
        app: Perdure,
        keys: Callable[[], Awaitable[SigningKeys]],
        changed: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
        guard: Guard | None,
        rests: Rests = nullcontext,
    ) -> None:
        self._app = app
        self._changed = changed
        self._wake = wake
        self._began = Kept(app.store, app.world, COLLECTION, int)
        self._has_begun = False
        self._stopping = asyncio.Event()
        self._served: frozenset[str] = frozenset()
        self.outbox = Outbox(app, guard)
        self.sender = Sender(app.world, keys, guard, rests=rests)
        self.reading = Reading(app.store, app.world.now)
        self.workflow = delivery_workflow(self.sender.send, app.world, self._stopping, rests)
        publishing = publishing_workflow(self._publish_planned)
        self.plans = Plans(app, publishing)
        self.workflows = (self.workflow, publishing)

    async def queues(self) -> list[str]:
        """Return the queues of messages, by name: none before any was published."""
        if not self._has_begun:
            (began,) = await self._began.read("began")
            self._has_begun = began is not None
        if not self._has_begun:
            return []
        states = await self._app.store.queues()
        found = [QUEUE, FLOWS, *(state.name for state in states if state.name.startswith(QUEUES))]
        self._served = frozenset(found)
        return found

    async def publish(self, publication: Publication, *, caller_ip: str = "", schedule: str = "") -> Any:
        """Publish; see `Outbox.publish`."""
        await self.begin()
        answer = await self.outbox.publish(publication, caller_ip=caller_ip, schedule=schedule)
        await self.tell()
        return answer

    async def publish_each(self, publications: Sequence[Publication], *, caller_ip: str = "") -> list[Any]:
        """Publish several, all or none; see `Outbox.publish_each`."""
        await self.begin()
        answers = await self.outbox.publish_each(publications, caller_ip=caller_ip)
        await self.tell()
        return answers

    async def schedule(self, target: str, options: Options, *, caller_ip: str = "") -> str:
        """Make a schedule; see `Plans.put`. Where it may not go to is told now, rather than at each fire."""
        if "://" in target:
            self.outbox.require_permitted(target)
        self.outbox.require_callbacks_permitted(options.message)
        await self.begin()
        made = await self.plans.put(target, options, caller_ip=caller_ip)
        await self.tell()
        return made

    async def cancel(self, wanted: Wanted, most: int = MOVED) -> int:
        """Cancel messages that are not delivered yet, also while that is under way; return how many there were.

        Args:
            wanted: which.
            most: how many at most; call again for the rest.
        """
        ids = [run.id async for run in self.reading.each(wanted, UNENDED, most)]
        await self._app.client.control_each(ids, Action.TERMINATE)
        return len(ids)

    async def delete_queue(self, line: str) -> int:
        """Cancel what is in a queue, and forget it; return how many messages that were. One not there is none.

        Raises:
            UsageError: the name is none.
        """
        lines = self.outbox.lines
        with contextlib.suppress(UnknownQueueError):
            await lines.set_paused(line, True)  # what was cancelled makes no room meanwhile
            cancelled = 0
            while count := await self.cancel(Wanted(queues=(line,))):
                cancelled += count
            await lines.delete(line)
            return cancelled
        return 0

    async def run_now(self, message_id: str) -> bool:
        """Have a message that waits for its time be delivered at once; return whether there is one.

        Raises:
            UsageError: it is in a queue, where it has its turn.
        """
        delivery = await self.reading.one(message_id)
        if delivery is None:
            return False
        if delivery.message.queue:
            raise UsageError(f"message {message_id!r} is in a queue, and has its turn there")
        run = delivery.run
        is_waiting = run.status in (RunStatus.QUEUED, RunStatus.WAITING)
        if not is_waiting or run.due_at is None or run.due_at <= self._app.world.now():
            return False
        kind = run_now(len(delivery.attempts))
        try:
            await self._app.client.send_event(run.id, kind, None, kind)
        except (RunNotFoundError, RunFinishedError):
            return False
        self._wake()
        return True

    async def discard_dead(self, wanted: Wanted, most: int = MOVED) -> int:
        """Forget messages that failed for good; return how many there were."""
        runs = [run async for run in self.reading.each(wanted, DEAD, most)]
        await self._discard([run.id for run in runs])
        return len(runs)

    async def retry_dead(
        self, wanted: Wanted, most: int = MOVED, change: Callable[[Message], Message] = lambda message: message
    ) -> list[dict[str, Any]]:
        """Publish messages anew that failed for good, as new messages; return their ids, as QStash answers.

        Args:
            wanted: which.
            most: how many at most; call again for the rest.
            change: gives what is to be published in place of each.
        """
        await self.begin()
        runs = [run async for run in self.reading.each(wanted, DEAD, most)]
        answers: list[dict[str, Any]] = []
        for first in range(0, len(runs), AT_ONCE):
            dead = {}
            for run in runs[first : first + AT_ONCE]:
                (given,) = await self._app.store.journal(run.id, -1, 1)
                dead[run.id] = change(message_of(given.payload or ""))
            answers += await self.outbox.publish_again(dead)
            await self._discard(list(dead))
        await self.tell()
        return answers

    def stop(self) -> None:
        """Have no message wait here for its next attempt; to be called before the worker stops."""
        self._stopping.set()

    async def close(self) -> None:
        """Let go of all connections."""
        await self.sender.close()

    async def _publish_planned(self, publication: Publication, caller_ip: str, schedule: str) -> Any:
        return await self.publish(publication, caller_ip=caller_ip, schedule=schedule)

    async def begin(self) -> None:
        """Have every server know that there are messages, before there is one."""
        if not self._has_begun:
            now = self._app.world.now()
            await self._began.change("began", lambda was: now if was is None else was)
            self._has_begun = True

    async def tell(self) -> None:
        """Have what was published be delivered at once, where this server does so."""
        if not self._served >= self.outbox.lines.known:
            await self._changed()
        self._wake()

    async def _discard(self, run_ids: Sequence[str]) -> None:
        if run_ids:
            await self._app.client.control_each(run_ids, Action.DISCARD)
            await self._app.store.prune(self._app.world.now(), len(run_ids))  # housekeeping removes what is left
