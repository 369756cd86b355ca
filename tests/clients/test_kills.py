"""What official clients published is delivered, whenever the server is killed."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from qstash import QStash

from tests.clients.conftest import Destination, begun, ended, until

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(150)]

LEASES = 60.0
"""Seconds within which what a killed server had is worked by the next one."""


def test_killed_servers_lose_no_message_and_keep_the_order_of_queues(tmp_path: Path, there: Destination):
    name = f"n{uuid.uuid4().hex[:12]}"
    there.failing.add(f"{name}-dead")
    expected: list[str] = []
    sent: set[str] = set()
    for life in range(3):
        server = begun(tmp_path)
        client = QStash(server.token, base_url=server.url, retry=False)
        for number in range(15):
            text = f"{life}-{number:02}"
            plain = client.message.publish(
                url=f"{there.url}/{name}-plain", body=text, delay="1s" if number % 2 else "0s"
            )
            line = client.message.enqueue(queue=name, url=f"{there.url}/{name}-queue", body=text)
            sent |= {plain.message_id, line.message_id}
            expected.append(text)
        client.message.publish(url=f"{there.url}/{name}-dead", retries=0, label=name)
        client.http._client.close()
        server.process.kill()
        server.process.wait()
    server = begun(tmp_path)
    client = QStash(server.token, base_url=server.url, retry=False)

    def bodies(kind: str) -> list[str]:
        return [got.body.decode() for got in there.got if got.target == f"/{name}-{kind}"]

    until(lambda: set(bodies("plain")) == set(expected) == set(bodies("queue")) or None, LEASES)
    first = list(dict.fromkeys(bodies("queue")))  # at least once: one that was under way may come again
    assert first == expected
    assert {got.headers["upstash-message-id"] for got in there.got if name in got.target} >= sent
    until(lambda: len(client.dlq.list(filter={"label": name}).messages) == 3 or None, LEASES)
    client.http._client.close()
    ended(server)
