"""What a receiver refuses: what was tampered with, is there twice or comes again. A new secret loses nothing."""

from __future__ import annotations

import base64
import concurrent.futures
import json
from collections.abc import Iterator
from typing import Any

import pytest

from perdure import Perdure, RunStatus, WebhookVerificationError, webhooks
from perdure.authoring.triggers import secrets_of
from perdure.engine.triggers.webhooks import Replays, signed_headers
from tests.engine.receiver import Receiver, receiving
from tests.engine.world import NOW, until

OLD = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NEW = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
AT = 1_700_000_000
BODY = b'{"type": "workflow:failed", "run_id": "order-7", "amount": 10}'
ID = "order-7/webhook:shop:failed:1"


def signed(*, secret: str = OLD, id: str = ID, at: int = AT, body: bytes = BODY) -> dict[str, str]:
    return signed_headers(secrets_of(secret), id, at, body)


def test_what_was_signed_is_believed() -> None:
    assert webhooks.verify(BODY, signed(), OLD, now=AT) == json.loads(BODY)
    assert webhooks.verify(BODY, list(signed().items()), OLD, now=AT) == json.loads(BODY)


GOOD = signed()
SIGNATURE = GOOD["webhook-signature"]
DIGEST = SIGNATURE.removeprefix("v1,")

TAMPERED: dict[str, tuple[bytes, dict[str, str]]] = {
    "another amount": (BODY.replace(b"10", b"11"), {}),
    "a byte more": (BODY + b"\n", {}),
    "a byte less": (BODY[:-1], {}),
    "an empty body": (b"", {}),
    "a mark of byte order": (b"\xef\xbb\xbf" + BODY, {}),
    "the same JSON without spaces": (json.dumps(json.loads(BODY), separators=(",", ":")).encode(), {}),
    "the same JSON in another order": (json.dumps(json.loads(BODY), sort_keys=True).encode(), {}),
    "the same JSON with escapes": (BODY.replace(b"order", b"\\u006frder"), {}),
    "one key twice": (BODY.replace(b"}", b', "amount": 0}'), {}),
    "another encoding": (BODY.decode().encode("utf-16"), {}),
    "another id": (BODY, {"webhook-id": "order-8/webhook:shop:failed:1"}),
    "a longer id": (BODY, {"webhook-id": f"{ID}0"}),
    "a point moved from time to id": (BODY, {"webhook-id": f"{ID}.{AT}", "webhook-timestamp": "1"}),
    "a part of the time in the id": (BODY, {"webhook-id": f"{ID}.1", "webhook-timestamp": str(AT)[1:]}),
    "a later time": (BODY, {"webhook-timestamp": str(AT + 1)}),
    "a future time": (BODY, {"webhook-timestamp": str(AT + 10**6)}),
    "a negative time": (BODY, {"webhook-timestamp": f"-{AT}"}),
    "a time with a zero in front": (BODY, {"webhook-timestamp": f"0{AT}"}),
    "a time with a fraction": (BODY, {"webhook-timestamp": f"{AT}.0"}),
    "a time in other digits": (BODY, {"webhook-timestamp": "१७००००००००"}),
    "a time in milliseconds": (BODY, {"webhook-timestamp": f"{AT}000"}),
    "no time": (BODY, {"webhook-timestamp": ""}),
    "no id": (BODY, {"webhook-id": ""}),
    "no signature": (BODY, {"webhook-signature": ""}),
    "an empty signature": (BODY, {"webhook-signature": "v1,"}),
    "another version": (BODY, {"webhook-signature": f"v1a,{DIGEST}"}),
    "version 2": (BODY, {"webhook-signature": f"v2,{DIGEST}"}),
    "no version": (BODY, {"webhook-signature": DIGEST}),
    "half a signature": (BODY, {"webhook-signature": SIGNATURE[:20]}),
    "another bit in the signature": (BODY, {"webhook-signature": SIGNATURE[:3] + DIGEST.swapcase()}),
    "more than the signature": (BODY, {"webhook-signature": f"{SIGNATURE}="}),
    "the signature in URL letters": (BODY, {"webhook-signature": SIGNATURE.replace("+", "-").replace("/", "_") + "_"}),
    "the signature in hexadecimal": (BODY, {"webhook-signature": f"v1,{base64.b64decode(DIGEST).hex()}"}),
    "with another secret": (BODY, signed(secret=NEW)),
    "of another body": (BODY, {"webhook-signature": signed(body=b"{}")["webhook-signature"]}),
    "two signatures run together": (BODY, {"webhook-signature": f"{SIGNATURE},{SIGNATURE}"}),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_refused(name: str) -> None:
    assert len(TAMPERED) >= 30
    body, changes = TAMPERED[name]
    with pytest.raises(WebhookVerificationError):
        webhooks.verify(body, {**GOOD, **changes}, OLD, now=AT)


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("value", [None, "x", ""])
def test_a_header_that_is_there_twice_is_refused(name: str, value: str | None) -> None:
    again = GOOD[name] if value is None else value
    for pairs in ([*GOOD.items(), (name.title(), again)], [(name, again), *GOOD.items()]):
        with pytest.raises(WebhookVerificationError, match=f"the header {name} is there 2 times"):
            webhooks.verify(BODY, pairs, OLD, now=AT)
    with pytest.raises(WebhookVerificationError, match=f"the header {name} is there 2 times"):
        webhooks.verify(BODY, {**GOOD, name.upper(): again}, OLD, now=AT)


@pytest.mark.parametrize("name", list(GOOD))
def test_headers_that_a_server_has_joined_are_refused(name: str) -> None:
    with pytest.raises(WebhookVerificationError):
        webhooks.verify(BODY, {**GOOD, name: f"{GOOD[name]}, x"}, OLD, now=AT)


class TestReplays:
    def test_what_comes_again_within_the_tolerance_is_refused(self) -> None:
        replays = Replays()
        webhooks.verify(BODY, signed(), OLD, now=AT, replays=replays)
        for now in (AT - 300, AT, AT + 300):
            with pytest.raises(WebhookVerificationError, match="was taken before: somebody repeats it"):
                webhooks.verify(BODY, signed(), OLD, now=now, replays=replays)
        with pytest.raises(WebhookVerificationError, match="is more than 300 s from"):
            webhooks.verify(BODY, signed(), OLD, now=AT + 301, replays=replays)

    def test_the_next_attempt_is_no_replay(self) -> None:
        replays = Replays()
        for at in (AT, AT + 5, AT + 15):
            webhooks.verify(BODY, signed(at=at), OLD, now=at, replays=replays)

    def test_what_is_refused_is_not_remembered(self) -> None:
        replays = Replays(1)
        for _ in range(3):
            with pytest.raises(WebhookVerificationError, match="no signature"):
                webhooks.verify(BODY + b" ", signed(), OLD, now=AT, replays=replays)
        webhooks.verify(BODY, signed(), OLD, now=AT, replays=replays)

    def test_it_forgets_what_cannot_come_again(self) -> None:
        replays = Replays(2)
        for at in range(AT, AT + 100_000, 200):
            webhooks.verify(BODY, signed(at=at), OLD, now=at, replays=replays)
        assert len(replays._taken) == len(replays._ends) == 2

    def test_more_than_it_remembers_are_refused(self) -> None:
        replays = Replays(2)
        for number in range(2):
            webhooks.verify(BODY, signed(id=f"m{number}"), OLD, now=AT, replays=replays)
        with pytest.raises(WebhookVerificationError, match=r"more than 2 deliveries came within.*Replays\(most=...\)"):
            webhooks.verify(BODY, signed(id="m2"), OLD, now=AT, replays=replays)

    def test_of_many_at_once_one_is_taken(self) -> None:
        replays = Replays()

        def take(number: int) -> bool:
            try:
                webhooks.verify(BODY, signed(id=f"m{number % 10}"), OLD, now=AT, replays=replays)
            except WebhookVerificationError:
                return False
            return True

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(400))) == 10


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


