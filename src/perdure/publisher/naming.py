"""Which option of the publisher a server speaks of, where it names its own header."""

from __future__ import annotations

import re

_OPTIONS = {
    "method": "method",
    "delay": "delay",
    "not-before": "not_before",
    "retries": "retries",
    "retry-delay": "retry_delay",
    "timeout": "timeout",
    "deduplication-id": "dedup_id",
    "content-based-deduplication": "dedup_by_content",
    "callback": "callback",
    "failure-callback": "failure_callback",
    "label": "labels",
    "flow-control-key": "flow_control",
    "flow-control-value": "flow_control",
    "queue-name": "queue",
    "redact-fields": "redact",
    "forward-": "headers",
    "cron": "cron",
    "schedule-id": "id",
}
_HEADER = re.compile(r"Upstash-([A-Za-z-]+)", re.IGNORECASE)
_SAID = {"invalid destination url": "url", "deduplicationid": "dedup_id", "retry delay": "retry_delay"}


def option_of(said: str) -> str:
    """Return the option that the text of a refusal begins with; empty where it begins with none."""
    header = _HEADER.match(said)
    if header is not None:
        return _OPTIONS.get(header[1].lower(), "")
    return next((option for beginning, option in _SAID.items() if said.lower().startswith(beginning)), "")
