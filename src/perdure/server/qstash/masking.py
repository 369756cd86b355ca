"""What viewers do not see of messages: the fields that the server's settings name, in bodies, headers and addresses."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.server.access import Access

_FORWARD = "Upstash-Forward-"
_HEADERS = ("header", "callbackHeader", "failureCallbackHeader", "responseHeader", "responseHeaders")

_NOTIFIED = ("Wait", "WaitForWebhook")
"""The types of steps whose results are base64."""


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


def masked_run(access: Access, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of a workflow run, a waiter or a dead letter of such a run to whoever asks."""
    redaction = access.redaction
    if not redaction.fields:
        return dict(document)
    shown: dict[str, Any] = _mended(redaction.value(document))
    for step in (step for group in shown.get("steps", ()) for step in group["steps"]):
        if step.get("stepType") in _NOTIFIED and step.get("out"):
            text = base64.b64decode(step["out"]).decode(errors="replace")
            if step["stepType"] == _NOTIFIED[1]:
                call = json.loads(text)
                text = json.dumps({**call, "body": base64.b64decode(call["body"]).decode(errors="replace")})
            if (seen := redaction.value(text)) != text:
                step["out"] = base64.b64encode(seen.encode()).decode()
    return shown


def _mended(value: Any) -> Any:
    """Return what is shown with headers that have lists of values, where a mask took the place of one."""
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: {each: held if isinstance(held, list) else [held] for each, held in shown.items()}
        if name.lower().endswith(("header", "headers")) and isinstance(shown, dict)
        else _mended(shown)
        for name, shown in value.items()
    }


def _as_list(held: Mapping[str, Any]) -> list[str]:
    (values,) = held.values()
    return values if isinstance(values, list) else [values]
