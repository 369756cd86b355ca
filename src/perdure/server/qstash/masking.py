"""What viewers do not see of messages: the fields that the server's settings name, in bodies, headers and addresses."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.server.access import Access

_FORWARD = "Upstash-Forward-"
_HEADERS = ("header", "callbackHeader", "failureCallbackHeader", "responseHeader", "responseHeaders")


def masked(access: Access, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of a message, a dead letter or a schedule to whoever asks."""
    redaction = access.redaction
    if not redaction.fields:
        return dict(document)
    shown: dict[str, Any] = redaction.value({each: held for each, held in document.items() if each not in _HEADERS})
    for each in _HEADERS:
        if each in document:
            shown[each] = {
                name: _as_list(redaction.value({name.removeprefix(_FORWARD): values}))
                for name, values in document[each].items()
            }
    return shown


def masked_entries(access: Access, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is shown of logs, whose bodies are base64."""
    found = []
    for entry in entries:
        shown = masked(access, entry)
        if access.redaction.fields and (body := entry.get("body")):
            text = base64.b64decode(body).decode(errors="replace")
            if (seen := access.redaction.value(text)) != text:
                shown["body"] = base64.b64encode(seen.encode()).decode()
        found.append(shown)
    return found


def _as_list(held: Mapping[str, Any]) -> list[str]:
    (values,) = held.values()
    return values if isinstance(values, list) else [values]
