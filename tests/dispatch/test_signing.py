"""Signatures as QStash makes them, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import os
import time

import jwt
import pytest
import qstash

from perdure.dispatch.protocol import TURN_MS, TokenError, TurnToken, opened
from perdure.dispatch.signing import HOLDS, PUSHER, SKEW_MS, SignatureError, SigningKeys, sign, verify
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus

NOW = 1_700_000_000_000
URL = "https://shop.example.com/perdure"
BODY = b'{"a": 1}'


@pytest.fixture
def keys():
    return SigningKeys.made(os.urandom)


def signed(keys, body=BODY, url=URL, **options):
    return sign(keys, url, body, id="jwt_1", now=NOW, **options)


def test_the_claims_are_those_of_qstash(keys):
    options = {"verify_exp": False, "verify_aud": False}
    claims = jwt.decode(signed(keys), keys.current, ["HS256"], options=options)
    assert claims == {
        "aud": "",
        "iss": "Upstash",
        "sub": URL,
        "exp": NOW // 1000 + round(HOLDS),
        "nbf": NOW // 1000,
        "iat": NOW // 1000,
        "jti": "jwt_1",
        "body": base64.urlsafe_b64encode(hashlib.sha256(BODY).digest()).decode(),
    }


def test_a_message_does_not_pass_for_a_push(keys):
    with pytest.raises(SignatureError, match="somebody else"):
        verify(keys, signed(keys), BODY, now=NOW, url=URL, issuer=PUSHER)
    assert verify(keys, signed(keys, issuer=PUSHER), BODY, now=NOW, url=URL, issuer=PUSHER).id == "jwt_1"


def test_a_signature_holds_under_either_key(keys):
    assert verify(keys, signed(keys), BODY, now=NOW, url=URL).id == "jwt_1"
    assert verify(keys, signed(keys.rotated(os.urandom)), BODY, now=NOW).id == "jwt_1"
    rotated = keys.rotated(os.urandom)
    assert rotated.current == keys.next
    with pytest.raises(SignatureError, match="neither key"):
        verify(rotated, signed(keys), BODY, now=NOW)


def test_a_hash_without_padding_counts_too(keys):
    claims = jwt.decode(signed(keys), options={"verify_signature": False})
    bare = jwt.encode({**claims, "body": claims["body"].rstrip("=")}, keys.current, "HS256")
    assert verify(keys, bare, BODY, now=NOW).id == "jwt_1"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"body": "x"}, "the body is not what was signed"),
        ({"iss": "Somebody"}, "from somebody else"),
        ({"sub": "https://other.example.com"}, "for another URL"),
        ({"exp": "soon"}, "when it holds"),
        ({"nbf": NOW // 1000 + 3600}, "not hold yet"),
        ({"exp": NOW // 1000 - 3600}, "holds no longer"),
        ({"jti": None}, "no signature"),
    ],
)
def test_what_is_refused(keys, change, told):
    claims = jwt.decode(signed(keys), options={"verify_signature": False})
    changed = {name: value for name, value in {**claims, **change}.items() if value is not None}
    with pytest.raises(SignatureError, match=told):
        verify(keys, jwt.encode(changed, keys.current, "HS256"), BODY, now=NOW, url=URL)


@pytest.mark.parametrize("forged", ["", "a.b.c", "x" * 10_000])
def test_what_is_no_signature(keys, forged):
    with pytest.raises(SignatureError, match="no signature"):
        verify(keys, forged, BODY, now=NOW)


def test_no_other_algorithm_is_taken(keys):
    claims = jwt.decode(signed(keys), options={"verify_signature": False})
    for forged in (jwt.encode(claims, None, "none"), jwt.encode(claims, 2 * keys.current, "HS512")):
        with pytest.raises(SignatureError):
            verify(keys, forged, BODY, now=NOW)


def test_clocks_may_differ_a_little(keys):
    holds = round(HOLDS) * 1000
    assert verify(keys, signed(keys), BODY, now=NOW - SKEW_MS).id == "jwt_1"
    assert verify(keys, signed(keys), BODY, now=NOW + holds + SKEW_MS - 1).until == NOW + holds + SKEW_MS
    with pytest.raises(SignatureError, match="no longer"):
        verify(keys, signed(keys), BODY, now=NOW + holds + SKEW_MS)
    with pytest.raises(SignatureError, match="not hold yet"):
        verify(keys, signed(keys), BODY, now=NOW - SKEW_MS - 1)


@pytest.mark.parametrize("flipped", range(len(BODY)))
def test_each_byte_counts(keys, flipped):
    changed = bytes(byte ^ (position == flipped) for position, byte in enumerate(BODY))
    with pytest.raises(SignatureError, match="not what was signed"):
        verify(keys, signed(keys), changed, now=NOW)


def test_keys_that_are_none(keys):
    for current in ("short", "x" * 201, "with spaces " * 4):
        with pytest.raises(UsageError, match="signing key, current"):
            SigningKeys(current, keys.next).require_usable()
    keys.require_usable()


class TestTokens:
    run = Run("a", "w", RunStatus.RUNNING, 0, 0, epoch=3, seq=1)

    def test_a_token_is_for_the_next_decision(self):
        token = TurnToken.of("shop", self.run, NOW).sealed("s" * 32)
        assert opened(token, ("t" * 32, "s" * 32), NOW) == TurnToken("shop", "a", 3, 2, NOW + TURN_MS)

    def test_what_is_refused(self):
        token = TurnToken.of("shop", self.run, NOW).sealed("s" * 32)
        with pytest.raises(TokenError, match="no longer"):
            opened(token, ("s" * 32,), NOW + TURN_MS)
        for forged in (token[:-2], "", "a.b.c", jwt.encode({"run": "a"}, "s" * 32, "HS256")):
            with pytest.raises(TokenError, match="none of this server"):
                opened(forged, ("s" * 32,), NOW)
        with pytest.raises(TokenError, match="none of this server"):
            opened(token, ("t" * 32,), NOW)


class TestBesideQStashsOwn:
    """What its receiver checks, and what its servers sign."""

    @pytest.mark.parametrize("is_past", [True, False])
    @pytest.mark.parametrize("is_rotated", [True, False])
    def test_its_receiver_takes_what_we_sign(self, keys, is_past, is_rotated):
        now = int(time.time() * 1000)
        signing = keys.rotated(os.urandom) if is_rotated else keys
        signature = sign(signing, URL, BODY, id="jwt_1", now=now, is_past=is_past)
        receiver = qstash.Receiver(current_signing_key=keys.current, next_signing_key=keys.next)
        receiver.verify(signature=signature, body=BODY.decode(), url=URL)
        for changed in ({"body": "{}"}, {"url": f"{URL}/"}, {"signature": f"{signature[:-4]}AAAA"}):
            with pytest.raises(qstash.errors.SignatureError):
                receiver.verify(**{"signature": signature, "body": BODY.decode(), "url": URL, **changed})

    def test_we_take_what_it_signs(self, keys):
        """The claims are those of the example in its documentation of how to verify a signature by hand."""
        now = int(time.time() * 1000)
        digest = base64.urlsafe_b64encode(hashlib.sha256(BODY).digest()).decode()
        claims = {
            "iss": "Upstash",
            "sub": URL,
            "exp": now // 1000 + 300,
            "nbf": now // 1000,
            "iat": now // 1000,
            "jti": "jwt_67kxXD6UBAk7DqU6hzuHMDdXFXfP",
            "body": digest.rstrip("="),
        }
        for key in (keys.current, keys.next):
            signature = jwt.encode(claims, key, "HS256")
            assert verify(keys, signature, BODY, now=now, url=URL).id == claims["jti"]
            qstash.Receiver(keys.current, keys.next).verify(signature=signature, body=BODY.decode(), url=URL)
        with pytest.raises(SignatureError):
            verify(keys, jwt.encode({**claims, "iss": "Somebody"}, keys.current, "HS256"), BODY, now=now)
