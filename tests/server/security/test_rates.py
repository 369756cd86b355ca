from __future__ import annotations

import asyncio

import pytest

from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.model.queue import Rate
from perdure.server.security.rates import Rates, read_rate
from tests.engine.world import World


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("600/minute", Rate(600, 60_000)),
        ("100/10s", Rate(100, 10_000)),
        ("5 / second", Rate(5, 1_000)),
        ("1/1h 30m", Rate(1, 5_400_000)),
    ],
)
def test_rates_are_read(text, rate):
    assert read_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "600", "600/", "/minute", "many/minute", "600/fortnight", "0/minute", "-1/s", "9" * 30]
)
def test_what_is_no_rate_is_named(text):
    with pytest.raises(UsageError, match="rate"):
        read_rate(text)


def test_so_many_at_once_and_then_one_by_one():
    world = World()
    rates = Rates(Rate(10, 60_000), world)
    assert [rates.count("ada") for _ in range(10)] == [0.0] * 10
    assert rates.count("ada") == rates.wait("ada") == pytest.approx(6.0)
    assert rates.count("bob") == 0.0
    world.at += 5_999
    assert rates.count("ada") == pytest.approx(0.001)
    world.at += 1
    assert rates.count("ada") == 0.0
    assert rates.count("ada") == pytest.approx(6.0)
    world.at += 600_000
    assert [rates.count("ada") for _ in range(11)] == [0.0] * 10 + [pytest.approx(6.0)]


def test_being_refused_costs_nothing():
    world = World()
    rates = Rates(Rate(1, 1_000), world)
    for _ in range(100):
        rates.count("ada")
    world.at += 1_000
    assert rates.count("ada") == 0.0


def test_a_clock_that_is_set_back_locks_nobody_out():
    world = World()
    rates = Rates(Rate(1, 1_000), world)
    rates.count("ada")
    world.at -= 10_000_000
    assert rates.count("ada") == 0.0
    assert rates.count("ada") <= 1.0


def test_memory_is_bounded_and_who_asks_most_is_not_forgotten():
    world = World()
    rates = Rates(Rate(2, 60_000), world, most=100)
    rates.count("ada")
    for number in range(1_000):
        rates.count(f"other {number}")
        rates.count("ada")
    assert len(rates._paces) == 100
    rates = Rates(Rate(2, 60_000), world, most=100)
    for number in range(1_000):
        rates.count(str(number))
    assert len(rates._paces) == 100


async def test_a_flood_by_one_key_is_refused_and_others_notice_nothing(keyed):
    keyed = await keyed(rate="20/minute")
    seen = [(await keyed.ask("viewer", "GET", "/api/v1/runs")).status_code for _ in range(200)]
    assert seen == [200] * 20 + [429] * 180
    refused = await keyed.ask("viewer", "GET", "/api/v1/runs")
    assert refused.json()["type"] == "urn:perdure:error:too-many-requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert (await keyed.ask("operator", "GET", "/api/v1/runs")).status_code == 200
    assert (await keyed.http.get("/livez")).status_code == 200
    keyed.advance(3)
    assert (await keyed.ask("viewer", "GET", "/api/v1/runs")).status_code == 200


async def test_reading_leaves_room_for_changing(keyed):
    keyed = await keyed(rate="5/minute")
    for _ in range(10):
        await keyed.ask("operator", "GET", "/api/v1/runs")
    assert (await keyed.ask("operator", "POST", "/api/v1/runs/x/pause", json={})).status_code == 404


async def test_who_fails_too_often_is_refused_by_address_and_costs_the_store_nothing(keyed, monkeypatch):
    keyed = await keyed()
    assert (await keyed.ask("admin", "GET", "/api/v1/session")).status_code == 200
    looks = 0
    read = keyed.served.app.store.read

    async def counted(collection, names):
        nonlocal looks
        looks += collection == "keys"
        return await read(collection, names)

    monkeypatch.setattr(keyed.served.app.store, "read", counted)
    seen = []
    for number in range(100):
        headers = {"Authorization": f"Bearer pdk_{number:020x}_{'0' * 48}"}
        seen.append((await keyed.http.get("/api/v1/session", headers=headers)).status_code)
    assert seen == [401] * 30 + [429] * 70
    assert looks == 30
    assert (await keyed.ask("admin", "GET", "/api/v1/session")).status_code == 200


