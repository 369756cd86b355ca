"""How users start runs and ask about them, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

from typing import Any, assert_type

import msgspec

from perdure import (
    Encryption,
    Explanation,
    Perdure,
    Record,
    Retention,
    Run,
    RunHandle,
    RunPage,
    RunStatus,
    RunSummary,
    Stats,
)

app = Perdure("memory://")


class Receipt(msgspec.Struct):
    cents: int


@app.workflow
async def checkout(order_id: str, cents: int = 5) -> Receipt:
    return Receipt(cents)


@app.workflow
async def nightly() -> None: ...


async def main() -> None:
    async with app as opened:
        assert_type(opened, Perdure)

        run = await app.start(checkout, "a", 5)
        assert_type(run, RunHandle[Receipt])
        assert_type(await run.result(), Receipt)
        assert_type(await run.result(timeout="1m"), Receipt)
        assert_type(await run.wait_for_completion(timeout=5, poll_interval=1), Receipt)
        assert_type(await (await app.start(checkout, "a")).result(), Receipt)
        assert_type(await (await app.start(nightly)).result(), None)
        assert_type(
            await app.start(
                checkout,
                "a",
                id="r",
                priority=3,
                delay="1h",
                tags={"k": "v"},
                retention=Retention.of("1 day"),
                queue="q",
            ),
            RunHandle[Receipt],
        )
        assert_type(await app.start("checkout", input={"order_id": "a"}), RunHandle[Any])
        connection: object = None
        assert_type(await app.start(checkout, "a", id="r", tx=connection), RunHandle[Receipt])
        assert_type(await app.start("checkout", input={"order_id": "a"}, tx=connection), RunHandle[Any])
        assert_type(await app.start_many(checkout, [("a",)], tx=connection), list[RunHandle[Receipt]])

        await app.start(checkout, 5)  # type: ignore[arg-type]  # the workflow's own parameters
        await app.start(checkout)  # type: ignore[arg-type]  # the same
        await app.start(nightly, 5)  # type: ignore[arg-type]  # the same
        await app.start(checkout, "a", prioriti=3)  # type: ignore[call-overload]  # no such option
        await app.start(checkout, "a", delay=b"")  # type: ignore[call-overload]  # no duration

        assert_type(await app.start_many(checkout, [("a", 1), ("b", 2)], ids=["1", "2"]), list[RunHandle[Receipt]])
        assert_type(app.run("r", checkout), RunHandle[Receipt])
        assert_type(await app.run("r", checkout).result(), Receipt)

        assert_type(await run.get(), Run)
        assert_type(await run.status(), RunSummary)
        assert_type((await run.status()).status, RunStatus)
        assert_type(await run.journal(), list[Record])
        assert_type(await run.explain(), Explanation)
        assert_type(await run.send_event("paid", {"cents": 5}, id="evt"), bool)
        assert_type(await run.pause(), RunStatus)
        assert_type(await run.resume(), RunStatus)
        assert_type(await run.terminate(), RunStatus)
        assert_type(await run.restart(), RunStatus)
        assert_type(await run.fork(from_step="charge"), RunHandle[Receipt])
        assert_type(await app.runs(status="waiting", tags={"k": "v"}), RunPage)
        assert_type(await app.runs(status=[RunStatus.QUEUED, "paused"]), RunPage)
        assert_type(await app.stats(), Stats)
        await run.send_event(5)  # type: ignore[arg-type]  # a type is text


def script() -> None:
    with app.blocking as blocking:
        blocking.start(checkout, "a").result(timeout=5)
        assert_type(blocking.stats(), Any)


Perdure("memory://", mode="worker", queues=["a"], concurrency=5, lease="30s", drain=5)
Perdure("memory://", encryption=Encryption("2026b:AAAA,2026a:BBBB"))
Perdure("memory://", encryption=Encryption({"2026b": b"", "2026a": "AAAA"}, scope="acme").scoped("beta"))
Perdure("memory://", encryption="2026b:AAAA")  # type: ignore[arg-type]  # keys are not taken for anything else
Perdure("memory://", mode="both")  # type: ignore[arg-type]  # no such mode
Perdure("memory://", concurency=5)  # type: ignore[call-arg]  # no such setting
