"""The keys that a store's data is encrypted with, and how a text shows that it is, or that it cannot be read."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from perdure.model.errors import DecryptionError, UsageError

SEALED = "sealed:"
"""What an encrypted text begins with, and no JSON does."""

KEY_BYTES = 32

_ID = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_UNREADABLE = "unreadable:"


class Encryption:
    """Keys by their ids: the first encrypts, and all decrypt. What it prints tells none of them.

    Args:
        keys: `"2026b:<base64>,2026a:<base64>"`, or a mapping of the ids to keys of 32 bytes, which may be in base64.
            An id is 1 to 40 letters, digits and `_.-`.
        scope: what is encrypted for one scope is not believed in another: the name of a namespace; empty for the
            default one.

    Attributes:
        keys: the keys, by id, in their order.
        scope: see above.

    Raises:
        UsageError: there is no key, an id is there twice, or a key is none.
    """

    def __init__(self, keys: str | Mapping[str, str | bytes], scope: str = "") -> None:
        self.keys: dict[str, bytes] = {}
        self.scope = scope
        for key_id, key in _parts(keys) if isinstance(keys, str) else list(keys.items()):
            if not _ID.fullmatch(key_id):
                raise UsageError(f"encryption: {key_id!r} is no id of a key: 1 to 40 letters, digits and _.-")
            if key_id in self.keys:
                raise UsageError(f"encryption: there are two keys {key_id!r}: give each an id of its own")
            self.keys[key_id] = _key(key_id, key)
        if not self.keys:
            raise UsageError("encryption: there is no key; make one with openssl rand -base64 32")

    def __repr__(self) -> str:
        return f"Encryption(keys={', '.join(self.keys)}, scope={self.scope!r})"

    def scoped(self, scope: str) -> Encryption:
        """Return the same keys for another scope."""
        return Encryption(self.keys, scope)


def _parts(keys: str) -> list[tuple[str, str]]:
    parts = [part.strip().partition(":") for part in keys.split(",") if part.strip()]
    if not all(separator for _, separator, _ in parts):
        raise UsageError("encryption: write each key as id:base64, with commas between them")
    return [(key_id, key) for key_id, _, key in parts]


def _key(key_id: str, key: str | bytes) -> bytes:
    if isinstance(key, str):
        try:
            key = base64.b64decode(key.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"encryption: key {key_id!r} must be {KEY_BYTES} random bytes, written in base64: openssl rand -base64 32"
        )
    return bytes(key)


def unreadable(reason: str) -> str:
    """Return the text that stands for one that cannot be decrypted."""
    return _UNREADABLE + reason


def refuse_unreadable(text: object) -> None:
    """Refuse a text that is encrypted, or stands for one that could not be decrypted; anything else may be read.

    Raises:
        DecryptionError: it is such a text.
    """
    if isinstance(text, str) and text.startswith(_UNREADABLE):
        raise DecryptionError(text.removeprefix(_UNREADABLE))
    if isinstance(text, str) and text.startswith(SEALED):
        raise DecryptionError("it is encrypted, and there is no key here: give this program PERDURE_ENCRYPTION_KEYS")
