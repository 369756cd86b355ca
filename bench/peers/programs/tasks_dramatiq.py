"""Dramatiq on Valkey."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

import os
from collections.abc import Iterable

import dramatiq
from done import done
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["STORE"]))


@dramatiq.actor
def say(number: int) -> None:
    """Do nothing but say so."""
    done(number)


async def prepare() -> None:
    """Nothing."""


async def enqueue(numbers: Iterable[int]) -> None:
    """One message each: it has no call for many."""
    for number in numbers:
        say.send(number)
