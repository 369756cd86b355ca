"""Exceptions as stored values, and back."""

from __future__ import annotations

import pytest

from perdure.model.errors import NonRetryableError, StepError
from perdure.model.failure import (
    MESSAGE_CHARACTERS,
    TRACEBACK_CHARACTERS,
    decode_error,
    describe,
    encode_error,
    failed_at,
    rebuild,
)
from perdure.model.record import ErrorInfo


class DeclinedError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)

    def __str__(self) -> str:
        return f"declined ({self.args[0]}): {self.args[1]}"


class FormattedError(Exception):
    """Its arguments are not its constructor's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class PickyError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message for you")


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as raised:
        return raised


def stored(error: BaseException) -> Exception:
    return rebuild(decode_error(encode_error(describe(error))))


def test_the_step_of_a_graph_that_failed_is_kept():
    error = caught(ValueError("no"))
    assert describe(error).told == "ValueError: no"
    failed_at(error, "charge")
    info = decode_error(encode_error(describe(error)))
    assert (info.step, info.told) == ("charge", "step 'charge': ValueError: no")
    assert vars(rebuild(info))["failed_step"] == "charge"
    assert describe(caught(StepError("outer"), error)).step == ""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError("k"),
        OSError(2, "gone"),
        DeclinedError(5, "poor"),
        NonRetryableError("n"),
    ],
    ids=repr,
)
def test_an_error_comes_back_as_its_own_class(error):
    again = stored(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)


def test_half_a_character_is_spelt_out():
    again = stored(caught(ValueError("\ud800 is half"), cause=OSError("\udfff")))
    assert str(again) == "ValueError: \\ud800 is half"
    assert str(again.__cause__) == "OSError: \\udfff"


def test_what_is_stored_names_the_class():
    info = describe(DeclinedError(5, "poor"), attempts=3)
    assert info == ErrorInfo(
        type=f"{__name__}:DeclinedError", message="declined (5): poor", args=[5, "poor"], attempts=3, traceback=""
    )


def test_the_traceback_comes_back_as_a_note():
    again = stored(caught(ValueError("no")))
    (note,) = again.__notes__
    assert note.startswith("Traceback (most recent call last)")
    assert note.endswith("ValueError: no")


def test_an_error_that_was_not_raised_has_no_note():
    assert not hasattr(stored(ValueError("no")), "__notes__")


def test_a_long_traceback_keeps_its_end():
    info = describe(caught(ValueError("x" * 2 * TRACEBACK_CHARACTERS + "the end")))
    assert len(info.traceback) == TRACEBACK_CHARACTERS
    assert info.traceback.rstrip().endswith("the end")


def test_a_long_message_keeps_its_beginning_and_its_class_is_told():
    info = describe(ValueError("x" * 2 * MESSAGE_CHARACTERS))
    assert (len(info.message), info.args) == (MESSAGE_CHARACTERS, None)
    again = stored(ValueError("y" * 2 * MESSAGE_CHARACTERS))
    assert str(again).startswith("ValueError: yyy")


def test_causes_come_back_too():
    again = stored(caught(RuntimeError("outer"), caught(KeyError("middle"), ValueError("inner"))))
    assert isinstance(again.__cause__, KeyError)
    assert isinstance(again.__cause__.__cause__, ValueError)
    assert again.__cause__.__cause__.__cause__ is None


def test_a_chain_of_causes_is_bounded():
    error: BaseException = ValueError(0)
    for number in range(1, 50):
        error = caught(ValueError(number), error)
    length, info = 0, describe(error)
    while info.cause is not None:
        length, info = length + 1, info.cause
    assert length == 5


def test_a_chain_in_a_circle_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe(first).cause is not None


@pytest.mark.parametrize(
    "argument",
    [object(), float("nan"), {1, 2}, (1, 2), b"\x00", "\ud800", 2**80],
    ids=lambda argument: repr(argument)[:20],
)
def test_arguments_that_json_would_change_are_not_kept(argument):
    info = describe(ValueError(argument))
    assert info.args is None or info.args == [argument]
    again = rebuild(info)
    assert isinstance(again, ValueError if info.args is not None else StepError)


def test_arguments_that_contain_themselves_are_not_kept():
    circle: list[object] = []
    circle.append(circle)
    assert describe(ValueError(circle)).args is None


def test_an_error_whose_arguments_are_lost_names_its_class():
    again = stored(ValueError(object()))
    assert type(again) is StepError
    assert str(again).startswith("ValueError: <object object at ")


def test_a_class_that_makes_its_own_message_becomes_general():
    assert str(stored(FormattedError(5))) == "FormattedError: code 5"
    assert type(stored(FormattedError(5))) is StepError


def test_a_class_that_does_not_take_its_arguments_back_becomes_general():
    assert str(stored(PickyError(code=5))) == "PickyError: 5"


def test_a_class_defined_in_a_function_becomes_general():
    class LocalError(Exception):
        pass

    again = stored(LocalError("no"))
    assert type(again) is StepError
    assert "LocalError: no" in str(again)


def test_an_error_without_a_message_is_stored_all_the_same():
    info = describe(SilentError())
    assert info.message == "(its message cannot be shown)"
    assert type(rebuild(info)) is SilentError


@pytest.mark.parametrize(
    "name", ["gone.module:GoneError", "os:system", "builtins:print", "builtins:KeyboardInterrupt", "x"]
)
def test_nothing_but_an_imported_exception_class_is_called(name):
    again = rebuild(ErrorInfo(type=name, message="m", args=["true"]))
    assert type(again) is StepError


def test_a_nested_class_is_found():
    assert type(stored(Outer.InnerError("x"))) is Outer.InnerError


class Outer:
    class InnerError(Exception):
        pass
