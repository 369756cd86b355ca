"""What went wrong, in Perdure's words: one line that names the server and the cure."""

from __future__ import annotations

from redis import exceptions

from perdure.model.errors import (
    PerdureError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)

_PASSING = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.MovedError,
    exceptions.AskError,
    exceptions.NoScriptError,
)
_PASSING_WORDS = ("BUSY ", "LOADING ", "CLUSTERDOWN ", "MASTERDOWN ", "READONLY ", "TRYAGAIN ", "NOREPLICAS ")
_NOT_ALLOWED = ("NOPERM", "ACL failure", "The user executing the script")
_STARTING = ("Loading", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


def is_passing(error: BaseException) -> bool:
    """Return whether the same call may do better in a moment."""
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return False
        case exceptions.ConnectionError() | exceptions.TimeoutError() | OSError() | StoreReadOnlyError():
            return True  # a master that has become a replica is about to be replaced
        case exceptions.ResponseError():
            return isinstance(error, _PASSING) or any(word in str(error) for word in _PASSING_WORDS)
        case _:
            return False


def is_starting(error: BaseException) -> bool:
    """Return whether a server answers, but is not ready yet."""
    return is_passing(error) and (
        isinstance(error, exceptions.BusyLoadingError | exceptions.ClusterDownError | exceptions.MasterDownError)
        or any(word in str(error) for word in _STARTING)
    )


def is_of_replica(error: object) -> bool:
    """Return whether an answer says that the server is a replica; older ones say it of a command in a script."""
    return isinstance(error, exceptions.ReadOnlyError) or (
        isinstance(error, exceptions.ResponseError) and "READONLY " in str(error)
    )


def is_out_of_reach(error: BaseException) -> bool:
    """Return whether the connection failed, not the call."""
    return isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError) and not isinstance(
        error, exceptions.BusyLoadingError
    )


def translated(error: BaseException, where: str, patience: float) -> BaseException:
    """Return the error as Perdure names it; other errors as they are.

    Args:
        error: what was raised.
        where: the server's address.
        patience: for how many seconds it was tried.
    """
    match error:
        case PerdureError():
            return error
        case exceptions.AuthenticationError():
            return StoreUnavailableError(
                f"{where} refuses the user or the password ({_line(error)}): correct the store's URL"
            )
        case exceptions.ResponseError():
            return _refused(error, where, patience)
        case exceptions.BusyLoadingError():
            return StoreUnavailableError(f"{where} is still loading its data after {patience:g} s: wait for it")
        case exceptions.TimeoutError() | TimeoutError():
            return StoreUnavailableError(
                f"{where} did not answer in time; what was asked may or may not have happened: "
                "look at its load and at the network"
            )
        case exceptions.ConnectionError() | OSError():
            if "SSL" in str(error):
                return StoreUnavailableError(
                    f"{where}: TLS failed ({_line(error)}): name the authority of its certificate in SSL_CERT_FILE, or "
                    "write redis:// if it has no TLS"
                )
            if "invalid db" in str(error).lower() or "Invalid Database" in str(error):
                return UsageError(f"store: {where} has no such database: correct the number at the end of the URL")
            return StoreUnavailableError(
                f"{where} cannot be reached ({_line(error)}); what was asked may or may not have happened: "
                "start the server, or correct the store's URL"
            )
        case exceptions.RedisError():
            return StoreError(f"{where}: {type(error).__name__}: {_line(error)}")
        case _:
            return error


def _refused(error: exceptions.ResponseError, where: str, patience: float) -> Exception:
    """Return the error for what the server answered."""
    text = _line(error)
    if isinstance(error, exceptions.NoPermissionError) or any(words in text for words in _NOT_ALLOWED):
        return StoreReadOnlyError(
            f"{where} does not allow this user what Perdure does ({text}): give it +@all on "
            "the store's keys and channel"
        )
    if "NOAUTH" in text or "WRONGPASS" in text:
        return StoreUnavailableError(f"{where} refuses the user or the password ({text}): correct the store's URL")
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM " in text or "used memory > 'maxmemory'" in text:
        return StoreFullError(
            f"{where} has reached its maxmemory; nothing of the operation was kept: raise it, or shorten the retention"
        )
    if "MISCONF" in text:
        return StoreFullError(
            f"{where} cannot write to its own disk, so it takes no writes (MISCONF); nothing of the operation was "
            "kept: make room on that disk, and look at the server's log"
        )
    if is_of_replica(error):
        return StoreReadOnlyError(f"{where} is a replica, which cannot be written: give the master's address")
    if "BUSY" in text:
        return StoreUnavailableError(
            f"{where} is busy with somebody's script for over {patience:g} s: wait, or end it with SCRIPT KILL "
            "(SHUTDOWN NOSAVE if it has written already)"
        )
    if "WRONGTYPE" in text:
        return StoreCorruptError(
            f"{where} holds something else under the store's prefix ({text}): give another one with ?prefix="
        )
    if isinstance(error, exceptions.ClusterDownError) or "CLUSTERDOWN" in text:
        return StoreUnavailableError(
            f"the cluster of {where} is down ({text}): look at CLUSTER INFO; it needs a master for every slot"
        )
    if "DB index is out of range" in text:
        return UsageError(f"store: {where} has no such database: correct the number at the end of the URL")
    if is_passing(error):
        return StoreUnavailableError(f"{where} was not ready for {patience:g} s ({text}): try again")
    return StoreError(f"{where}: {text}")


def _line(error: BaseException) -> str:
    """Return what an error says, on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
