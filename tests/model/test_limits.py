"""Bounds, and that they are bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest

from perdure.model import errors, limits
from perdure.model.errors import LimitError, UsageError
from perdure.model.limits import Limits

NAMES = [bound.name for bound in fields(Limits)]


@pytest.mark.parametrize("name", NAMES)
def test_a_bound_may_be_set(name):
    assert getattr(Limits(**{name: 1}), name) == 1
    assert Limits(**{name: getattr(Limits(), name)}) == Limits()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, True, False, 1.0, "1", None])
def test_a_bound_is_a_whole_number_of_at_least_one(name, value):
    with pytest.raises(UsageError, match=f"^limits.{name}: {value!r} must be a whole number, at least 1$"):
        Limits(**{name: value})


def test_every_bound_is_explained():
    for name in NAMES:
        assert f"    {name}: " in (Limits.__doc__ or ""), f"{name} is missing from the docstring of Limits"


def test_the_fixed_bounds_are_ordered():
    assert 1 < limits.CREATE_BATCH <= limits.START_BATCH
    assert limits.NAME_LENGTH > 0
    assert limits.TAGS > 0


def test_every_limit_error_that_names_a_setting_names_a_real_one():
    for kind in LimitError.__subclasses__():
        assert kind.__name__ in errors.__dict__
        for word in (kind.__doc__ or "").split("`"):
            if word.startswith("Limits."):
                assert word.removeprefix("Limits.") in NAMES
