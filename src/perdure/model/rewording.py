"""Texts that are to stand in the place of others which say the same: encrypted with another key, say."""

from __future__ import annotations

from typing import Literal

import msgspec


class Rewording(msgspec.Struct, frozen=True, gc=False):
    """New texts for one run, definition or document.

    Attributes:
        of: which of the three.
        name: the id of the run, the name of the definition, the collection of the document.
        texts: by each old text the one that it becomes.
        part: the version of the definition, the key of the document; empty for a run.
    """

    of: Literal["run", "definition", "document"]
    name: str
    texts: dict[str, str]
    part: str = ""
