from __future__ import annotations

import json

from perdure import Perdure
from perdure.model.decision import Message, RunPage
from perdure.model.document import Document
from perdure.model.record import Record
from perdure.model.redaction import Redaction
from perdure.model.run import Run, RunStatus
from perdure.server.masking import masked
from tests.server.conftest import memory

CARD = '{"card":"4242"}'
HIDDEN = '{"card":"***"}'


def test_all_that_holds_users_data_is_masked():
    hides = Redaction(("card",))
    run = Run("r", "w", RunStatus.COMPLETE, 0, 0, output=CARD, state=CARD, progress=CARD)
    shown = masked(run, hides)
    assert (shown.output, shown.state, shown.progress) == (HIDDEN, HIDDEN, HIDDEN)
    assert masked(RunPage([run], "c"), hides) == RunPage([shown], "c")
    (record, message, document) = masked(
        [
            Record(0, "a", "step", "open", 0, CARD, ref=CARD),
            Message("r", "m", "event", "t", CARD, 0),
            Document("app.x", "k", CARD),
        ],
        hides,
    )
    assert (record.payload, record.ref, message.payload, document.text) == (HIDDEN, HIDDEN, HIDDEN, HIDDEN)
    assert masked(5, hides) == 5
    assert masked(run, Redaction()) is run


async def test_viewers_are_told_no_named_field_by_the_api(serve):
    worker = Perdure(memory())

    @worker.workflow
    async def pay(card: str) -> dict[str, str]:
        return {"card": card}

    served = await serve(worker, redact=("card",))
    run = await worker.start(pay, "4242-secret", id="r")
    await run.result()
    await worker.schedules.create("s", pay, "4242-secret", cron="0 0 1 1 *")
    keys = served.server.authenticator.keys
    for role, is_seen in (("viewer", False), ("operator", True)):
        headers = {"Authorization": f"Bearer {(await keys.create(role, role, ['default'])).token}"}
        for path in ("runs/r", "runs/r/journal", "runs/r/result", "schedules", "schedules/s"):
            answer = await served.http.get(f"/api/v1/{path}", headers=headers)
            assert answer.status_code == 200, answer.text
            assert ("4242-secret" in answer.text) is is_seen, path
            assert json.loads(answer.text)
