"""How requests are signed and signatures are checked: as QStash does it, so that its receivers can check ours.

A signature is a JWT (HS256) that says whom it is from, which URL it is for, what the body hashes to, and when it holds.
There are two keys: what the current one signed is taken, and what the next one did, so that a rotation disturbs nobody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
from jwt.types import Options

from perdure.model.errors import PerdureError, UsageError

ISSUER = "Upstash"
"""Who signs messages, by its own account: the name that official receivers ask for."""

PUSHER = "Perdure"
"""Who signs what endpoints are asked. It is another one than for messages, whose bodies are what somebody publishes:
none of them can pass for a push.
"""

HEADER = "Upstash-Signature"
"""The header that carries a signature to receivers of messages."""

HOLDS = 300.0
"""Seconds for which a signature holds."""

SKEW_MS = 30_000
"""By how many milliseconds the clock of who checks may differ from that of who signed."""

SLACK = 10
"""How many seconds ago a signature was made that is in the past."""

ALGORITHM = "HS256"

_KEY = re.compile(r"[!-~]{32,200}")


class SignatureError(PerdureError):
    """A signature does not hold; the message says why, and nothing that is secret."""


class SigningKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The two keys.

    Attributes:
        current: what is signed with.
        next: what takes its place with the next rotation.
    """

    current: str
    next: str

    @classmethod
    def made(cls, entropy: Callable[[int], bytes]) -> SigningKeys:
        """Return new keys."""
        return cls(made_key(entropy), made_key(entropy))

    def rotated(self, entropy: Callable[[int], bytes]) -> SigningKeys:
        """Return the keys after a rotation: the next one is the current one."""
        return SigningKeys(self.next, made_key(entropy))

    def require_usable(self) -> None:
        """Refuse keys that nothing can be signed with.

        Raises:
            UsageError: one is too short, or holds what cannot stand in it.
        """
        for field in ("current", "next"):
            if not _KEY.fullmatch(getattr(self, field)):
                raise UsageError(f"signing key, {field}: it must be 32 to 200 characters of ASCII, without spaces")


class Signature(msgspec.Struct, frozen=True):
    """What a signature says that holds.

    Attributes:
        id: its own, so that it can be told from any other.
        until: when it holds no longer, in milliseconds since the epoch.
    """

    id: str
    until: int


def made_key(entropy: Callable[[int], bytes]) -> str:
    """Return a new key."""
    return f"sig_{base64.b32encode(entropy(20)).decode()}"


def sign(
    keys: SigningKeys,
    url: str,
    body: bytes,
    *,
    id: str,
    now: int,
    holds: float = HOLDS,
    is_past: bool = False,
    issuer: str = ISSUER,
) -> str:
    """Return the signature of a request.

    Args:
        keys: of which the current one signs.
        url: whom it goes to.
        body: what is sent.
        id: of the signature; new for each request.
        now: the present, in milliseconds since the epoch.
        holds: for how many seconds it holds.
        is_past: it holds since ever, and was made a little while ago: QStash's receivers put up with no clock that is
            ahead of theirs.
        issuer: who signs.
    """
    at = now // 1000
    claims = {
        "aud": "",
        "body": body_hash(body),
        "exp": at + round(holds),
        "iat": at - SLACK if is_past else at,
        "iss": issuer,
        "jti": id,
        "nbf": 0 if is_past else at,
        "sub": url,
    }
    return jwt.encode(claims, keys.current, ALGORITHM)


def verify(
    keys: SigningKeys, signature: str, body: bytes, *, now: int, url: str | None = None, issuer: str = ISSUER
) -> Signature:
    """Return what a signature says, if it holds.

    Args:
        keys: one of which must have signed.
        signature: as it came.
        body: what came with it, as it came.
        now: the present, in milliseconds since the epoch.
        url: whom it must be for; None takes any.
        issuer: who must have signed, by its own account.

    Raises:
        SignatureError: it does not hold.
    """
    claims = _claims(keys, signature)
    if claims["iss"] != issuer:
        raise SignatureError("the signature is from somebody else")
    if url is not None and claims["sub"] != url:
        raise SignatureError(f"the signature is for another URL, and not for {url}")
    if not hmac.compare_digest(str(claims["body"]).rstrip("="), body_hash(body).rstrip("=")):
        raise SignatureError("the body is not what was signed")
    try:
        begins, ends = int(claims["nbf"]) * 1000, int(claims["exp"]) * 1000
    except (TypeError, ValueError):
        raise SignatureError("the signature does not say when it holds") from None
    if now + SKEW_MS < begins:
        raise SignatureError("the signature does not hold yet: see to the clocks")
    if now - SKEW_MS >= ends:
        raise SignatureError("the signature holds no longer")
    return Signature(str(claims["jti"]), ends + SKEW_MS)


def body_hash(body: bytes) -> str:
    """Return what a body hashes to, as signatures say it."""
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode()


def _claims(keys: SigningKeys, signature: str) -> dict[str, Any]:
    options: Options = {  # when it holds, `now` says
        "verify_exp": False,
        "verify_nbf": False,
        "verify_iat": False,
        "verify_aud": False,
        "require": ["iss", "sub", "exp", "nbf", "jti", "body"],
    }
    for key in (keys.current, keys.next):
        try:
            claims: dict[str, Any] = jwt.decode(signature, key, [ALGORITHM], options=options)
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError as error:
            raise SignatureError(f"that is no signature: {error}") from None
        return claims
    raise SignatureError("neither key has signed that")
