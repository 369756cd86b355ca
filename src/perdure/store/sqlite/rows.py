"""How rows become the model's values: each is built as JSON inside SQLite and decoded in one piece.

So a batch crosses into Python as one text, and the interpreter's lock is taken once and not once for each row.
"""

from __future__ import annotations

from perdure.model.run import Run

_BUILT = {"is_pausing", "is_detached", "is_admitted", "tags", "retention", "output"}
_PLAIN = [name for name in Run.__struct_fields__ if name not in _BUILT]
"""The attributes that a column of the same name holds as they are."""


def run_json(r: str, *, with_output: bool = False) -> str:
    """Return the SQL of a `Run` as a JSON object, from a row of `runs` that the statement calls `r`."""
    plain = ", ".join(f"'{name}', {r}.{name}" for name in _PLAIN)
    output = f", 'output', {_output(r)}" if with_output else ""
    return f"""json_object({plain},
        'is_pausing', json(iif({r}.is_pausing, 'true', 'false')),
        'is_detached', json(iif({r}.is_detached, 'true', 'false')),
        'is_admitted', json(iif({r}.is_admitted, 'true', 'false')),
        'tags', json({r}.tags),
        'retention', json_array({r}.keep_complete, {r}.keep_errored, {r}.keep_terminated){output})"""


def _output(r: str) -> str:
    return f"""(SELECT payload FROM records
        WHERE n = {r}.n AND position = {r}.journal_length - 1 AND kind = 'output' AND {r}.finished_at IS NOT NULL)"""


RECORD = "json_array(position, key, kind, state, at, payload, attempt, started_at, due_at, ref, before)"
"""A `Record`, from a row of `records`."""


def message_json(run_id: str) -> str:
    """Return the SQL of a `Message` as a JSON object, from a row of `inbox` called `m` and the SQL of its run's id."""
    return f"""json_object('run_id', {run_id}, 'id', m.id, 'kind', m.kind, 'type', m.type, 'payload', m.payload,
        'at', m.at, 'state', m.state, 'ref', m.ref, 'seq', m.seq)"""
