from __future__ import annotations

from perdure import Perdure, testing
from perdure.telemetry import Telemetry, run_context


class Watcher(Telemetry):
    def __init__(self) -> None:
        self.opened_by: list[str] = []

    def opened(self, worker) -> None:
        self.opened_by.append(worker.id)


async def test_nobody_watches_a_test_and_logs_say_where_they_are_from():
    watcher, found = Watcher(), []
    app = Perdure("memory://", telemetry=[watcher])

    @app.step
    async def work() -> None:
        found.append(run_context())

    @app.workflow
    async def w() -> None:
        await work()

    async with testing.engine(app) as engine:
        await engine.result(await app.start(w, id="r"))
    assert watcher.opened_by == []
    assert app.telemetry == [watcher]
    assert found == [{"run_id": "r", "workflow": "w", "step": "work", "attempt": 1}]
