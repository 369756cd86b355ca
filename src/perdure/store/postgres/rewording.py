"""Texts that become others which say the same."""

from __future__ import annotations

from perdure.model.rewording import Rewording
from perdure.store.postgres.connections import Session

_DOCUMENT = "UPDATE perdure.documents SET text = $4 WHERE collection = $1 AND key = $2 AND text = $3 RETURNING true"
_DEFINITION = "UPDATE perdure.definitions SET text = $4 WHERE name = $1 AND version = $2 AND text = $3 RETURNING true"

_ROW = ("fingerprint", "wait", "state", "progress")

_LOCK = f"""
SELECT n, {" + ".join(f"coalesce(({column} = ANY($2::text[]))::int, 0)" for column in _ROW)}
FROM perdure.runs WHERE id = $1 FOR UPDATE
"""
"""Lock a run's row, so that nobody else changes the run; return its number, and how many of these texts it has."""

_WORDS = "WITH words AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[]) AS a (old, new))"

_RUN = f"""
{_WORDS}
UPDATE perdure.runs AS r
SET {", ".join(f"{column} = coalesce((SELECT new FROM words WHERE old = r.{column}), r.{column})" for column in _ROW)}
WHERE r.n = $1
"""

_OTHERS = (
    f"{_WORDS} UPDATE perdure.records AS k SET payload = new FROM words WHERE k.n = $1 AND k.payload = old",
    f"{_WORDS} UPDATE perdure.records AS k SET ref = new FROM words WHERE k.n = $1 AND k.ref = old",
    f"{_WORDS} UPDATE perdure.inbox AS m SET payload = new FROM words WHERE m.n = $1 AND NOT is_read AND payload = old",
)


async def reword(session: Session, rewording: Rewording) -> int:
    """Replace texts that are still what they were, and return how many; in a transaction."""
    if rewording.of == "run":
        return await _reword_run(session, rewording)
    statement = _DOCUMENT if rewording.of == "document" else _DEFINITION
    count = 0
    for old, new in rewording.texts.items():
        count += len(await session.fetch(statement, rewording.name, rewording.part, old, new))
    return count


async def _reword_run(session: Session, rewording: Rewording) -> int:
    old, new = list(rewording.texts), list(rewording.texts.values())
    locked = await session.fetch(_LOCK, rewording.name, old)
    if not locked:
        return 0
    ((n, count),) = locked
    if count:
        await session.fetch(_RUN, n, old, new)
    for statement in _OTHERS:
        count += len(await session.fetch(f"{statement} RETURNING true", n, old, new))
    return int(count)
