"""What was refused is written down, and does not fill the audit log."""

from __future__ import annotations

import pytest

from perdure.model.errors import StoreUnavailableError
from perdure.server.principal import Principal, Role
from perdure.server.security import refusals
from perdure.server.security.refusals import ALONE, FOLDED, SPAN, Refusals
from tests.engine.world import World
from tests.server.security.conftest import PAGE

EVE = Principal("eve", Role.VIEWER, "key", ("default",), id="k1")
BOB = Principal("bob", Role.VIEWER, "key", ("default",), id="k2")


class Kept(list):
    """What was written down."""

    async def write(self, principal, namespace, action, target, details, outcome) -> None:
        self.append((principal.name, action, target, dict(details)))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def kept() -> Kept:
    return Kept()


async def refuse(counted: Refusals, times: int, who: Principal = EVE, action: str = "pause_run", **details) -> None:
    for number in range(times):
        await counted.add(who, "default", action, str(number), "refused (403)", details)


async def test_the_first_are_entries_and_the_rest_are_a_count_at_the_end_of_the_span(world, kept):
    counted = Refusals(kept.write, world)
    await refuse(counted, ALONE + 5)
    await refuse(counted, 7, action="create_key")
    await refuse(counted, 1, BOB)
    assert kept == [("eve", "pause_run", str(number), {}) for number in range(ALONE)] + [("bob", "pause_run", "0", {})]
    del kept[:]
    await world.advance(SPAN / 1000)
    assert kept == [("eve", FOLDED, "", {"count": 12, "of": {"pause_run": 5, "create_key": 7}})]
    await refuse(counted, 1)
    assert kept[1:] == [("eve", "pause_run", "0", {})]
    await counted.close()
    assert len(kept) == 2


async def test_a_count_is_told_when_the_server_stops(world, kept):
    counted = Refusals(kept.write, world)
    await refuse(counted, ALONE + 3, action="sessions.begin", address="203.0.113.7")
    await counted.close()
    assert kept[-1] == ("eve", FOLDED, "", {"count": 3, "of": {"sessions.begin 203.0.113.7": 3}})
    await world.advance(SPAN / 1000)
    assert len(kept) == ALONE + 1


async def test_a_clock_that_is_set_back_begins_anew(world, kept):
    counted = Refusals(kept.write, world)
    await refuse(counted, ALONE + 1)
    world.at -= 10_000_000
    await refuse(counted, 1)
    assert [action for _, action, _, _ in kept] == ["pause_run"] * ALONE + [FOLDED, "pause_run"]
    await counted.close()


async def test_kinds_and_principals_are_bounded(world, kept, monkeypatch):
    monkeypatch.setattr(refusals, "COUNTED", 3)
    monkeypatch.setattr(refusals, "KINDS", 4)
    counted = Refusals(kept.write, world)
    await refuse(counted, ALONE)
    for number in range(10):
        await refuse(counted, 1, action=f"a{number}")
    for number in range(10):
        await refuse(counted, 1, Principal(str(number), Role.VIEWER, "key", ("default",), id=str(number)))
    assert len(counted._spans) == 3
    (folded,) = [details for _, action, _, details in kept if action == FOLDED]
    assert folded == {"count": 10, "of": {"a0": 1, "a1": 1, "a2": 1, "a3": 1, "other": 6}}
    await counted.close()


async def test_a_count_that_cannot_be_written_is_logged(world, kept, caplog):
    counted = Refusals(kept.write, world)
    await refuse(counted, ALONE + 2)

    async def unavailable(*_: object) -> None:
        raise StoreUnavailableError("not now")

    counted._write = unavailable
    await counted.close()
    assert "does not know of 2 refusals of 'eve'" in caplog.text


async def test_a_viewer_who_asks_a_thousand_times_leaves_a_few_entries(keyed):
    keyed = await keyed()
    for number in range(1_000):
        answer = await keyed.ask("viewer", "POST", f"/api/v1/runs/{number}/pause", json={})
        assert answer.status_code == 403
    auditor = keyed.served.server.auditor
    log = auditor.log("default")
    assert len(await log.page(100)) == ALONE
    await auditor._refusals.close()
    folded, *alone = await log.page(100)
    assert (folded.who, folded.action, folded.outcome) == ("viewer", FOLDED, "refused (403), 980 times")
    assert folded.details == {"count": 1_000 - ALONE, "of": {"pause_run": 1_000 - ALONE}}
    assert [entry.target for entry in alone] == [str(number) for number in reversed(range(ALONE))]
    assert (await log.verify()).broken is None


async def test_wrong_logins_leave_a_few_entries_from_wherever_they_come(keyed):
    keyed = await keyed(proxies=("127.0.0.0/8",))
    for number in range(ALONE + 30):
        headers = {**PAGE, "X-Forwarded-For": f"203.0.113.{number}"}
        assert (await keyed.http.post("/login", json={"key": "no"}, headers=headers)).status_code == 401
    auditor = keyed.served.server.auditor
    await auditor._refusals.close()
    folded, *alone = await auditor.log("default").page(100)
    assert len(alone) == ALONE
    assert alone[0].details == {"address": f"203.0.113.{ALONE - 1}"}
    assert folded.details["count"] == 30
    assert folded.details["of"][f"sessions.begin 203.0.113.{ALONE}"] == 1


async def test_one_key_makes_so_many_sessions_an_hour(keyed):
    keyed = await keyed(proxies=("127.0.0.0/8",))
    seen = []
    for number in range(120):
        headers = {**PAGE, "X-Forwarded-For": f"203.0.113.{number}"}
        answer = await keyed.http.post("/login", json={"key": keyed.keys["viewer"].token}, headers=headers)
        seen.append(answer.status_code)
    assert seen == [200] * 100 + [429] * 20
    sessions = await keyed.served.app.store.documents("sessions", 1_000)
    assert len(sessions) == 100


async def test_who_is_at_work_here_is_not_locked_out_by_guesses_from_the_same_address(keyed):
    keyed = await keyed()
    assert (await keyed.ask("viewer", "GET", "/api/v1/session")).status_code == 200
    keyed.advance(10)  # the key is not remembered any longer
    for number in range(40):
        headers = {"Authorization": f"Bearer pdk_{number:020x}_{'0' * 48}"}
        await keyed.http.get("/api/v1/session", headers=headers)
    assert (await keyed.http.get("/api/v1/session", headers=headers)).status_code == 429
    assert (await keyed.ask("viewer", "GET", "/api/v1/session")).status_code == 200


async def test_a_login_is_asked_by_the_names_of_the_server_alone(keyed):
    keyed = await keyed(hosts=("shop.example",))
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    answer = await keyed.http.post("/login", json={"key": keyed.keys["viewer"].token}, headers=headers)
    assert answer.status_code == 421
    for path in ("/livez", "/readyz"):  # which probes ask by whatever address they have
        assert (await keyed.http.get(path, headers=headers)).status_code == 200
