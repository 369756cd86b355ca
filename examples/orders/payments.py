"""A payment service, in a process of its own and with the manners of a real one.

    python -m examples.orders.payments [port] [url for webhooks]

`POST /charges` makes one charge for each Idempotency-Key, however often it is asked, and later tells the shop by a
webhook, sometimes twice, how it went. It is slow now and then. It answers 503 now and then, and in half of those cases
it made the charge before: the answer is lost, not the charge. What it does to a request depends only on the key, so
that each time it does the same. `GET /ledger` is its own account of all that.

ORDERS_FAULT=forgets-keys makes each request a charge, as a service without idempotency keys would.
ORDERS_FAULT=down makes it answer nothing but 503.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from examples.orders.process import JsonHandler, Server, ready, wait_for_end

FAULT = os.environ.get("ORDERS_FAULT", "")
WEBHOOK_TRIES = 20


@dataclass
class Charge:
    id: str
    key: str
    order_id: str
    cents: int
    card: str
    status: str = "pending"


class Ledger:
    def __init__(self, webhook_url: str) -> None:
        self.webhook_url = webhook_url
        self.lock = threading.Lock()
        self.charges: dict[str, Charge] = {}
        self.asked: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def charge(self, key: str, body: dict[str, Any]) -> tuple[int, object]:
        chance = zlib.crc32(key.encode())
        with self.lock:
            self.counts["charge_requests"] += 1
            self.asked[key] += 1
            is_first = self.asked[key] == 1
        time.sleep(1.2 if is_first and chance % 23 == 2 else 0.12 + chance % 300 / 1000)
        if FAULT == "down" or (is_first and chance % 16 == 0):
            return 503, {"error": "try again later"}
        with self.lock:
            known = self.charges.get(key)
            if known is None or FAULT == "forgets-keys":
                known = Charge(f"ch_{chance:08x}{len(self.charges):03x}", key, **body)
                self.charges[key if key not in self.charges else known.id] = known
                threading.Thread(target=self.settle, args=(known, chance), daemon=True).start()
            elif (known.order_id, known.cents, known.card) != (body["order_id"], body["cents"], body["card"]):
                return 409, {"error": f"key {key!r} was used with another request"}
        if is_first and chance % 16 == 1:
            return 503, {"error": "try again later"}
        return 201, asdict(known)

    def give_back(self, charge_id: str) -> tuple[int, object]:
        """Undo a charge, whatever its state; a second time changes nothing."""
        with self.lock:
            for charge in self.charges.values():
                if charge.id == charge_id:
                    undone = {"pending": "voided", "paid": "refunded"}
                    charge.status = undone.get(charge.status, charge.status)
                    return 200, asdict(charge)
        return 404, {"error": f"no charge {charge_id!r}"}

    def settle(self, charge: Charge, chance: int) -> None:
        """Ask the bank, then tell the shop; a customer who never confirms leaves the charge pending."""
        if charge.card == "tok_abandoned":
            return
        time.sleep(0.2 + chance % 60 / 100)
        with self.lock:
            if charge.status != "pending":
                return
            charge.status = "failed" if charge.card == "tok_declined" else "paid"
        event = {"id": f"evt_{charge.id}", "type": f"payment.{'failed' if charge.status == 'failed' else 'succeeded'}"}
        for _ in range(2 if chance % 9 == 0 else 1):
            self.tell({**event, "charge": charge.id, "order_id": charge.order_id})

    def tell(self, event: dict[str, str]) -> None:
        content = json.dumps(event).encode()
        for attempt in range(WEBHOOK_TRIES):
            try:
                request = urllib.request.Request(self.webhook_url, content, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=10):
                    with self.lock:
                        self.counts["webhooks"] += 1
                    return
            except OSError:
                with self.lock:
                    self.counts["webhooks_failed"] += 1
                time.sleep(min(0.1 * 2**attempt, 5))

    def report(self) -> dict[str, object]:
        with self.lock:
            return {**self.counts, "charges": [asdict(charge) for charge in self.charges.values()]}


class Payments(JsonHandler):
    ledger: Ledger

    def do_POST(self) -> None:
        self.count()
        match self.path.strip("/").split("/"):
            case ["charges"]:
                key = self.headers.get("Idempotency-Key")
                body = self.body()
                self.answer(*(self.ledger.charge(key, body) if key else (400, {"error": "Idempotency-Key is missing"})))
            case ["charges", charge_id, "return"]:
                self.body()
                self.answer(*self.ledger.give_back(charge_id))
            case _:
                self.answer(404, {"error": "no such path"})

    def do_GET(self) -> None:
        if self.path == "/ledger":
            self.answer(200, self.ledger.report())
        else:
            self.answer(404, {"error": "no such path"})

    def count(self) -> None:
        with self.ledger.lock:
            self.ledger.counts["requests"] += 1


def main() -> None:
    port = sys.argv[1] if len(sys.argv) > 1 else "8081"
    webhook_url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8082"
    Payments.ledger = Ledger(webhook_url)
    server = Server(("127.0.0.1", int(port)), Payments)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ready(port=server.server_port)
    wait_for_end()
    server.shutdown()


if __name__ == "__main__":
    main()
