"""Who serves what, as it is kept."""

from __future__ import annotations

import pytest

from perdure import Perdure
from perdure.dispatch import endpoints
from perdure.dispatch.endpoints import Endpoints, entries_of, key_of
from perdure.dispatch.protocol import PROTOCOL, Manifest, ServedWorkflow
from perdure.model.errors import UsageError
from tests.server.conftest import memory

URL = "https://shop.example.com/workflows/"
SERVED = ServedWorkflow("checkout", "2", "orders", '{"type": "object"}', '{"kind": "workflow"}')


@pytest.fixture
async def kept():
    async with Perdure(memory(), mode="client") as app:
        yield Endpoints(app.store, app.world)


def manifest(*served):
    return Manifest(PROTOCOL, served)


async def test_an_endpoint_takes_the_place_of_what_it_was(kept):
    first = await kept.add(URL, manifest(SERVED))
    assert await kept.all() == [first]
    other = ServedWorkflow("refund", "", "default")
    second = await kept.add(URL, manifest(SERVED, other))
    assert await kept.all() == [second]
    assert [(entry.workflow, entry.queue) for entry in entries_of(second, "w", 1)] == [
        ("checkout", "orders"),
        ("refund", "default"),
    ]
    assert await kept.remove(key_of(URL))
    assert await kept.all() == []


async def test_there_are_so_many_at_most(kept, monkeypatch):
    monkeypatch.setattr(endpoints, "ENDPOINTS", 2)
    for name in ("a", "b", "a"):
        await kept.add(f"https://{name}.example.com", manifest(SERVED))
    with pytest.raises(UsageError, match="2 endpoints are there already"):
        await kept.add("https://c.example.com", manifest(SERVED))


@pytest.mark.parametrize(
    ("served", "told"),
    [
        ((), "serves 0 workflows"),
        ((SERVED,) * 501, "serves 501 workflows"),
        ((ServedWorkflow("", "", "default"),), r"workflows\[0\].name"),
        ((SERVED, ServedWorkflow("perdure.map", "", "default")), r"workflows\[1\].name.*Perdure's own"),
        ((ServedWorkflow("a", "", "q\n"),), r"workflows\[0\].queue"),
        ((ServedWorkflow("a", "v" * 300, "q"),), r"workflows\[0\].version"),
        ((ServedWorkflow("a", "", "q", "{"),), r"workflows\[0\].input_schema"),
        ((ServedWorkflow("a", "", "q", "{}", "[]"),), r"workflows\[0\].details"),
    ],
)
async def test_what_cannot_be_served(kept, served, told):
    with pytest.raises(UsageError, match=told):
        await kept.add(URL, manifest(*served))
    with pytest.raises(UsageError, match="longer than 2,000"):
        await kept.add("https://" + "a" * 2_000, manifest(SERVED))


async def test_keys_are_made_once_and_rotated(kept):
    first = await kept.keys()
    assert await kept.keys() == first
    first.signing.require_usable()
    second = await kept.rotate()
    assert second.signing.current == first.signing.next
    assert second.tokens[1] == first.tokens[0]
    assert await kept.keys() == second
