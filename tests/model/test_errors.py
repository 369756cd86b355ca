"""The tree that opens `perdure.model.errors` is the tree of the classes."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from perdure.model import errors, failure

CLASSES = {
    name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == errors.__name__
}
NAME = re.compile(r"\b[A-Z]\w+Error\b")


def drawn() -> dict[str, str | None]:
    """Read the drawing: each class's name, with its parent's."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []  # the classes a line may hang below, with the column they begin in
    drawing = [line for line in (errors.__doc__ or "").splitlines()[1:] if NAME.search(line)]
    for line in drawing:
        column = NAME.search(line).start()  # type: ignore[union-attr]  # every line here has a name
        above = [(at, name) for at, name in above if at < column]
        # A description may mention an error; names in the drawing stand alone or between dots.
        names = [part.strip().split()[0] for part in line[column:].split("·")]
        for name in names:
            parents[name] = above[-1][1] if above else None
        above.append((column, names[0]))
    return parents


DRAWN = drawn()


def test_the_drawing_is_read():
    assert DRAWN["PerdureError"] is None
    assert DRAWN["PayloadTooLargeError"] == "LimitError"
    assert DRAWN["RunParkedError"] == "RunError"


def test_every_class_is_drawn_and_every_drawing_is_a_class():
    assert sorted(DRAWN) == sorted(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_hangs_where_it_is_drawn(name):
    parent = DRAWN[name]
    bases = CLASSES[name].__mro__[1:]
    assert (parent is None and bases[0] is Exception) or (parent is not None and CLASSES[parent] in bases)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_says_what_happened_in_one_sentence_or_two(name):
    doc = CLASSES[name].__doc__ or ""
    assert doc.endswith("."), f"{name} has no docstring of its own"
    assert "\n" not in doc
    assert doc not in [base.__doc__ for base in CLASSES[name].__mro__[1:]]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_is_made_from_a_message(name):
    error = CLASSES[name]("what happened")
    assert str(error) == "what happened"
    assert isinstance(error, errors.PerdureError)


def test_a_locked_store_counts_as_unavailable():
    assert issubclass(errors.StoreLockedError, errors.StoreUnavailableError)


def test_a_wish_for_a_later_attempt_is_kept_apart_from_the_message():
    error = errors.RetryAfterError("busy", 30)
    assert (str(error), error.after, error.args) == ("busy", 30, ("busy", 30))


def test_what_a_server_said_of_a_message_is_kept_apart_from_the_text():
    error = errors.PublishError("too many", 400, "retries", [1])
    assert (str(error), error.status, error.field, error.published) == ("too many", 400, "retries", (1,))
    assert pickle.loads(pickle.dumps(error)).published == (1,)


def test_what_a_server_refused_is_the_same_error_where_it_was_recorded():
    for kind in (errors.PublishError, errors.PublishRefusedError):
        found = failure.rebuild(failure.describe(kind("too many", 400, "retries", [object()])))
        assert (type(found), str(found), found.status, found.field) == (kind, "too many", 400, "retries")
    assert issubclass(errors.PublishRefusedError, errors.NonRetryableError)
