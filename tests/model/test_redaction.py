"""What named fields hold is masked, however the name is written and however deep it stands; all else stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.model.errors import UsageError
from perdure.model.redaction import MASK, Redaction

SECRETS = Redaction(("card_number", "Password"))


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ({"password": "x", "name": "Ada"}, {"password": MASK, "name": "Ada"}),
        ({"PASSWORD": {"a": 1}, "pass-word": None}, {"PASSWORD": MASK, "pass-word": MASK}),
        ([{"order": {"cards": [{"cardNumber": 4111}, "x"]}}], [{"order": {"cards": [{"cardNumber": MASK}, "x"]}}]),
        ({"a": ({"card_number": 1},)}, {"a": [{"card_number": MASK}]}),
        ({"payload": '{"card-number": "4111", "n": 1.50}'}, {"payload": '{"card-number":"***","n":1.50}'}),
        ({"passwords": 1, "card": 2}, {"passwords": 1, "card": 2}),
        ("password", "password"),
        (5, 5),
        (None, None),
        ({1: "x"}, {1: "x"}),
    ],
)
def test_a_value_is_masked_and_left_as_it_is(value: Any, masked: Any) -> None:
    before = json.dumps(value) if not isinstance(value, dict) or 1 not in value else None
    assert SECRETS.value(value) == masked
    assert before is None or json.dumps(value) == before


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (None, None),
        ('{"a": [1, 2.50]}', '{"a": [1, 2.50]}'),
        (
            '{"password": "x", "big": 123456789012345678901234567890, "f": 1e400, "e": 1.10}',
            '{"password":"***","big":123456789012345678901234567890,"f":1e400,"e":1.10}',
        ),
        ('{"\\u0070assword": "x"}', '{"password":"***"}'),
        ('{"a": "\\u00e9"}', '{"a":"é"}'),
        ('"my password is x"', '"my password is x"'),
        ('{"password": ', '"***"'),
        ('{"password": 1, "password": 2}', '{"password":"***"}'),
        ("[" * 100_000 + '"password"', '"***"'),
    ],
)
def test_a_text_is_masked_and_its_numbers_stay(text: str | None, masked: str | None) -> None:
    assert SECRETS.text(text) == masked


def test_without_fields_nothing_is_masked_or_read() -> None:
    assert Redaction().text('{"password": ') == '{"password": '
    assert Redaction().value({"password": 1}) == {"password": 1}


@pytest.mark.parametrize("fields", [("",), ("_",), "password"])
def test_a_name_is_a_name(fields: Any) -> None:
    with pytest.raises(UsageError, match=r"^redaction\.fields: .* must be names of fields"):
        Redaction(fields)


NAMES = st.sampled_from(["password", "Card_Number", "card-number", "name", "n"])
VALUES = st.recursive(
    st.just("s3cret") | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=20,
)


@given(VALUES)
def test_no_secret_is_left_anywhere(value: Any) -> None:
    def hidden(held: Any) -> Any:
        if isinstance(held, dict):
            return {
                name: "s3cret" if name in ("password", "Card_Number", "card-number") else hidden(inner)
                for name, inner in held.items()
            }
        return [hidden(inner) for inner in held] if isinstance(held, list) else None if held == "s3cret" else held

    text = SECRETS.text(json.dumps(hidden(value)))
    assert "s3cret" not in str(text)
    assert json.loads(str(text)) == SECRETS.value(hidden(value))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("card_number=4111 1111", "card_number=*** 1111"),
        ("no: Password: hunter2, try again", "no: Password: ***, try again"),
        ('HTTP 400: {"cardNumber": "41 \\"11", "n": 1}', 'HTTP 400: {"cardNumber": ***, "n": 1}'),
        ("{'card-number': '4111', 'n': 1}x", MASK),
        ("error {'card-number': '4111', 'n': 1}", "error {'card-number': ***, 'n': 1}"),
        ('said \\"password\\": \\"hunter2\\", \\"n\\": 1', 'said \\"password\\": ***, \\"n\\": 1'),
        ('password="hunter2 without an end', "password=***"),
        ("password='hunter2 without an end", "password=***"),
        ("https://shop?a=1&password=hunter2&b=2", "https://shop?a=1&password=***&b=2"),
        ("passwords=1, mypassword=2, password", "passwords=1, mypassword=2, password"),
        ("password=", "password="),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_prose_is_masked_behind_a_name(text: str, masked: str) -> None:
    secrets = Redaction(SECRETS.fields, in_prose=True)
    assert secrets.value(text) in (masked, f'"{masked}"')
    assert secrets.value({"message": text, "password": 1})["message"] in (masked, f'"{masked}"')
    assert SECRETS.value({"message": text})["message"] == (text if text[:1] != "{" else f'"{MASK}"')


def test_without_names_prose_stays() -> None:
    assert Redaction((), in_prose=True).value("password=x") == "password=x"


@given(st.text(alphabet="\\\"'= pasword:{}x", max_size=200))
def test_no_prose_takes_long_or_keeps_a_plain_word(text: str) -> None:
    shown = Redaction(("password",), in_prose=True).value(f"{text} password=hunter2")
    assert "hunter2" not in shown
