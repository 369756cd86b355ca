"""Says in Perdure's words what the driver and the server say in theirs, and which failures pass by themselves."""

from __future__ import annotations

import ssl
from enum import Enum

import asyncpg  # type: ignore[import-untyped]  # it brings no types

from perdure.model.errors import (
    PerdureError,
    StoreConflictError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)
from perdure.store.postgres.settings import Settings


class Passing(Enum):
    """What a failure that may pass by itself asks for."""

    CONFLICT = "two transactions were in each other's way: repeat it at once"
    BROKEN = "the connection, or the server, is gone: connect anew, ever more slowly"
    STANDBY = "the server has become a read-only replica: leave every connection to it"


_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
_BROKEN = (
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.InvalidSQLStatementNameError,  # a pooler gave the statement to another session
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InternalClientError,
)


def state(error: BaseException) -> str | None:
    """Return the five signs by which PostgreSQL names the error, whichever driver brought it; None for others."""
    found: str | None = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return found


def passing(error: BaseException) -> Passing | None:
    """Return what the failure asks for; None where repeating would not help."""
    if isinstance(error, ssl.SSLError) or _wants_no_tls(error):
        return None
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched):
        return Passing.STANDBY
    if isinstance(error, _CONFLICTS):
        return Passing.CONFLICT
    if isinstance(error, (*_BROKEN, OSError, TimeoutError)) or _is_closed(error):
        return Passing.BROKEN
    return None


def _is_closed(error: BaseException) -> bool:
    """Whether the driver found its own end of the connection closed."""
    return isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)


def _wants_no_tls(error: BaseException) -> bool:
    """Whether the server has no TLS, and the URL asks for it."""
    return isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)


def translated(error: BaseException, settings: Settings) -> BaseException:
    """Return the error as Perdure names it, with the database and how to mend it; other errors as they are."""
    if isinstance(error, PerdureError):
        return error
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched):
        return read_only(settings)
    if _wants_no_tls(error):
        return StoreUnavailableError(f"{settings.shown} has no TLS: set it up there, or ask for sslmode=prefer")
    for kinds, told, text in _TOLD:
        if isinstance(error, kinds):
            reason = " ".join(str(error).split()) or type(error).__name__
            named = {"reason": reason, "schema": settings.schema, "type": type(error).__name__}
            return told(f"{settings.shown}{text.format(**named)}")
    return error


_TOLD: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], type[PerdureError], str], ...] = (
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        StoreUnavailableError,
        " refuses this user ({reason}): check the user and the password",
    ),
    (
        asyncpg.InvalidCatalogNameError,
        StoreUnavailableError,
        ": there is no such database ({reason}): create it first",
    ),
    (
        asyncpg.TooManyConnectionsError,
        StoreUnavailableError,
        " has no connection free ({reason}): raise max_connections, or lower pool_size",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        StoreReadOnlyError,
        ": this user may not do it ({reason}): GRANT it, or let the owner of schema {schema} run the program",
    ),
    (asyncpg.DiskFullError, StoreFullError, ": the server's disk is full ({reason}); make room, then try again"),
    (
        (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedColumnError),
        StoreCorruptError,
        ": schema {schema} is not, or no longer, Perdure's ({reason}): restore a backup, or give another schema",
    ),
    (
        (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError),
        StoreCorruptError,
        " is damaged ({reason}): restore it from a backup",
    ),
    (
        ssl.SSLError,
        StoreUnavailableError,
        ": no secure connection ({reason}): check the server's certificate, sslmode and sslrootcert",
    ),
    (
        asyncpg.ClientConfigurationError,
        UsageError,
        ": the URL cannot be used ({reason}): write it as docs/stores.md says",
    ),
    (
        asyncpg.QueryCanceledError,
        StoreUnavailableError,
        " cancelled what was asked ({reason}): raise this user's statement_timeout, or see who cancels",
    ),
    (
        asyncpg.LockNotAvailableError,
        StoreLockedError,
        ": somebody holds what is needed for too long ({reason}): end the transaction, which pg_stat_activity shows",
    ),
    (
        TimeoutError,
        StoreUnavailableError,
        " did not answer in time; what was asked may or may not have happened: see what holds it up, or wait longer",
    ),
    (
        (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError),
        StoreUnavailableError,
        " cannot be reached ({reason}): see that the server runs and that host and port are right, then ask again",
    ),
    ((asyncpg.PostgresError, asyncpg.InternalClientError), StoreError, ": {type}: {reason}"),
)
"""What each kind of failure is called, and how it is mended; the first that fits."""


FAILED = (
    "tx: a statement of the step failed, and its error was caught: the transaction cannot be committed; let the error "
    "out, or run such a statement inside `async with flow.transaction().transaction()`"
)
_BUSY = (
    "tx: the step returned while a statement of its own was still under way on its connection: await every statement"
)

_IN_FAILED_TRANSACTION = "25P02"
_OF_THE_SERVER = ("53", "57", "58", "F0", "XX")
"""Classes of errors that are no fault of what was asked: no room, an operator, the machine, the server itself."""

_CERTAINLY_UNDONE = (
    *_CONFLICTS,
    asyncpg.QueryCanceledError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)
"""What the server says of a transaction that is over, and that the next one may well not meet."""


def undone(error: Exception, settings: Settings) -> BaseException:
    """Return the error that a step's transaction met at its end as Perdure names it: whose it was, and if it is known.

    What the server answers with is certain to have undone everything. Of a connection that is lost nothing is.
    """
    if isinstance(error, PerdureError):
        return error
    if state(error) == _IN_FAILED_TRANSACTION:
        return UsageError(FAILED)
    if isinstance(error, asyncpg.InterfaceError) and "another operation" in str(error):
        return UsageError(_BUSY)
    if isinstance(error, _CERTAINLY_UNDONE):
        return StoreConflictError(f"{settings.shown}: something was in the transaction's way, which is undone: {error}")
    if passing(error) is Passing.BROKEN:
        return StoreUnavailableError(
            f"{settings.shown}: the connection failed ({error}), and nobody knows whether the step was committed; its "
            "journal will tell"
        )
    named = state(error)
    if named is None or named.startswith(_OF_THE_SERVER) or passing(error) is Passing.STANDBY:
        return translated(error, settings)
    return UsageError(f"tx: what the step did cannot be committed: {error}")


def read_only(settings: Settings) -> StoreReadOnlyError:
    """Return the error of a server that takes no writes."""
    return StoreReadOnlyError(
        f"{settings.shown} is read-only, a replica or by its settings: give the address of the primary, or set "
        "default_transaction_read_only to off"
    )
