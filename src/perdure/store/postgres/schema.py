"""Recognises the tables and brings them up to date, whoever else may be opening the store at the same moment."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, NamedTuple

from perdure.model.errors import (
    SchemaTooNewError,
    StoreCorruptError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from perdure.store.postgres.connections import Session
from perdure.store.postgres.errors import read_only
from perdure.store.postgres.settings import Settings

OLDEST_SERVER = 14
MIGRATING = 3600.0
"""Seconds that one version's changes may take, and that others who open the store wait for them."""

HELD_BACK = "2s"
"""For how long the changes wait for a table that somebody holds, as everybody else then waits behind them."""

_TABLES = ("meta", "runs", "records", "inbox", "catalog", "definitions", "queues", "paces", "dedups", "documents")

_SERVER = """
SELECT current_setting('server_version_num')::int / 10000 AS version, pg_is_in_recovery()
    OR current_setting('default_transaction_read_only')::bool AS is_read_only,
    current_setting('synchronous_commit') AS synchronous_commit,
    version() LIKE '%linux%' AS looks_for_clients
"""
_FOUND = """
SELECT
    EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS has_schema,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    quote_ident(current_user) AS "user", quote_ident(current_database()) AS database, quote_ident($1) AS schema,
    ARRAY(
        SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace
        WHERE s.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname = ANY($2::text[])
        ORDER BY c.relname) AS tables,
    EXISTS (
        SELECT FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        JOIN pg_namespace AS s ON s.oid = c.relnamespace
        WHERE s.nspname = $1 AND c.relname = 'meta' AND a.attname = 'perdure_version') AS is_ours,
    has_schema_privilege(current_user, s.oid, 'USAGE') AS may_use,
    has_schema_privilege(current_user, s.oid, 'CREATE') AS may_add
FROM (SELECT (SELECT oid FROM pg_namespace WHERE nspname = $1)) AS s (oid)
"""


class Server(NamedTuple):
    """What a server was found to be.

    Attributes:
        synchronous_commit: what the connection has that asked.
        looks_for_clients: whether it can find out, while it works, that a client is gone.
    """

    synchronous_commit: str
    looks_for_clients: bool


def migrations() -> list[str]:
    """Return the SQL of every version, the first one first."""
    folder = files("perdure.store.postgres") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


async def require_server(session: Session, settings: Settings) -> Server:
    """Refuse a server that cannot be used; return what it is.

    Raises:
        StoreUnavailableError: it is too old. StoreReadOnlyError: it takes no writes.
    """
    (server,) = await session.fetch(_SERVER)
    if server["version"] < OLDEST_SERVER:
        raise StoreUnavailableError(
            f"{settings.shown} runs PostgreSQL {server['version']}; Perdure needs {OLDEST_SERVER} or later: upgrade it"
        )
    if server["is_read_only"]:
        raise read_only(settings)
    return Server(server["synchronous_commit"], server["looks_for_clients"])


async def version(session: Session, settings: Settings) -> int:
    """Return the version of the tables, 0 for none.

    Raises:
        SchemaTooNewError: a later Perdure made them. StoreCorruptError: another program did,
        or one is gone. StoreReadOnlyError: this user may not look at them.
    """
    (found,) = await session.fetch(_FOUND, settings.schema, list(_TABLES))
    if not found["tables"]:
        _require_rights(found, settings)
        return 0
    if not found["is_ours"]:
        raise StoreCorruptError(
            f"{settings.shown}: schema {settings.schema} has tables of another program "
            f"({', '.join(found['tables'])}): give Perdure a schema of its own (?schema=…)"
        )
    known = len(migrations())
    made: int = await session.value("SELECT perdure_version FROM perdure.meta")
    if made > known:
        raise SchemaTooNewError(
            f"{settings.shown}: schema {settings.schema} has version {made} of the tables, and this Perdure knows up "
            f"to {known}: upgrade this program"
        )
    if made == known and (missing := sorted(set(_TABLES) - set(found["tables"]))):
        raise StoreCorruptError(
            f"{settings.shown}: schema {settings.schema} lacks its table {', '.join(missing)}: restore a backup, or "
            "give another schema"
        )
    return made


async def bring_up_to_date(session: Session, settings: Settings) -> None:
    """Create the tables, or add to them what later versions brought; in a transaction.

    Raises:
        StoreError: see `version`.
    """
    await session.script("SAVEPOINT looking")
    if await version(session, settings) == len(migrations()):
        return
    await session.script("ROLLBACK TO looking")  # or who is changing the tables would wait for us, and we for him
    session = Session(session.connection, session.texts, MIGRATING)
    await session.value("SELECT pg_advisory_xact_lock($1)", settings.lock_key)
    await session.script(f"SET LOCAL lock_timeout = '{HELD_BACK}'")  # then it is tried again
    # Asked again under the lock: another process may have done it all in between.
    made, steps = await version(session, settings), migrations()
    if made == 0:
        (found,) = await session.fetch(_FOUND, settings.schema, list(_TABLES))
        if not found["has_schema"]:
            await session.script(f'CREATE SCHEMA "{settings.schema}"')
    for sql in steps[made:]:
        await session.script(sql)
    if made == 0:
        await session.fetch("INSERT INTO perdure.meta (perdure_version) VALUES ($1)", len(steps))
    elif made < len(steps):
        await session.fetch("UPDATE perdure.meta SET perdure_version = $1", len(steps))


def _require_rights(found: Any, settings: Settings) -> None:
    schema, user = found["schema"], found["user"]
    if not found["has_schema"] and not found["may_create"]:
        raise StoreReadOnlyError(
            f"{settings.shown}: user {user} may not create the schema {schema}: GRANT CREATE ON DATABASE "
            f"{found['database']} TO {user}, or CREATE SCHEMA {schema} AUTHORIZATION {user}"
        )
    if found["has_schema"] and not (found["may_add"] and found["may_use"]):
        raise StoreReadOnlyError(
            f"{settings.shown}: user {user} may not create tables in the schema {schema}: "
            f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}"
        )
