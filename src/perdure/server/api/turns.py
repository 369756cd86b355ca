"""What endpoints ask in the middle of a turn that was pushed to them: see `perdure.dispatch.callbacks`.

These paths are no part of the API that is described. Who asks shows the token of its turn, and needs no key.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jwt
import msgspec
from fastapi import Request
from starlette.responses import Response

from perdure.dispatch import callbacks
from perdure.dispatch.callbacks import UsedTokenError
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.protocol import CommitTurn, ExtendTurn, TokenError, TurnToken
from perdure.server.access import PUBLIC
from perdure.server.bodies import read_body
from perdure.server.errors import Problem
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.server import Server
from perdure.store.operations import TURN, TURNS

T = TypeVar("T")

DECISION_BYTES = 16_777_216
"""How long a decision may be."""

LEASE_BYTES = 2_097_152
"""How long what keeps a lease may be, with the progress of the steps."""

router = routes("turns")

PUBLIC |= {f"{TURNS}commit", f"{TURNS}extend", f"{TURNS}inbox"}


@router.post(f"{TURNS}commit", operation_id="turns_commit", include_in_schema=False)
async def commit(request: Request) -> Response:
    """Commit a decision."""
    dispatcher, turn = await _turn(request)
    given = _read(await read_body(request, DECISION_BYTES), CommitTurn)
    try:
        answer = await callbacks.commit(dispatcher, turn, given)
    except TokenError as error:
        raise _strange(error) from None
    except UsedTokenError as error:
        raise Problem(409, "Used token", str(error)) from None
    if not answer.committed.is_lost:
        server: Server = request.app.state.server
        server.hearing(dispatcher.namespace).changed()
        dispatcher.wake()
    return reply(answer)


@router.post(f"{TURNS}extend", operation_id="turns_extend", include_in_schema=False)
async def extend(request: Request) -> Response:
    """Keep a lease."""
    dispatcher, turn = await _turn(request)
    given = _read(await read_body(request, LEASE_BYTES), ExtendTurn)
    try:
        return reply(await callbacks.extend(dispatcher, turn, given))
    except TokenError as error:
        raise _strange(error) from None


@router.post(f"{TURNS}inbox", operation_id="turns_inbox", include_in_schema=False)
async def inbox(request: Request) -> Response:
    """Return the unread messages of a run."""
    return reply(await callbacks.inbox(*await _turn(request)))


async def _turn(request: Request) -> tuple[Dispatcher, TurnToken]:
    """Return what a request may do, before anything else of it is looked at."""
    token, server = request.headers.get(TURN, ""), request.app.state.server
    try:
        named: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        dispatcher: Dispatcher | None = server.dispatchers.get(str(named.get("ns")))
        if dispatcher is None:
            raise TokenError("the token is none of this server's")
        return dispatcher, await callbacks.turn_of(dispatcher, token)
    except (jwt.InvalidTokenError, TokenError) as error:
        raise _strange(error) from None


def _strange(error: Exception) -> Problem:
    return Problem(401, "No such turn", str(error) or "the token is none of this server's")


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Problem(400, "Malformed JSON", f"body: {error}") from None
