"""Names that stand in journal keys."""

from __future__ import annotations

from perdure.model.errors import UsageError
from perdure.model.limits import NAME_LENGTH


def check_name(name: str, what: str) -> str:
    """Return a name that can stand in a journal key.

    Raises:
        UsageError: it is empty, too long, holds `/`, `#` or a control character, or begins with `undo:`.
    """
    if not isinstance(name, str) or not name or len(name) > NAME_LENGTH:
        raise UsageError(f"{what}: {name!r} must be text of 1 to {NAME_LENGTH} characters")
    if not name.isprintable() or "/" in name or "#" in name:
        raise UsageError(f"{what}: {name!r} must not hold '/', '#' or control characters, which journal keys use")
    if name.startswith("undo:"):
        raise UsageError(f"{what}: {name!r} must not begin with 'undo:', which the records of undos do")
    return name
