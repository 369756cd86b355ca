"""The shop's webhook receiver: what the payment service says becomes an event of the order's run.

python -m examples.orders.webhooks [port]
"""

from __future__ import annotations

import os
import sys
import threading

from examples.orders.process import JsonHandler, Server, ready, wait_for_end
from perdure import Perdure, PerdureError, RunFinishedError, RunNotFoundError

client = Perdure(os.environ.get("ORDERS_STORE", "sqlite:///orders.db"), mode="client")


class Webhooks(JsonHandler):
    def do_POST(self) -> None:
        event = self.body()
        run = client.blocking.run(event["order_id"])
        try:
            # The service may deliver an event twice; its id makes it one all the same.
            is_new = run.send_event(f"payment.{event['charge']}", event, id=event["id"])
        except RunNotFoundError as error:
            self.answer(404, {"error": str(error)})
        except RunFinishedError:
            self.answer(200, {"new": False})  # too late to matter; a retry would not change that
        except PerdureError as error:
            self.answer(503, {"error": str(error)})
        else:
            self.answer(200, {"new": is_new})


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8082
    server = Server(("127.0.0.1", port), Webhooks)
    with client.blocking:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ready(port=server.server_port)
        wait_for_end()
        server.shutdown()


if __name__ == "__main__":
    main()
