"""Runs of one workflow under the names that Cloudflare-style engines have: `create`, `create_batch`, `get`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from perdure.engine.client.handle import RunHandle
from perdure.model.duration import Duration
from perdure.model.errors import BatchTooLargeError, UsageError
from perdure.model.limits import CREATE_BATCH
from perdure.model.run import Retention

if TYPE_CHECKING:
    from perdure.authoring.workflow import Workflow
    from perdure.engine.app import Perdure

ParamsT = TypeVar("ParamsT")

_FIELDS = {"id", "params", "retention"}


class EntrypointRuns(Generic[ParamsT]):
    """The runs of a class entrypoint; `engine.register` returns it.

    Attributes:
        workflow: the workflow whose runs they are.
    """

    def __init__(self, app: Perdure, workflow: Workflow[..., Any]) -> None:
        self.workflow = workflow
        self._app = app

    async def create(
        self,
        *,
        id: str | None = None,
        params: ParamsT | None = None,
        retention: Retention | Duration | None = None,
        tx: Any = None,
    ) -> RunHandle[Any]:
        """Create a run and start it.

        Args:
            id: of the run; None for a new one. A second `create` of the same id and params finds the first run.
            params: what its `event.payload` is.
            retention: how long it is kept after it ended: a `Retention`, or a duration for every outcome.
            tx: a connection in whose open transaction it is created; see `Perdure.start`.

        Raises:
            RunExistsError: the id belongs to a run with other params. SerializationError: they cannot be stored.
        """
        return await self._app.start(self.workflow, params, id=id, retention=_retention(retention), tx=tx)

    async def create_batch(self, batch: Sequence[Mapping[str, Any]], *, tx: Any = None) -> list[RunHandle[Any]]:
        """Create up to 100 runs in one go.

        Args:
            batch: for each run the arguments of `create`.
            tx: a connection in whose open transaction they are created; see `Perdure.start`.

        Raises:
            BatchTooLargeError: more than 100. UsageError: an entry has an unknown field.
        """
        if len(batch) > CREATE_BATCH:
            raise BatchTooLargeError(
                f"create_batch takes {CREATE_BATCH} runs in one call, not {len(batch)}; cut the list"
            )
        for index, entry in enumerate(batch):
            if unknown := set(entry) - _FIELDS:
                raise UsageError(f"batch[{index}]: unknown field {min(unknown)!r}; known: {', '.join(sorted(_FIELDS))}")
        return await self._app.start_each(
            (
                self.workflow,
                (entry.get("params"),),
                {"id": entry.get("id"), "retention": _retention(entry.get("retention")), "tx": tx},
            )
            for entry in batch
        )

    async def get(self, id: str) -> RunHandle[Any]:
        """Return a run.

        Raises:
            RunNotFoundError: there is none of that id.
        """
        run = self._app.run(id, self.workflow)
        await run.get()
        return run


def _retention(value: Retention | Duration | None) -> Retention | None:
    if value is None or isinstance(value, Retention):
        return value
    return Retention.of(value, value, value)