async def test_a_wrong_rate_is_refused_at_the_start(serve):
    with pytest.raises(UsageError, match="rate"):
        await serve(rate="often")


def asking(client, *forwarded):
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return {"type": "http", "client": client and (client, 4711), "headers": headers}


@pytest.mark.parametrize(
    ("scope", "address"),
    [
        (asking("203.0.113.7"), "203.0.113.7"),
        (asking("203.0.113.7", "198.51.100.1"), "203.0.113.7"),
        (asking("10.0.0.1", "198.51.100.1"), "198.51.100.1"),
        (asking("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2"), "198.51.100.1"),
        (asking("10.0.0.1", "10.0.0.3, 10.0.0.2"), "10.0.0.3"),
        (asking("10.0.0.1"), "10.0.0.1"),
        (asking("10.0.0.1", "nonsense"), "unknown"),
        (asking("10.0.0.1", "198.51.100.1", "198.51.100.2"), "10.0.0.1"),
        (asking("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
        (asking(None), "here"),
    ],
)
async def test_who_asks_is_told_by_proxies_that_are_ours_alone(serve, scope, address):
    served = await serve(proxies=("10.0.0.0/8",))
    assert served.server.authenticator.address_of(scope) == address


async def test_what_is_no_proxy_is_named(serve):
    with pytest.raises(UsageError, match="proxies"):
        await serve(proxies=("nginx",))


@pytest.mark.parametrize("is_fair", [True, False])
async def test_ten_times_too_much_by_one_key_takes_nothing_from_another(keyed, monkeypatch, is_fair):
    """All ask at once, the flood ahead. The clock stands still, so that nothing depends on how fast this machine is."""
    keyed = await keyed(rate="60/minute" if is_fair else None)
    began = keyed.served.app.world.now()
    monkeypatch.setattr(type(keyed.served.app.world), "now", lambda self: began + self.ahead)
    looks = 0
    find = keyed.served.app.store.find

    async def counted(*given, **named):
        nonlocal looks
        looks += 1
        return await find(*given, **named)

    monkeypatch.setattr(keyed.served.app.store, "find", counted)
    asked = [keyed.ask("viewer", "GET", "/api/v1/runs") for _ in range(600)]
    asked += [keyed.ask("operator", "GET", "/api/v1/runs") for _ in range(60)]
    seen = [answer.status_code for answer in await asyncio.gather(*asked)]
    if not is_fair:  # what the bound is for
        assert (seen, looks) == ([200] * 660, 660)
        return
    assert sorted(seen[:600]) == [200] * 60 + [429] * 540
    assert seen[600:] == [200] * 60
    assert looks == 120  # what is refused does not reach the store
    browser = await keyed.log_in("operator")
    assert (await browser.ask("GET", "/api/v1/runs")).status_code == 429  # a session is one with its key


async def test_strangers_who_ask_whether_it_is_ready_cost_the_stores_little(keyed, monkeypatch):
    keyed = await keyed(namespaces={"acme": None})
    server = keyed.served.server
    began = keyed.served.app.world.now()
    monkeypatch.setattr(type(keyed.served.app.world), "now", lambda self: began + self.ahead)
    looks, is_there = [], True

    def counting(name, get):
        async def counted(ids):
            looks.append(name)
            if not is_there:
                raise StoreUnavailableError("gone")
            return await get(ids)

        return counted

    for name in server.namespaces.names:
        store = server.namespaces.engine(name).store
        monkeypatch.setattr(store, "get", counting(name, store.get))

    async def ask(times: int) -> set[int]:
        answers = await asyncio.gather(*(keyed.http.get("/readyz") for _ in range(times)))
        return {answer.status_code for answer in answers}

    assert await ask(500) == {200}
    assert looks == ["default", "acme"]
    is_there = False
    keyed.advance(2)
    assert await ask(500) == {503}
    assert looks[2:] == ["default", "acme"]  # all of them wait for one look at each
    is_there = True
    assert await ask(1) == {200}
