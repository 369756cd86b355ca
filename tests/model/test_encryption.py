"""The keys of encryption are checked and never shown; a text that cannot be decrypted says so to whoever reads it."""

from __future__ import annotations

import base64

import pytest

from perdure.model import codec, failure
from perdure.model.encryption import SEALED, Encryption, refuse_unreadable, unreadable
from perdure.model.errors import DecryptionError, SerializationError, StoreError, UsageError

KEY, OLD = bytes(range(200, 232)), bytes(32)
TEXT = base64.b64encode(KEY).decode()


def test_keys_come_as_text_or_by_name_in_their_order() -> None:
    assert Encryption(f"2026b:{TEXT}, a.1-_:{base64.urlsafe_b64encode(OLD).decode()},").keys == {
        "2026b": KEY,
        "a.1-_": OLD,
    }
    assert list(Encryption({"b": KEY, "a": base64.urlsafe_b64encode(KEY).decode()}).keys.items()) == [
        ("b", KEY),
        ("a", KEY),
    ]


def test_what_it_prints_tells_no_key() -> None:
    assert repr(Encryption({"b": KEY, "a": OLD}, scope="acme")) == "Encryption(keys=b, a, scope='acme')"


def test_the_same_keys_serve_another_scope() -> None:
    scoped = Encryption({"b": KEY}).scoped("acme")
    assert (scoped.keys, scoped.scope) == ({"b": KEY}, "acme")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("", "there is no key; make one with openssl rand -base64 32"),
        ({}, "there is no key"),
        (TEXT, "write each key as id:base64, with commas between them"),
        (f":{TEXT}", "'' is no id of a key"),
        ({"é": KEY}, "'é' is no id of a key: 1 to 40 letters, digits and _.-"),
        ({"x" * 41: KEY}, "is no id of a key"),
        (f"a:{TEXT},a:{TEXT}", "there are two keys 'a': give each an id of its own"),
        ("a:secret!", "key 'a' must be 32 random bytes, written in base64: openssl rand -base64 32"),
        ("a:" + TEXT[:-4], "key 'a' must be 32"),
        ({"a": KEY + b"x"}, "key 'a' must be 32"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(keys: str | dict[str, str | bytes], told: str) -> None:
    with pytest.raises(UsageError, match=r"^encryption: ") as caught:
        Encryption(keys)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", [unreadable("key 'a' is not here"), SEALED + "a:xyz"])
def test_a_text_that_cannot_be_decrypted_is_told_from_one_that_does_not_fit(text: str) -> None:
    for read in (codec.decode_any, codec.Shape(int, "the result").decode, failure.decode_error, refuse_unreadable):
        with pytest.raises(DecryptionError, match="key 'a' is not here|there is no key here: give this program PERD"):
            read(text)
    assert issubclass(DecryptionError, StoreError)


def test_other_texts_are_left_to_whoever_reads_them() -> None:
    for text in (None, "{}", 1, "sealed", ""):
        refuse_unreadable(text)
    with pytest.raises(SerializationError):
        codec.decode_any("nothing")
    with pytest.raises(ValueError, match="malformed"):
        failure.decode_error("nothing")
