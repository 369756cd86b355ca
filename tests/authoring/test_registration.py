"""Mistakes are found where a function is registered."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import msgspec
import pytest

from perdure import (
    DefinitionError,
    Perdure,
    PerdureError,
    Retention,
    Retry,
    Step,
    UsageError,
    Workflow,
    WorkflowEntrypoint,
)


@pytest.fixture
def app():
    return Perdure("memory://")


class Opaque:
    pass


class Public(msgspec.Struct):
    id: str


def register_workflow(app, function, **options):
    return app.workflow(**options)(function)


def register_step(app, function, **options):
    return app.step(**options)(function)


# Names.


@pytest.mark.parametrize("register", [register_workflow, register_step])
def test_a_name_is_given_once(app, register):
    async def f(): ...

    first = register(app, f)
    assert first.name == "f"
    with pytest.raises(DefinitionError, match=r"'f' is registered already; give one of them name='\.\.\.'"):
        register(app, f)
    assert register(app, f, name="g").name == "g"


def test_workflows_and_steps_have_names_apart(app):
    async def f(): ...

    register_workflow(app, f)
    register_step(app, f)


def test_a_failed_registration_leaves_nothing_behind(app):
    async def f(value: Opaque): ...

    with pytest.raises(DefinitionError):
        register_workflow(app, f)
    assert app.registry.workflows == {}


@pytest.mark.parametrize("register", [register_workflow, register_step])
@pytest.mark.parametrize("name", ["a/b", "a#2", "a\nb", "x" * 201, "\x00"])
def test_a_bad_name_is_refused(app, register, name):
    async def f(): ...

    with pytest.raises(UsageError, match="name"):
        register(app, f, name=name)


@pytest.mark.parametrize("name", ["a b", "Zahlung prüfen", "résumé.v2", "x" * 200, "a:b"])
def test_a_name_may_be_written_as_people_write(app, name):
    async def f(): ...

    assert register_workflow(app, f, name=name).name == name
    assert register_step(app, f, name=name).name == name


# Functions.


def test_a_workflow_is_an_async_function(app):
    def plain(): ...

    async def generator():
        yield 1

    class Callable:
        async def __call__(self): ...

    for thing in (plain, generator, lambda: None, Callable(), Opaque, None, 5):
        with pytest.raises(PerdureError, match="async def|name"):
            register_workflow(app, thing)


def test_every_parameter_of_a_workflow_has_a_name(app):
    async def args(*orders: int): ...

    async def kwargs(**orders: int): ...

    for function in (args, kwargs):
        with pytest.raises(DefinitionError, match=r"takes \*orders; name each parameter"):
            register_workflow(app, function)


def test_a_step_may_take_what_it_likes(app):
    @app.step
    async def f(*args: Opaque, **kwargs: Opaque) -> int:
        return len(args) + len(kwargs)

    assert f.name == "f"


def test_a_step_is_no_generator(app):
    def plain():
        yield 1

    async def generator():
        yield 1

    for function in (plain, generator):
        with pytest.raises(DefinitionError, match="is a generator; return a list, or call a step per item"):
            register_step(app, function)


@pytest.mark.parametrize("thing", [5, None, "name"])
def test_a_step_can_be_called(app, thing):
    with pytest.raises(PerdureError):
        register_step(app, thing, name="s")


def test_an_async_step_runs_on_the_loop_only(app):
    async def f(): ...

    for where in ("thread", "process"):
        with pytest.raises(DefinitionError, match=f"write it as a plain def for a {where}"):
            register_step(app, f, run_in=where)
    with pytest.raises(DefinitionError, match="must be 'loop', 'thread' or 'process'"):
        register_step(app, f, run_in="gpu")


def test_where_a_step_runs_follows_from_how_it_is_written(app):
    async def on_loop(): ...

    def in_thread(): ...

    @functools.wraps(on_loop)
    async def wrapped():
        return await on_loop()

    assert register_step(app, on_loop).spec.run_in == "loop"
    assert register_step(app, in_thread).spec.run_in == "thread"
    assert register_step(app, in_thread, name="p", run_in="process").spec.run_in == "process"
    assert register_step(app, wrapped, name="w").spec.run_in == "loop"
    assert register_step(app, functools.partial(on_loop), name="partial").spec.run_in == "loop"


# Annotations.


def test_a_parameter_that_cannot_be_stored_is_named(app):
    async def f(order: Public, lock: Opaque): ...

    with pytest.raises(DefinitionError, match=r"workflow 'f', parameter 'lock', is annotated .*Opaque"):
        register_workflow(app, f)


def test_a_result_that_cannot_be_stored_is_named(app):
    async def f() -> Opaque: ...

    with pytest.raises(DefinitionError, match=r"the result of workflow 'f' is annotated .*Opaque"):
        register_workflow(app, f)
    with pytest.raises(DefinitionError, match=r"the result of step 'f' is annotated .*Opaque"):
        register_step(app, f)


def test_an_annotation_that_names_nothing_is_refused(app):
    async def f(order: "Missing"): ...  # noqa: F821, UP037  # what is tested

    async def g() -> "Missing": ...  # noqa: F821, UP037  # what is tested

    for function, register in ((f, register_workflow), (g, register_workflow), (g, register_step)):
        with pytest.raises(DefinitionError, match="cannot be resolved: .*Missing.*; define the type at module level"):
            register(app, function)


def test_classes_of_the_scope_around_are_found(app):
    class Local(msgspec.Struct):
        id: str

    @app.workflow
    async def w(order: Local, other: Local | None = None) -> Local:
        return order

    @app.step
    async def s() -> list[Local]:
        return []

    @app.step(name="t")
    async def t() -> dict[str, Local]:
        return {}

    assert w.result.annotation is Local
    assert s.spec.result.annotation == list[Local]
    assert w.parameters.decode(w.parameters.encode([Local("a")], {}, 100)) == ([], {"order": Local("a")})

    class Entry(WorkflowEntrypoint[None, Local]):
        async def run(self, event, step) -> Local:
            return event.payload

    assert app.register(Entry).workflow.result.annotation is Local


def test_a_class_whose_own_annotations_are_local_is_refused_with_the_reason(app):
    class Local(msgspec.Struct):
        id: str

    @dataclasses.dataclass
    class Outer:
        local: Local

    async def w(outer: Outer): ...

    with pytest.raises(DefinitionError, match=r"parameter 'outer', is annotated .*name 'Local' is not defined"):
        app.workflow(w)


def test_what_is_not_annotated_is_plain_data(app):
    @app.workflow
    async def w(order, *, note=None):
        return order

    assert w.result.annotation is Any
    assert w.parameters.schema()["required"] == ["order"]


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": "a/b"}, "queue"),
        ({"queue": ""}, "queue"),
        ({"version": "x" * 201}, "version is longer than 200 characters"),
    ],
)
def test_a_bad_option_of_a_workflow_is_named(app, options, message):
    async def f(): ...

    with pytest.raises(UsageError, match=message):
        register_workflow(app, f, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "soon"}, "step 'f', timeout: 'soon'"),
        ({"timeout": -1}, "timeout"),
        ({"run_in": "nowhere"}, "run_in"),
    ],
)
def test_a_bad_option_of_a_step_is_named(app, options, message):
    async def f(): ...

    with pytest.raises(UsageError, match=message):
        register_step(app, f, **options)


def test_options_reach_the_definition(app):
    @app.workflow(name="pay", version="3", queue="money", retention=Retention.of("1 day"))
    async def w(): ...

    @app.step(name="charge", retry=Retry(attempts=7), timeout="1m")
    async def s(): ...

    assert isinstance(w, Workflow)
    assert (w.name, w.version, w.queue, w.retention.complete) == ("pay", "3", "money", 86_400_000)
    assert isinstance(s, Step)
    assert (s.spec.name, s.spec.retry.attempts, s.spec.timeout) == ("charge", 7, 60.0)
