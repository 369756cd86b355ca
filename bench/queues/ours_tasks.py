"""The task that does nothing, as users write it, for `bench.queues`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from perdure import Perdure
from perdure.engine.settings import Mode

sys.path.insert(0, str(Path(__file__).parents[1] / "peers" / "programs"))

from done import done  # type: ignore[import-not-found]


def application(mode: Mode) -> Perdure:
    """Return an application with the task `say`."""
    app = Perdure(os.environ["STORE"], mode=mode)

    @app.task
    async def say(number: int) -> None:
        """Do nothing but say so."""
        done(number)

    return app
