"""What operators do to runs, told of in the transaction that does it.

Which runs end with another one only the store knows. So an action says for which runs it has deliveries; if others
would end too, the store does nothing and names those, and the action is tried again with theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from perdure.engine.lifecycle import Lifecycle, LifecycleEvent
from perdure.model import failure
from perdure.model.decision import Action, Control, Controlled
from perdure.model.errors import RunTerminatedError
from perdure.model.run import NewRun
from perdure.store.contract import Store

TRIES = 20
"""How often in a row more runs may have come into being below one, before it is ended and told of afterwards."""

TOLD_AT_ONCE = 1_000
"""How many runs end with one that are told of in its transaction; where there are more, all are afterwards."""

Ask = Callable[[Control], Awaitable[Controlled]]


async def act(run_id: str, action: Action, ask: Ask, store: Store, lifecycle: Lifecycle | None) -> Controlled:
    """Do an action, and tell of the runs that it ends.

    Args:
        run_id, action: what to do.
        ask: asks the store to do it.
        store: where the runs are.
        lifecycle: who is told; None for nobody.
    """
    control = _control(run_id, action)
    if lifecycle is None or not lifecycle.hears_of_ends or action not in (Action.TERMINATE, Action.RESTART):
        return await ask(control)
    ending: Sequence[str] = (run_id,)
    events: dict[str, LifecycleEvent | None] = {}
    for _ in range(TRIES):
        found = await store.get(ending)
        events |= {each: lifecycle.ending(run) for each, run in zip(ending, found, strict=True)}
        done = await ask(replace(control, told={each: _news(lifecycle, event) for each, event in events.items()}))
        ending = done.untold
        if not ending:
            for event in map(events.get, done.ended):
                if event is not None:
                    lifecycle.observe(event)
            return done
        if len(events) + len(ending) > TOLD_AT_ONCE:
            break
    done = await ask(control)
    lifecycle.terminated(store, done.ended)
    return done


def _news(lifecycle: Lifecycle, event: LifecycleEvent | None) -> tuple[NewRun, ...]:
    return () if event is None else tuple(lifecycle.deliveries(event))


def _control(run_id: str, action: Action) -> Control:
    if action is not Action.TERMINATE:
        return Control(run_id, action)
    error = RunTerminatedError(f"run {run_id!r} was terminated")
    return Control(run_id, action, failure.encode_error(failure.describe(error)))
