from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.model.archive import Archive, ArchivedMessage
from perdure.model.decision import Message
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus

RUN = Run("a", "w", RunStatus.WAITING, 1, 2, tags={"k": "1", "l": "2"})
RECORD = Record(0, "input", "input", "ok", 1, "{}")
MESSAGE = Message("a", "m", "event", "go", '"x"', 1, seq=1)
ARCHIVE = Archive(RUN, [RECORD], [ArchivedMessage(MESSAGE)])


def test_equal_runs_have_one_digest():
    again = Archive(replace(RUN, tags={"l": "2", "k": "1"}), [RECORD], [ArchivedMessage(MESSAGE)])
    assert ARCHIVE.digest() == again.digest()
    assert len(ARCHIVE.digest()) == 32


@pytest.mark.parametrize(
    "other",
    [
        replace(ARCHIVE, run=replace(RUN, updated_at=3)),
        replace(ARCHIVE, run=replace(RUN, tags={"k": "1", "l": "3"})),
        replace(ARCHIVE, journal=[replace(RECORD, payload="{} ")]),
        replace(ARCHIVE, journal=[RECORD, replace(RECORD, position=1)]),
        replace(ARCHIVE, messages=[]),
        replace(ARCHIVE, messages=[ArchivedMessage(MESSAGE, is_read=True)]),
        replace(ARCHIVE, messages=[ArchivedMessage(replace(MESSAGE, seq=2))]),
    ],
)
def test_whatever_differs_shows_in_the_digest(other):
    assert other.digest() != ARCHIVE.digest()
