"""Fields of data that somebody wrote: read in either spelling, and what is wrong with them taken down."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from perdure.model.errors import DefinitionError, UsageError
from perdure.model.name import check_name

FLAWS_TOLD = 50

_OTHER_NAMES = {"task_name": "task", "workflow_name": "workflow", "on_unmet": "when_unmet"}
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Reader:
    """Looks at fields and takes down what is wrong with them."""

    def __init__(self, found: Iterable[str] = ()) -> None:
        self.found = list(found)

    def end(self, name: str) -> None:
        """Raise what was found, if anything was."""
        if self.found:
            told = "".join(f"\n  {each}" for each in self.found[:FLAWS_TOLD])
            more = f"\n  and {len(self.found) - FLAWS_TOLD} more" if len(self.found) > FLAWS_TOLD else ""
            raise DefinitionError(f"definition {name!r} is wrong:{told}{more}", self.found[:FLAWS_TOLD])

    def check(self, look: Callable[[], object]) -> bool:
        """Take down what a check raises; return whether it raised nothing."""
        try:
            look()
        except UsageError as error:
            self.found.append(str(error))
            return False
        return True

    def fields(self, data: object, path: str, known: tuple[str, ...]) -> dict[str, Any]:
        """Return the fields of an object under their own names, without those that are unknown."""
        if not isinstance(data, Mapping):
            self.found.append(f"{path or 'the definition'}: {shown(data)} must be an object")
            return {}
        fields: dict[str, Any] = {}
        for name, value in data.items():
            where = f"{path}.{name}" if path else str(name)
            plain = _HUMP.sub("_", name).lower() if isinstance(name, str) else ""
            plain = _OTHER_NAMES.get(plain, plain)
            if plain not in known:
                close = difflib.get_close_matches(plain, known, 1)
                advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                self.found.append(f"{where}: there is no such field; {advice}")
            elif plain in fields:
                self.found.append(f"{where}: {plain!r} is given twice")
            else:
                fields[plain] = value
        return fields

    def text(self, fields: Mapping[str, Any], field: str, path: str) -> str:
        """Return a field that must be there and be a name."""
        where = f"{path}.{field}" if path else field
        if field not in fields:
            self.found.append(f"{where}: it is not given")
            return ""
        self.check(lambda: check_name(fields[field], where))
        return str(fields[field])


def shown(value: object) -> str:
    """Return a value for an error, not too long."""
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "..."
