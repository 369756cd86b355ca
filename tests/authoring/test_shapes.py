"""Whose return type a step's result is read back as: that of the very function, however much another looks like it."""

from __future__ import annotations

from dataclasses import dataclass

from perdure import Perdure, flow


def application():
    """One application of several that a factory makes, each with a type of its own."""
    app = Perdure("memory://")

    @dataclass
    class Receipt:
        cents: int

    @app.step
    async def charge() -> Receipt:
        return Receipt(5)

    @app.workflow
    async def checkout() -> bool:
        return isinstance(await charge(), Receipt)

    return app, checkout


async def test_each_application_of_a_factory_has_types_of_its_own():
    for _ in range(2):
        app, checkout = application()
        async with app:
            assert await (await app.start(checkout)).result(timeout=5)


MODULE = """
from dataclasses import dataclass
@dataclass
class Found:
    n: int
async def load() -> Found:
    return Found(1)
"""


async def test_functions_that_read_alike_in_two_modules_keep_their_own_types():
    modules = []
    for name in ("one", "two"):
        module = {"__name__": name}
        exec(compile(MODULE, "<module>", "exec", dont_inherit=True), module)
        modules.append(module)
    app = Perdure("memory://")

    @app.workflow
    async def w() -> list[bool]:
        return [isinstance(await flow.do("load", module["load"]), module["Found"]) for module in modules]

    async with app:
        assert await (await app.start(w)).result(timeout=5) == [True, True]
