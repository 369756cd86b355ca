"""A step that a test holds and lets go."""

from __future__ import annotations

import asyncio


class Gate:
    """A step that is held until the test lets it go, and counts."""

    def __init__(self, app):
        self.begun, self.ended, self.stopped = [], [], []
        self.open = asyncio.Event()

        @app.step(name="held")
        async def held(n: int) -> int:
            self.begun.append(n)
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.stopped.append(n)
                raise
            self.ended.append(n)
            return n

        self.step = held
