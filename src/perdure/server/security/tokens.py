"""Signed tokens (JWT) of issuers that the settings name; what a token says of how to check it is held against them."""

from __future__ import annotations

from typing import Any

import jwt

from perdure.engine.env import Env
from perdure.model.limits import NAME_LENGTH
from perdure.server.principal import Principal
from perdure.server.security.issuers import Issuer
from perdure.server.security.jwks import KeySet

LEEWAY = 30
"""By how many seconds an issuer's clock may be off."""

KEY_ID_LENGTH = 200

_TYPES = ("jwt", "at+jwt", "application/at+jwt")


class Tokens:
    """Checks tokens.

    Args:
        issuers: who is trusted.
        names: the namespaces of the server.
        world: for the time between looks at the issuers' keys.
    """

    def __init__(self, issuers: tuple[Issuer, ...], names: tuple[str, ...], world: Env) -> None:
        self._issuers = {each.issuer: (each, KeySet(each, world)) for each in issuers}
        self._names = names

    async def verify(self, token: str) -> Principal | None:
        """Return who a token says it is; None where it is not to be believed, or says nothing that counts here."""
        try:
            header = jwt.get_unverified_header(token)
            said = jwt.decode(token, options={"verify_signature": False})
            issuer, keys = self._issuers.get(str(said.get("iss")), (None, None))
            if issuer is None or keys is None or not _is_plain(header, issuer):
                return None
            key = await keys.key(header["kid"], header["alg"])
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                [header["alg"]],
                options={
                    "require": ["iss", "aud", "exp", "sub", issuer.since],
                    "enforce_minimum_key_length": True,
                },
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=LEEWAY,
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):  # what is malformed enough is any of these
            return None
        return self._principal(issuer, claims)

    async def close(self) -> None:
        """Ask no issuer any longer."""
        for _, keys in self._issuers.values():
            await keys.close()

    def _principal(self, issuer: Issuer, claims: dict[str, Any]) -> Principal | None:
        role = issuer.role_of(claims)
        namespaces = issuer.namespaces_of(claims, self._names)
        name, subject = claims.get(issuer.name), claims["sub"]
        if role is None or not namespaces or not _is_name(name) or not _is_name(subject):
            return None
        return Principal(
            str(name),
            role,
            "token",
            namespaces,
            id=f"{issuer.issuer} {subject}",
            is_everywhere=issuer.is_everywhere(claims),
        )


def _is_plain(header: dict[str, Any], issuer: Issuer) -> bool:
    """Return whether a header asks for nothing but what the settings have."""
    key = header.get("kid")
    return (
        header.get("alg") in issuer.algorithms
        and "crit" not in header
        and "b64" not in header
        and str(header.get("typ", "jwt")).lower() in _TYPES
        and isinstance(key, str)
        and 0 < len(key) <= KEY_ID_LENGTH
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and value.isprintable()
