"""The public keys of an issuer of tokens: from one URL, kept, and believed for a while when it does not answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import jwt

from perdure.engine.env import Env
from perdure.model.errors import NonRetryableError, StepError
from perdure.server.security.issuers import Issuer
from perdure.tasks.addresses import Guard
from perdure.tasks.door import Door, HttpTimeouts, Request

FRESH = 300_000
"""Milliseconds after which they are asked for again, while those that are there go on."""

STALE = 24 * 3_600_000
"""Milliseconds for which they are believed while the issuer does not answer."""

REST = 30_000
"""Milliseconds between two times that they are asked for, whatever tokens say."""

MOST_BYTES = 262_144
MOST_KEYS = 100
TIMEOUTS = HttpTimeouts(connect=5.0, read=5.0, total=10.0)

_FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_log = logging.getLogger("perdure.server")


class KeySet:
    """The keys of one issuer, by their ids.

    Args:
        issuer: whose.
        world: for the time.
    """

    def __init__(self, issuer: Issuer, world: Env) -> None:
        self._issuer = issuer
        self._world = world
        self._door = Door(Guard(issuer.allow), MOST_BYTES, 0, None)
        self._keys: dict[str, dict[str, Any]] = {}
        self._fetched_at: int | None = None
        self._asked_at: int | None = None
        self._asking: asyncio.Task[None] | None = None

    async def key(self, id: str, algorithm: str) -> jwt.PyJWK | None:
        """Return the key with an id, if it is one for that algorithm."""
        now = self._world.now()
        if self._fetched_at is not None and now - self._fetched_at > STALE:
            self._keys, self._fetched_at = {}, None
        if id not in self._keys:
            await self._ask(now)
        elif self._fetched_at is None or now - self._fetched_at > FRESH:
            self._begin(now)
        found = self._keys.get(id)
        if found is None or not _is_for(found, algorithm):
            return None
        try:
            return jwt.PyJWK(found, algorithm)
        except jwt.PyJWTError:
            return None

    async def close(self) -> None:
        """Ask no longer."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _begin(self, now: int) -> None:
        if self._asking is None and (self._asked_at is None or now - self._asked_at >= REST):
            self._asked_at = now
            self._asking = asyncio.get_running_loop().create_task(self._fetch(now))

    async def _ask(self, now: int) -> None:
        self._begin(now)
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def _fetch(self, now: int) -> None:
        try:
            self._keys = await self._get()
            self._fetched_at = now
        except (StepError, NonRetryableError) as error:
            _log.warning("the keys of %s could not be had; those that are known go on: %s", self._issuer.issuer, error)
        finally:
            self._asking = None

    async def _get(self) -> dict[str, dict[str, Any]]:
        headers = {"accept": "application/json"}
        answer = await self._door.send(Request("GET", self._issuer.jwks, headers, None, None), TIMEOUTS)
        keys = answer.json.get("keys") if isinstance(answer.json, dict) else None
        if answer.status != 200 or not isinstance(keys, list):
            raise StepError(f"{self._issuer.jwks} answered {answer.status}, and no keys")
        named = [key for key in keys[:MOST_KEYS] if isinstance(key, dict) and isinstance(key.get("kid"), str)]
        return {key["kid"]: key for key in named}


def _is_for(key: dict[str, Any], algorithm: str) -> bool:
    """Return whether a key says that it is one for checking signatures made with an algorithm."""
    return (
        key.get("kty") == _FAMILIES[algorithm[:2]]
        and key.get("alg", algorithm) == algorithm
        and key.get("use", "sig") == "sig"
        and ("key_ops" not in key or "verify" in key["key_ops"])
        and ("crv" not in key or key["crv"] == _CURVES.get(algorithm))
    )
