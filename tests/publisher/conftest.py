"""A server of messages, and a place that takes down what it is asked and answers what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from perdure import Publisher
from tests.dispatch.messages.destination import Destination, Got, answered, destination
from tests.server.conftest import Served, serving
from tests.server.qstash.conftest import there

__all__ = ["serving", "there"]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QSTASH_URL", "QSTASH_TOKEN", "PERDURE_URL", "PERDURE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def said(*bodies: bytes) -> Callable[[Got], bytes]:
    """What answers each of these in turn, and the last from then on."""
    rest = list(bodies)
    return lambda got: answered(200, body=rest.pop(0) if len(rest) > 1 else rest[0])


@pytest_asyncio.fixture
async def recorder() -> AsyncIterator[Destination]:
    """A server in name: what it is asked is in `got`, and it answers with `answer`."""
    async with destination() as found:
        found.answer = said(b"{}")
        yield found


@pytest_asyncio.fixture
async def asked(recorder: Destination) -> AsyncIterator[Publisher]:
    """A publisher of the recorder."""
    async with Publisher(recorder.url, "tok") as pub:
        yield pub


@pytest_asyncio.fixture
async def served(serving) -> Served:
    """A Perdure server on a port, on a store in memory, without keys."""
    found: Served = await serving()
    return found


@pytest_asyncio.fixture
async def pub(served: Served) -> AsyncIterator[Publisher]:
    """A publisher of that server."""
    async with Publisher(str(served.http.base_url)) as pub:
        yield pub
