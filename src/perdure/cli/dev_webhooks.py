"""The webhooks that come in for an application that is being written, taken anew with each worker of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from structlog.stdlib import BoundLogger

from perdure.cli.loading import load_app_anew
from perdure.cli.supervisor import Process
from perdure.model.errors import UsageError


class Webhooks:
    """See the module.

    Args:
        target: names the application.
        folder: where its files are.
        hooks: the server's webhooks, `perdure.server.hooks.Hooks`.
        log: where to say what happens.

    Attributes:
        url: of the server.
    """

    def __init__(self, target: str, folder: Path, hooks: Any, log: BoundLogger) -> None:
        self.url = ""
        self._target = target
        self._folder = folder
        self._hooks = hooks
        self._log = log
        self._turn = asyncio.Lock()
        self._taking: asyncio.Task[None] | None = None

    def began(self, process: Process) -> None:
        """Take the webhooks of an application that a worker has begun to work, so it can be imported."""
        if self._hooks.paths or (process.working or {}).get("webhooks"):
            self._taking = asyncio.get_running_loop().create_task(self._take())

    async def _take(self) -> None:
        async with self._turn:
            try:
                self._hooks.take(await asyncio.to_thread(load_app_anew, self._target, self._folder))
            except UsageError as error:
                self._log.error(f"the webhooks are as they were: {error}")
                return
            for path in sorted(self._hooks.paths):
                self._log.info("webhooks come in", url=f"{self.url}{path}")
