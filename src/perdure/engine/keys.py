"""The keys that this process was given to encrypt what it stores."""

from __future__ import annotations

import os

from perdure.model.encryption import Encryption
from perdure.store.namespaces import DEFAULT

KEYS = "PERDURE_ENCRYPTION_KEYS"
"""The variable of the environment that has them, as `Encryption` takes them."""


def encryption_here(namespace: str = DEFAULT) -> Encryption | None:
    """Return the keys of the environment, for one namespace; None where there are none.

    Raises:
        UsageError: they are wrong.
    """
    keys = os.environ.get(KEYS)
    return Encryption(keys, "" if namespace == DEFAULT else namespace) if keys else None
