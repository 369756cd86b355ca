"""An application with workflows of every kind, as it is served."""

from __future__ import annotations

import asyncio

from perdure import Perdure, Retry, flow


class Body:
    """What steps did, and what holds them up."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.path = ""
        self.mark = ""


def everything(app: Perdure, body: Body) -> None:
    """Workflows of every kind, as an application has them."""

    @app.step
    async def note(what: str) -> str:
        body.did.append(what)
        return what + body.mark

    @app.step
    async def undone(what: str) -> None:
        body.did.append(f"no {what}")

    @app.step(undo=undone)
    async def book(what: str) -> str:
        body.did.append(what)
        return what

    @app.step(retry=Retry(attempts=3, delay=0.01))
    async def flaky(what: str) -> str:
        body.did.append(what)
        if len(body.did) < 3:
            raise ValueError("not yet")
        return what

    @app.step(retry=Retry(attempts=1))
    async def broken() -> None:
        raise ValueError("no tea")

    @app.step(timeout=30)
    async def held(what: str) -> str:
        body.did.append(what)
        body.began.set()
        await body.may_end.wait()
        return what

    @app.step
    async def outer(what: str) -> list[str]:
        return [await note(f"{what} 1"), await note(f"{what} 2")]

    @app.step
    def plain(n: int) -> int:
        return n * n

    @app.workflow
    async def gathered() -> list[str]:
        return list(await asyncio.gather(*(note(str(n)) for n in range(4))))

    @app.workflow
    async def raced() -> str:
        first, *rest = [asyncio.ensure_future(each) for each in (note("fast"), held("slow"))]
        done, left = await asyncio.wait([first, *rest], return_when=asyncio.FIRST_COMPLETED)
        for each in left:
            each.cancel()
        return next(iter(done)).result()

    @app.workflow
    async def nested() -> list[str]:
        return await outer("in")

    @app.workflow
    async def retried() -> str:
        return await flaky("try")

    @app.workflow
    async def failing() -> None:
        await broken()

    @app.workflow
    async def undoing() -> None:
        await book("hotel")
        await book("flight")
        await broken()

    @app.workflow
    async def asked() -> str:
        first = await flow.wait_for_event("answer", type="approval", timeout=60)
        return f"{await note('asked')}: {first}"

    @app.workflow
    async def slept() -> str:
        await flow.sleep(0.05)
        return await note("awake")

    @app.workflow
    async def parent(n: int) -> int:
        return sum(await asyncio.gather(*(child(each) for each in range(n))))

    @app.workflow
    async def child(n: int) -> int:
        return await plain(n)

    @app.workflow
    async def counted(n: int) -> int:
        await note(f"round {n}")
        if n < 3:
            await flow.continue_as_new(n + 1)
        return n

    @app.workflow
    async def holding() -> str:
        return await held("held")

    @app.step
    async def beat() -> None:
        flow.heartbeat("half")
        body.began.set()
        await body.may_end.wait()

    @app.workflow
    async def beating() -> None:
        await beat()

    @app.workflow
    async def turning() -> str:
        went = await flow.do(body.path, note, body.path)
        body.began.set()
        await flow.wait_for_event("go", type="go")
        return went

    @app.workflow
    async def answered() -> str:
        working = asyncio.ensure_future(held("work"))
        asked = asyncio.ensure_future(flow.wait_for_event("answer", type="approval"))
        done, left = await asyncio.wait([working, asked], return_when=asyncio.FIRST_COMPLETED)
        for each in left:
            each.cancel()
        return str(next(iter(done)).result())

    @app.workflow
    async def told() -> str:
        flow.set("phase", "one")
        await note("one")
        flow.set("phase", "two")
        return await note("two")
