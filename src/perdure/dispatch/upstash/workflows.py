"""The workflow protocol of one namespace: what is taken in, what waits, what is shown, and what works it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.upstash.driving import Programs
from perdure.dispatch.upstash.intake import Intake
from perdure.dispatch.upstash.reading import Reading
from perdure.dispatch.upstash.submission import WORKFLOW
from perdure.dispatch.upstash.waiting import Waiting
from perdure.engine.app import Perdure
from perdure.model.decision import Action


class Workflows:
    """See the module's text.

    Args:
        app: the namespace's engine.
        messages: its messages.
        told: called with the ids of runs that there are events for.

    Attributes:
        intake: takes in what is handed in.
        waiting: the waits for notifications.
        reading: looks at runs.
        programs: what a worker needs.
    """

    def __init__(self, app: Perdure, messages: Messaging, told: Callable[[list[str]], None]) -> None:
        self.intake = Intake(app, messages, told)
        self.waiting = Waiting(app, self.intake)
        self.reading = Reading(app)
        self._app = app
        self._messages = messages
        self.programs = Programs(messages.sender.send, messages.workflow, app.store)

    async def publish_each(self, publications: Sequence[Publication], *, caller_ip: str = "") -> list[Any]:
        """Publish messages, of which each may be one of the protocol; return QStash's answer to each, in order.

        Raises:
            UsageError: one of them cannot be published, or is not taken in.
        """
        ours = [self.intake.is_meant(each.options) for each in publications]
        if not any(ours):
            return await self._messages.publish_each(publications, caller_ip=caller_ip)
        plain = [each for each, is_ours in zip(publications, ours, strict=True) if not is_ours]
        theirs = [each for each, is_ours in zip(publications, ours, strict=True) if is_ours]
        published = iter(await self._messages.publish_each(plain, caller_ip=caller_ip) if plain else ())
        taken = iter(await self.intake.take_each(theirs, caller_ip=caller_ip))
        return [next(taken) if is_ours else next(published) for is_ours in ours]

    async def cancel(self, run_ids: Sequence[str]) -> int:
        """Cancel runs that go on, whatever they are doing; return how many there were."""
        wanted = list(dict.fromkeys(run_ids))
        found = await self._app.store.get(wanted) if wanted else []
        ids = [run.id for run in found if run is not None and run.workflow == WORKFLOW and not run.status.is_finished]
        await self._app.client.control_each(ids, Action.TERMINATE)
        return len(ids)
