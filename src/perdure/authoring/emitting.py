"""`flow.emit`: events that workflow code and steps give off."""

from __future__ import annotations

from perdure.authoring.context import step_or_raise
from perdure.authoring.step import perform, step_spec
from perdure.core.loop import running


async def emit_event(type: str, payload: object = None, *, id: str | None = None) -> list[str]:
    """Start every workflow that is subscribed to an event, with `app.on`, and return the ids of their runs.

    In workflow code this is a step, `emit`; in a step it happens at once. Either way an attempt that is repeated starts
    nothing anew, as long as it gives off the same events in the same order.

    Args:
        type: the event's type.
        payload: anything that can be stored; it becomes the one argument of each workflow.
        id: to tell a repeated event by; by default it is made of the run, the step and the place in it.

    Raises:
        UsageError: a condition cannot be looked at, or is in the code of another application only.
        StepError: in workflow code, if it came to nothing otherwise.
    """
    if running() is not None:
        return list(await perform(_SPEC, (type, payload, id), {}))
    return await _emit(type, payload, id)


async def _emit(type: str, payload: object, id: str | None) -> list[str]:
    step = step_or_raise("flow.emit")
    started = await step.client.emit(type, payload, id or step.event_id())
    return [ending.run_id for _, ending in started]


_SPEC = step_spec(_emit, name="emit")
