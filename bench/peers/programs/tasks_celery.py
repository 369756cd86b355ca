"""Celery on Valkey: prefetching and acknowledging early, as it comes; results are ignored."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

import os
from collections.abc import Iterable

from celery import Celery
from done import done

app = Celery("tasks", broker=os.environ["STORE"])
app.conf.update(worker_prefetch_multiplier=64, task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task
def say(number: int) -> None:
    """Do nothing but say so."""
    done(number)


async def prepare() -> None:
    """Nothing."""


async def enqueue(numbers: Iterable[int]) -> None:
    """One message each, over one connection."""
    with app.producer_or_acquire() as producer:
        for number in numbers:
            say.apply_async((number,), producer=producer)
