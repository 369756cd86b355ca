"""Encrypts texts with AES-256-GCM, each bound to the one place it is meant for.

A sealed text is `sealed:`, the id of its key, `:` and, in base64, nonce, ciphertext and tag. Each owner (a run, a
collection of documents) has keys of its own, which follow from the scope's by HMAC-SHA256, so that no key ever sees
more texts than AES-GCM is safe for. What else tells the place (which record, which field) is authenticated with it.

The nonce is the HMAC of place and text, under a key of its own. So the same text at the same place is the same
sealed text, and an operation that is repeated looks to a store like the one it repeats; two different texts have
different nonces, which is all that GCM asks for. Who can read the store may see that a value was written again.
"""

from __future__ import annotations

import base64
import functools
import hmac
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure.model.encryption import SEALED, Encryption
from perdure.model.errors import DecryptionError

_NONCE = 12
_SHARED = "~"
_OWNERS = 4096
"""Of how many owners the keys are remembered."""


class Owner(NamedTuple):
    """Whose a text is: the id of a run, say.

    Attributes:
        id: which.
        is_shared: the text may also be read as one of another owner, whose id is the same up to the first `/`.
    """

    id: str
    is_shared: bool = False


class _Keys(NamedTuple):
    cipher: AESGCM
    nonce: bytes


class Sealer:
    """Seals and opens texts; from any thread.

    Args:
        encryption: the keys.
    """

    def __init__(self, encryption: Encryption) -> None:
        self.first = next(iter(encryption.keys))
        self._secrets = encryption.keys
        self._scope = encryption.scope
        self._keys_of = functools.lru_cache(_OWNERS)(self._derived)

    def seal(self, text: str, owner: Owner, *place: object) -> str:
        """Return a text sealed for a place of its owner's."""
        keys = self._keys_of(self.first, _family(owner) if owner.is_shared else owner)
        about, plain = msgspec.json.encode(place), text.encode()
        nonce = hmac.digest(keys.nonce, len(about).to_bytes(4, "big") + about + plain, "sha256")[:_NONCE]
        sealed = base64.b64encode(nonce + keys.cipher.encrypt(nonce, plain, about)).decode()
        return f"{SEALED}{self.first}{_SHARED if owner.is_shared else ''}:{sealed}"

    def open(self, sealed: str, owner: Owner, *place: object) -> str:
        """Return the text that was sealed for a place of its owner's, whether it is shared or not.

        Raises:
            DecryptionError: its key is not here; or it is not sealed, was changed, or was sealed for another place.
        """
        if not sealed.startswith(SEALED):
            raise DecryptionError(f"{_told(owner, place)} is not encrypted: somebody else wrote it into this store")
        head, _, body = sealed.removeprefix(SEALED).partition(":")
        key_id = head.removesuffix(_SHARED)
        if key_id not in self._secrets:
            raise DecryptionError(
                f"{_told(owner, place)} is encrypted with key {key_id[:40]!r}, which is not here: add it to the keys, "
                "behind the first"
            )
        keys = self._keys_of(key_id, Owner(owner.id) if head == key_id else _family(owner))
        try:
            data = base64.b64decode(body, validate=True)
            return keys.cipher.decrypt(data[:_NONCE], data[_NONCE:], msgspec.json.encode(place)).decode()
        except (InvalidTag, ValueError):
            raise DecryptionError(
                f"{_told(owner, place)} was changed in the store, or moved there from another place, or its key "
                f"{key_id!r} is another one here"
            ) from None

    def _derived(self, key_id: str, owner: Owner) -> _Keys:
        about = msgspec.json.encode(("perdure", self._scope, owner.id, owner.is_shared))
        secret = self._secrets[key_id]
        return _Keys(AESGCM(hmac.digest(secret, b"c" + about, "sha256")), hmac.digest(secret, b"n" + about, "sha256"))


def _family(owner: Owner) -> Owner:
    return Owner(owner.id.partition("/")[0], is_shared=True)


def key_of(sealed: str) -> str:
    """Return the id of the key that a sealed text names."""
    return sealed.removeprefix(SEALED).partition(":")[0].removesuffix(_SHARED)


def is_shared(sealed: str) -> bool:
    """Return whether a text was sealed for a shared owner."""
    return sealed.removeprefix(SEALED).partition(":")[0].endswith(_SHARED)


def _told(owner: Owner, place: tuple[object, ...]) -> str:
    return f"{' '.join(str(part) for part in place[:3])} of {owner.id!r}"
