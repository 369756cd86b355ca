"""The workflow protocol of one namespace: what is taken in, what waits, what is shown and moved, and what works it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from perdure.dispatch.messages.message import Message, digest
from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.upstash.driving import Programs
from perdure.dispatch.upstash.intake import Intake
from perdure.dispatch.upstash.reading import Reading, WantedRuns
from perdure.dispatch.upstash.showing import STARTED, STATES, Shown
from perdure.dispatch.upstash.submission import WORKFLOW, failure_id_of
from perdure.dispatch.upstash.waiting import Waiting
from perdure.engine.app import Perdure
from perdure.model.decision import Action
from perdure.model.errors import RunFinishedError, UsageError
from perdure.model.run import RunStatus

MOVED = 50
"""How many dead letters one call takes up again at most."""

CANCELLED = 1_000
"""How many runs one call cancels at most."""

DEAD = (RunStatus.ERRORED,)


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
        self.programs = Programs(messages.sender.send, messages.workflow, app.store)
        self._app = app
        self._messages = messages

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
        # First those that count once however often they come: where one is refused, all may be sent again.
        taken = iter(await self.intake.take_each(theirs, caller_ip=caller_ip))
        published = iter(await self._messages.publish_each(plain, caller_ip=caller_ip) if plain else ())
        return [next(taken) if is_ours else next(published) for is_ours in ours]

    async def cancel(self, run_ids: Sequence[str]) -> int:
        """Cancel runs that go on, whatever they are doing; return how many there were."""
        wanted = list(dict.fromkeys(run_ids))
        found = await self._app.store.get(wanted) if wanted else []
        ids = [run.id for run in found if run is not None and run.workflow == WORKFLOW and not run.status.is_finished]
        await self._app.client.control_each(ids, Action.TERMINATE)
        return len(ids)

    async def cancel_meant(self, wanted: WantedRuns, most: int) -> int:
        """Cancel runs that go on and are meant, at most so many; return how many there were."""
        ids = [shown.run.id async for shown in self.reading.each(wanted, STATES[STARTED], min(most, CANCELLED))]
        return await self.cancel(ids)

    async def discard(self, wanted: WantedRuns, most: int) -> int:
        """Forget runs that failed; return how many there were."""
        ids = [shown.run.id async for shown in self.reading.each(wanted, DEAD, most)]
        await self._discard(ids)
        return len(ids)

    async def again(
        self, wanted: WantedRuns, most: int, change: Callable[[Message], Message], *, resumes: bool
    ) -> list[dict[str, Any]]:
        """Begin new runs in the place of ones that failed; return their ids, and when they were created.

        Args:
            wanted: which.
            most: how many at most.
            change: gives what is to trigger them in the place of what triggered those.
            resumes: they take up what those had come to, rather than begin at the beginning.
        """
        answers = []
        async for shown in self.reading.each(wanted, DEAD, min(most, MOVED)):
            trigger = shown.ledger.trigger
            entries = [noted.entry for noted in shown.ledger.entries] if resumes else trigger.entries[:1]
            # The id follows from that of the run that failed, so that whoever asks twice begins one.
            run_id = f"wfr_{digest(f'{shown.run.id} {shown.run.created_at} {shown.run.incarnation}')}"
            message = replace(change(trigger.message), url=trigger.message.url, not_before=0)
            created_at = await self.intake.begin(run_id, replace(trigger, message=message, entries=entries))
            answers.append({"workflowRunId": run_id, "workflowCreatedAt": created_at})
            await self._discard([shown.run.id])
        return answers

    async def tell_again(self, run_id: str) -> dict[str, Any]:
        """Have the failure of a run be told of once more, as that failed; return the run's id and creation.

        Raises:
            UsageError: nobody was to be told of it, or that has not failed.
        """
        shown = await self._told_of(run_id)
        if shown.callback_state != "CALLBACK_FAIL":
            raise UsageError(f"the failure callback of {run_id!r} has not failed")
        await self._app.client.control(failure_id_of(shown.run), Action.RESTART)
        await self._messages.tell()
        return {"workflowRunId": run_id, "workflowCreatedAt": shown.run.created_at}

    async def tell_no_more(self, run_id: str) -> None:
        """Have nobody be told of the failure of a run, unless that has happened.

        Raises:
            UsageError: nobody was to be told of it, or is any more.
        """
        shown = await self._told_of(run_id)
        try:
            await self._app.client.control(failure_id_of(shown.run), Action.TERMINATE)
        except RunFinishedError:
            raise UsageError(f"the failure callback of {run_id!r} is over") from None

    async def _told_of(self, run_id: str) -> Shown:
        shown = await self.reading.one(run_id)
        if shown is None or shown.told is None:
            raise UsageError(f"{run_id!r} is no failed workflow run with a failure callback")
        return shown

    async def _discard(self, run_ids: Sequence[str]) -> None:
        if run_ids:
            await self._app.client.control_each(run_ids, Action.DISCARD)
            await self._app.store.prune(self._app.world.now(), len(run_ids))  # housekeeping removes what is left
