"""Which issuers of tokens (JWT, OpenID Connect) a server trusts, with what, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from perdure.model.errors import UsageError
from perdure.server.principal import ALL, Role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Those whose keys are public. None with a shared secret is among them: whoever can check such a token can make one."""

_HERE = ("localhost", "127.0.0.1", "::1")


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An issuer that is trusted.

    Attributes:
        issuer: what its tokens say as `iss`, letter for letter.
        audience: what they have to say as `aud`: the name of this server, there.
        jwks: the URL of its public keys. It is asked for them, and nothing that a token says.
        algorithms: what it signs with.
        since: the claim that says since when a token holds, which has to be there: `nbf`, or `iat` for issuers that do
            not send it.
        name: the claim that the audit log calls them by.
        role: the claim with the role, or a list; `a.b` for the `b` in `a`.
        roles: what a value of it stands for: metrics, viewer, operator or admin; without it, these words themselves.
        namespace: the claim with the namespaces; none for all that the issuer may give.
        namespaces: those that the issuer may give at most; `*` for all.
        allow: addresses that are not public, and where its keys may be fetched all the same (`10.1.0.0/16`).
    """

    issuer: str
    audience: str
    jwks: str
    algorithms: tuple[str, ...] = ("RS256",)
    since: str = "nbf"
    name: str = "sub"
    role: str = "perdure_role"
    roles: dict[str, str] = {}
    namespace: str | None = "perdure_namespaces"
    namespaces: tuple[str, ...] = ("default",)
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("issuer", "audience", "name", "role"):
            if not getattr(self, field):
                raise UsageError(f"issuers: {field} must not be empty")
        url = urlsplit(self.jwks)
        if "@" in url.netloc:  # which errors and logs would tell of
            raise UsageError("issuers: jwks: public keys need no user and no password; take them out of the URL")
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _HERE):
            raise UsageError(f"issuers: jwks: {self.jwks!r} must begin with https://")
        if not self.algorithms or not set(self.algorithms) <= set(ALGORITHMS):
            raise UsageError(f"issuers: algorithms: {list(self.algorithms)} must be some of {', '.join(ALGORITHMS)}")
        if self.since not in ("nbf", "iat"):
            raise UsageError(f"issuers: since: {self.since!r} must be nbf or iat")
        if wrong := set(self.roles.values()) - {str(role) for role in Role}:
            raise UsageError(f"issuers: roles: {', '.join(sorted(wrong))} is none of {', '.join(map(str, Role))}")
        if not self.namespaces:
            raise UsageError("issuers: namespaces: name one at least, or * for all")

    def role_of(self, claims: Mapping[str, Any]) -> Role | None:
        """Return the highest role that claims give; None for none."""
        given = [self.roles.get(text, "") if self.roles else text for text in _texts(claims, self.role)]
        return max((role for role in Role if str(role) in given), default=None)

    def namespaces_of(self, claims: Mapping[str, Any], known: tuple[str, ...]) -> tuple[str, ...]:
        """Return the namespaces that claims give, of those that there are."""
        most = known if ALL in self.namespaces else self.namespaces
        if self.namespace is None:
            return tuple(name for name in known if name in most)
        given = _texts(claims, self.namespace)
        return tuple(name for name in known if name in most and (name in given or ALL in given))

    def is_everywhere(self, claims: Mapping[str, Any]) -> bool:
        """Return whether claims give every namespace, also those that are yet to come."""
        return ALL in self.namespaces and (self.namespace is None or ALL in _texts(claims, self.namespace))


def read_issuers(text: str) -> tuple[Issuer, ...]:
    """Return issuers from JSON, a list of objects with the fields of `Issuer`, or from the file with it.

    Raises:
        UsageError: it is none, or one is wrong, or there twice.
    """
    if not text.lstrip().startswith("["):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"issuers: {text}: {error.strerror}") from None
    try:
        found = msgspec.json.decode(text, type=tuple[Issuer, ...])
    except msgspec.ValidationError as error:
        raise UsageError(f"issuers: {error}") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"issuers: this is no JSON: {error}") from None
    if len({each.issuer for each in found}) < len(found):
        raise UsageError("issuers: one of them is there twice")
    return found


def _texts(claims: Mapping[str, Any], path: str) -> list[str]:
    """Return the texts of a claim: one, or a list; none where it is anything else."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return [found]
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
