"""How webhooks that come in are declared, and what is refused."""

from __future__ import annotations

import pytest

from perdure import DefinitionError, UsageError, inbound
from perdure.model.limits import NAME_LENGTH

VERIFY = inbound.github("s")


def declare(app, path="/hooks/x", *, verify=VERIFY, **options):
    @app.webhook(path, verify=verify, **options)
    @app.workflow
    async def keep(event: object) -> None: ...

    return keep


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "hooks",
            "hooks/x",
            "/hooks/",
            "//hooks",
            "/hooks//x",
            "/a b",
            "/a?b",
            "/a#b",
            "/a%2Fb",
            "/é",
            "/a\n",
        ),
        *("/.", "/..", "/a/../b", "/a/.", "/{x}", "https://shop.example/hooks", "/" + "a" * NAME_LENGTH, 7, None),
    ],
)
def test_paths_that_are_none(app, path):
    with pytest.raises(UsageError, match="path: "):
        declare(app, path)


@pytest.mark.parametrize("path", ["/a", "/hooks/stripe", "/hooks/v1.2/a_b-c~d", "/...", "/.well-known/x"])
def test_paths(app, path):
    declare(app, path)
    assert inbound.asgi(app).paths == {path}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"only": "push"}, "only: 'push' must be a list"),
        ({"only": [7]}, "only: "),
        ({"key": "id"}, "key: 'id' must be a plain function"),
        ({"where": 7}, "where: 7 must be"),
        ({"where": "a ||"}, "is no expression"),
        ({"within": "soon"}, "within"),
        ({"verify": "s"}, "verify: 's' must be a plain function"),
        ({"events": ["workflow:failed"]}, "there is no option 'events' beside verify; known: key, only, where, within"),
    ],
)
def test_options_that_are_none(app, options, told):
    with pytest.raises(UsageError, match=told):
        declare(app, **options)


def test_functions_that_are_awaited_are_refused(app):
    async def awaited(*args: object) -> object: ...

    for name in ("verify", "key", "where"):
        with pytest.raises(DefinitionError, match=f"{name}: .* must be"):
            declare(app, **{name: awaited})
        app.registry.workflows.clear()


def test_neither_of_the_two(app):
    with pytest.raises(UsageError, match=r"give events= and secret= for a URL .* or verify= for a path"):
        app.webhook("/hooks/x")


def test_a_path_has_one_verifier(app):
    declare(app)

    @app.workflow
    async def other(event: object) -> None: ...

    with pytest.raises(DefinitionError, match="has another verifier, for workflow 'keep'"):
        app.webhook("/hooks/x", verify=inbound.github("s"))(other)
    app.webhook("/hooks/x", verify=VERIFY)(other)
    with pytest.raises(DefinitionError, match="starts workflow 'other' already"):
        app.webhook("/hooks/x", verify=VERIFY)(other)


def test_workflows_that_cannot_be_started_so(app):
    @app.workflow
    async def two(event: object, more: int) -> None: ...

    with pytest.raises(DefinitionError, match="more"):
        app.webhook("/hooks/x", verify=VERIFY)(two)
    with pytest.raises(UsageError, match=r"@app\.webhook stands above @app\.workflow"):
        app.webhook("/hooks/x", verify=VERIFY)(lambda event: None)


@pytest.mark.parametrize(
    "bound",
    [
        {"body_bytes": 0},
        {"body_bytes": True},
        {"body_bytes": "1"},
        {"body_within": "x"},
        {"bodies_bytes": 0},
        {"answer_within": -1},
    ],
)
def test_bounds_that_are_none(app, bound):
    with pytest.raises(UsageError, match=next(iter(bound))):
        inbound.asgi(app, **bound)
