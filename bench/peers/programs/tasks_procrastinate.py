"""Procrastinate on PostgreSQL."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

import os
from collections.abc import Sequence

import procrastinate
from done import done

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["STORE"], min_size=4, max_size=20),
    import_paths=["tasks_procrastinate"],
)


@app.task(name="say")
async def say(number: int) -> None:
    """Do nothing but say so."""
    done(number)


async def prepare() -> None:
    """Connect, and make the tables unless they are there."""
    await app.open_async()


async def enqueue(numbers: Sequence[int]) -> None:
    """Five hundred with one call."""
    for first in range(0, len(numbers), 500):
        await say.batch_defer_async(*[{"number": number} for number in numbers[first : first + 500]])
