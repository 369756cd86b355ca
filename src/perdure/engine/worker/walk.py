"""A worker's way through a queue with limits: some limit keys at a time, so that other queues have their turn."""

from __future__ import annotations

from perdure.core.admission import Choice
from perdure.model.queue import QueueView

KEYS_AT_ONCE = 64
"""How many limit keys of a gated queue one look takes in, and how many runs of each at most."""

TRIES = 8
"""How often in a row others may get ahead of this worker in a gated queue before it comes back later."""

OUTRUN_CHECK = 0.1
"""After how many seconds it then comes back."""


class Walk:
    """How far a worker has come in a gated queue, from limit key to limit key, since it last began something of it.

    Attributes:
        start: behind which key it set out; None for the first.
        after: behind which it is now.
        has_wrapped: it has come by the first.
        is_over: it has come by all of them.
        is_full, again_at: what was said of those, see `Choice`.
        outrun: how often others got ahead of the worker.
    """

    def __init__(self, start: str | None = None) -> None:
        self.start = self.after = start
        self.has_wrapped = start is None
        self.is_over = self.is_full = False
        self.again_at: int | None = None
        self.outrun = 0

    def gone_on(self, view: QueueView, choice: Choice) -> Walk:
        """Return the walk after a look; what was begun begins another one."""
        if choice.admission is not None:
            other = Walk(choice.after)
            other.is_full = choice.is_full
            return other
        self.is_over = self.has_wrapped and view.last_key is None
        self.after, self.has_wrapped = view.last_key, self.has_wrapped or view.last_key is None
        self.is_full = self.is_full or choice.is_full
        self.again_at = min((at for at in (self.again_at, choice.again_at) if at is not None), default=None)
        return self


def is_at_its_limit(view: QueueView, choice: Choice) -> bool:
    """Return whether a queue takes no more, of whichever limit key."""
    most = view.state.limits.concurrency
    begun = 0 if choice.admission is None else len(choice.admission.run_ids)
    return most is not None and sum(view.admitted.values()) + begun >= most
