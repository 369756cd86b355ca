from __future__ import annotations

import pytest

from perdure import Perdure
from perdure.model.redaction import Redaction
from perdure.server.causes import find_causes, masked


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("order 17 of 3,000.5 failed", "order … of … failed"),
        ("no run 0199f0c2a4b87f3e8f7c1d2e3f4a5b6c", "no run …"),
        ("row 5f0c7b1e-5b0a-4b8e-9a51-1f2e3d4c5b6a is gone", "row … is gone"),
        ("at 0x7f00dead", "at …"),
        ("the facade is beige", "the facade is beige"),
    ],
)
def test_what_differs_from_one_time_to_the_next_is_masked(message, found):
    assert masked(message) == found


async def test_failed_runs_are_put_together_by_what_they_failed_with():
    app = Perdure("memory://")

    @app.workflow
    async def order(number: int) -> None:
        raise ValueError(f"order {number} is wrong" if number < 3 else "odd")

    @app.workflow
    async def other(number: int) -> None:
        raise ValueError(f"order {number} is wrong")

    async with app:
        for number in (1, 2, 3):
            run = await app.start(order, number, id=f"run-{number}")
            with pytest.raises(Exception, match="wrong|odd"):
                await run.result()
        run = await app.start(other, 9)
        with pytest.raises(Exception, match="wrong"):
            await run.result()
        found = await find_causes(app, Redaction())
        assert found.looked_at == 4
        assert found.are_all
        first = found.causes[0]
        assert (first.workflow, first.type, first.message) == ("order", "ValueError", "order … is wrong")
        assert (first.count, first.runs, first.example) == (2, ("run-2", "run-1"), "order 2 is wrong")
        assert first.first_at <= first.last_at
        assert sorted((cause.workflow, cause.count) for cause in found.causes) == [
            ("order", 1),
            ("order", 2),
            ("other", 1),
        ]
        assert (await find_causes(app, Redaction(), "other")).looked_at == 1
        assert not (await find_causes(app, Redaction(), limit=2)).are_all
