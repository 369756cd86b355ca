"""The keys that this process was given: to encrypt what it stores, and to prove to a server who it is."""

from __future__ import annotations

import os

from perdure.model.encryption import Encryption
from perdure.store import Store, is_a_servers, open_store
from perdure.store.namespaces import DEFAULT

KEYS = "PERDURE_ENCRYPTION_KEYS"
"""The variable of the environment that has them, as `Encryption` takes them."""

API_KEY = "PERDURE_API_KEY"
"""The variable of the environment that has the API key, or the token, for a server."""


def encryption_here(namespace: str = DEFAULT) -> Encryption | None:
    """Return the keys of the environment, for one namespace; None where there are none.

    Raises:
        UsageError: they are wrong.
    """
    keys = os.environ.get(KEYS)
    return Encryption(keys, "" if namespace == DEFAULT else namespace) if keys else None


def store_here(url: str, encryption: Encryption | None) -> Store:
    """Construct the store at a URL, as `open_store` does; a server is shown this process's API key.

    Raises:
        UsageError: as for `open_store`.
    """
    key = os.environ.get(API_KEY)
    names = {pair.partition("=")[0] for pair in url.partition("?")[2].split("&")}
    if key and is_a_servers(url) and "api_key" not in names:
        return open_store(url, encryption, api_key=key)
    return open_store(url, encryption)
