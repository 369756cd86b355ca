"""`data.transform`, and what `perdure.tasks` hands out."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time

import pytest

import perdure.tasks
from perdure import Perdure, RunFailedError, UsageError, testing
from perdure.tasks import DataExpressionError, data_transform, everything

ORDERS = {"orders": [{"id": 1, "cents": 500, "paid": True}, {"id": 2, "cents": 700, "paid": False}]}


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("orders[].cents", [500, 700]),
        ("sum(orders[?paid].cents)", 500),
        ("{ids: orders[].id, count: length(orders)}", {"ids": [1, 2], "count": 2}),
        ("@", ORDERS),
        ("nothing.there", None),
    ],
)
async def test_an_expression_is_evaluated_over_data(expression, result):
    assert await data_transform(expression, ORDERS) == result


async def test_data_may_be_anything():
    assert [await data_transform("@", data) for data in ([1], "a", None, 7)] == [[1], "a", None, 7]
    assert await data_transform("[0]", ["first"]) == "first"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("orders[", "expression: .* is no expression"),
        ("", "expression: .* must be an expression"),
        ("a" * 1_001, "expression: the expression is longer than 1,000 characters"),
        ("sum(orders)", "expression: .* cannot be evaluated"),
        ("explode(@)", "expression: there is no function 'explode'"),
        ("[@,@]|[]|" * 14 + "@", "expression: .* takes more than"),
        ("|".join(["[@,@]"] * 28), "expression: .* takes more than"),
    ],
)
async def test_one_that_is_wrong_or_too_much_says_so_soon(expression, message):
    began = time.monotonic()
    with pytest.raises(DataExpressionError, match=f"^{message}"):
        await data_transform(expression, ORDERS)
    assert time.monotonic() - began < 10


async def test_all_of_them_are_registered_by_name():
    app = Perdure("memory://")
    app.add(*everything())
    assert sorted(app.registry.workflows) == ["data.transform", "email.send", "http.request", "pdf.render"]
    for workflow in app.registry.workflows.values():
        assert json.loads(json.dumps(workflow.parameters.schema()))["properties"]
        assert workflow.details()["kind"] == "task"
    async with testing.engine(app) as engine:
        run = await app.start("data.transform", input={"expression": "a.b", "data": {"a": {"b": [1]}}})
        assert await engine.result(run) == [1]
        wrong = await app.start("data.transform", input={"expression": "a.", "data": 1})
        with pytest.raises(RunFailedError) as caught:
            await engine.result(wrong)
    assert isinstance(caught.value.__cause__, DataExpressionError)


@pytest.mark.parametrize("name", perdure.tasks.__all__)
def test_every_name_is_there(name):
    assert getattr(perdure.tasks, name) is not None


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="module 'perdure.tasks' has no attribute 'http_reqest'"):
        perdure.tasks.http_reqest  # type: ignore[attr-defined]  # a misspelt name, on purpose


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("http_request", "httpx", "http"), ("MailServer", "aiosmtplib", "email"), ("pdf_render", "typst", "pdf")],
)
def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch, name, library, extra):
    for module in (library, *(f"perdure.tasks.{home}" for home in ("http", "door", "email", "pdf"))):
        monkeypatch.delitem(sys.modules, module, raising=False)
    found = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else found(name))
    with pytest.raises(UsageError, match=rf"needs {library}: pip install 'perdure\[{extra}\]'"):
        getattr(perdure.tasks, name)


def test_nothing_is_loaded_before_it_is_named(monkeypatch):
    for module in (
        "httpx",
        "aiosmtplib",
        "perdure.tasks",
        *(f"perdure.tasks.{name}" for name in ("http", "email", "pdf")),
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.import_module("perdure.tasks")
    assert "httpx" not in sys.modules
    assert "aiosmtplib" not in sys.modules
