"""What the settings keep from viewers is in no answer about messages, wherever it stands."""

from __future__ import annotations

import base64
import json

from tests.dispatch.messages.destination import answered
from tests.server.qstash.conftest import until

HEADERS = {
    "Upstash-Forward-Api-Secret": "canary-1",
    "Upstash-Callback": "https://a.example/?api_secret=canary-2",
    "Upstash-Callback-Forward-Api-Secret": "canary-3",
    "Upstash-Failure-Callback": "https://a.example",
    "Upstash-Failure-Callback-Forward-apiSecret": "canary-4",
    "Upstash-Retries": "0",
    "Upstash-Cron": "0 0 1 1 *",
}
BODY = json.dumps({"order": {"api_secret": "canary-5", "number": 7}})


def plain(text: str) -> str:
    """An answer, with what is base64 in it decoded behind it."""
    found = json.loads(text)
    entries = found if isinstance(found, list) else found.get("events", found.get("messages", [found]))
    held = [base64.b64decode(each["body"]).decode() for each in entries if each.get("state")]
    return text + " ".join(held)


async def test_viewers_see_nothing_that_is_masked(keyed, there):
    keyed = await keyed(redact=("api_secret",))
    there.answer = lambda got: answered(500, "Api-Secret: canary-6\r\n", b'{"api_secret": "canary-7"}')
    await keyed.ask("operator", "POST", f"/v2/publish/{there.url}?api_secret=canary-8", HEADERS, content=BODY)

    async def letters() -> list[dict[str, object]]:
        return (await keyed.ask("operator", "GET", "/v2/dlq")).json()["messages"]

    (letter,) = await until(letters)
    later = {**HEADERS, "Upstash-Delay": "1h"}
    answer = await keyed.ask("operator", "POST", f"/v2/publish/{there.url}", later, content=BODY)
    made = await keyed.ask("operator", "POST", f"/v2/schedules/{there.url}", HEADERS, content=BODY)
    paths = [
        f"/v2/messages/{answer.json()['messageId']}",
        "/v2/dlq",
        f"/v2/dlq/{letter['dlqId']}",
        "/v2/events",
        "/v2/logs",
        "/v2/schedules",
        f"/v2/schedules/{made.json()['scheduleId']}",
    ]
    for path in paths:
        seen = plain((await keyed.ask("viewer", "GET", path)).text.replace('"logs"', '"events"'))
        assert "canary" not in seen, path
        assert "number" in seen
        assert '["***"]' in seen
        assert "canary-5" in plain((await keyed.ask("operator", "GET", path)).text.replace('"logs"', '"events"'))
