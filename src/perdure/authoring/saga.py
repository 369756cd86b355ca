"""Parts of a run that are undone by themselves, and the place behind which there is no way back."""

from __future__ import annotations

from types import TracebackType

from perdure.authoring.context import replay_or_raise
from perdure.core.saga import Saga, Scope


class SagaBlock:
    """What `flow.saga()` returns: an asynchronous context manager, for one use."""

    def __init__(self) -> None:
        self._saga: Saga = replay_or_raise("flow.saga").begin_saga()
        self._scope: Scope | None = None

    async def __aenter__(self) -> None:
        self._scope = self._saga.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._scope is not None
        if not isinstance(error, GeneratorExit):  # with that one, code is dropped that nothing can be waited for in
            await self._saga.leave(self._scope, is_failed=error is not None)