async def test_a_new_secret_loses_no_delivery(world: Any, memory: str, receiver: Receiver) -> None:
    """Senders sign with the old one, with both, with the new one; receivers change while both are used."""
    believed, refused = [OLD], list[str]()

    def judge(headers: dict[str, str], body: bytes) -> int:
        try:
            webhooks.verify(body, headers, believed, now=world.at / 1000)
        except WebhookVerificationError as error:
            refused.append(str(error))
            return 401
        return 503 if len(receiver.got) % 7 == 3 else 204  # some come again, and then with the secrets of that day

    def sender(secrets: list[str]) -> Perdure:
        app: Perdure = world.app(memory)
        app.webhook(receiver.url, guard=False, events=["workflow:completed"], secret=secrets, name="shop")

        @app.workflow
        async def order(number: int) -> int:
            return number

        return app

    receiver.judge, number = judge, 0
    for secrets, believing in (([OLD], [OLD]), ([NEW, OLD], [NEW]), ([NEW], [NEW])):
        async with (app := sender(secrets)):
            for count in range(40):
                await app.start("order", id=f"r{number}", input={"number": number})
                number += 1
                if count == 20:
                    believed[:] = believing
            await world.settle()
            await until(lambda: not app.worker.turns)
    async with (app := sender([NEW])):
        for _ in range(60):  # what goes over real connections takes no virtual time
            await world.advance(60)
            page = await app.runs(workflow="perdure.webhook:shop", limit=500)
            if {run.status for run in page.runs} == {RunStatus.COMPLETE}:
                break
        assert {run.status for run in page.runs} == {RunStatus.COMPLETE}
        assert len(page.runs) == number == 120
    told = {json.loads(body)["run_id"] for _, body in receiver.got}
    assert (len(told), refused) == (number, [])
    assert len(receiver.got) > number
    assert world.at > NOW
