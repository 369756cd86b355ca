"""The ASGI application that takes webhooks: it reads within bounds, verifies, and answers once the run is durable."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import traceback
from typing import Any

from perdure.authoring.enqueuing import Dedup
from perdure.authoring.hooks import Hook
from perdure.engine.app import Perdure
from perdure.engine.client.starting import new_run
from perdure.inbound.requests import (
    RETRY_AFTER,
    GoneError,
    Headers,
    Receive,
    RefusedError,
    Room,
    Scope,
    Send,
    read_body,
    refuse,
    respond,
)
from perdure.inbound.verifiers import Received
from perdure.model import codec
from perdure.model.duration import Duration, seconds
from perdure.model.errors import (
    PayloadTooLargeError,
    SerializationError,
    StoreError,
    UsageError,
    WebhookVerificationError,
)
from perdure.model.limits import NAME_LENGTH
from perdure.model.run import NewRun

BODY_BYTES = 1_048_576
"""The size of a request's body, unless it is said otherwise."""

BODIES_BYTES = 268_435_456
"""The size of all bodies that are held at once, unless it is said otherwise: nobody knows yet who sends them."""

BODY_WITHIN: Duration = "30 seconds"
"""How long a body may take to come, unless it is said otherwise."""

ANSWER_WITHIN: Duration = "8 seconds"
"""How long the store may take, unless it is said otherwise: services wait for about ten seconds."""

_log = logging.getLogger("perdure.inbound")


def asgi(
    app: Perdure,
    *,
    through: Perdure | None = None,
    body_bytes: int = BODY_BYTES,
    bodies_bytes: int = BODIES_BYTES,
    body_within: Duration = BODY_WITHIN,
    answer_within: Duration = ANSWER_WITHIN,
) -> Inbound:
    """Return an ASGI application that takes the webhooks which an application declares.

    It can be mounted in another one, in whose place paths begin, or served by itself; then it opens and closes `app`.

    Args:
        app: the application; it has to be open while requests come, unless `through` is given.
        through: an open engine that starts the runs; `app` by default, which then need not be open.
        body_bytes: the size of a request's body.
        bodies_bytes: the size of all bodies that are held at once.
        body_within: how long (a duration) a body may take to come.
        answer_within: how long (a duration) the store may take to keep what is started, ahead of a 503.

    Raises:
        UsageError: a bound is out of its range.
    """
    for field, size in (("body_bytes", body_bytes), ("bodies_bytes", bodies_bytes)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{field}: {size!r} must be a whole number, at least 1")
    within = (seconds(body_within, field="body_within"), seconds(answer_within, field="answer_within"))
    return Inbound(app, through or app, body_bytes, Room(max(bodies_bytes, body_bytes)), *within)


class Inbound:
    """See `asgi`."""

    def __init__(
        self, app: Perdure, through: Perdure, body_bytes: int, room: Room, body_within: float, answer_within: float
    ) -> None:
        self._app = app
        self._through = through
        self._body_bytes = body_bytes
        self._room = room
        self._body_within = body_within
        self._answer_within = answer_within

    @property
    def paths(self) -> frozenset[str]:
        """The paths that are served."""
        return frozenset(self._app.registry.hooks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request, and answer it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError("webhooks come by HTTP alone")
        path = _path(scope)
        try:
            reply = await self._take(path, scope, receive)
        except RefusedError as refused:
            if refused.status >= 500:
                _log.error("webhook %s: %s", path, refused.detail)
            await refuse(send, refused.status, refused.detail, **refused.headers)
        except GoneError:
            pass
        else:
            await respond(send, 200, reply.encode(), Content_Type="text/plain; charset=utf-8")

    async def _take(self, path: str, scope: Scope, receive: Receive) -> str:
        hooks = self._app.registry.hooks.get(path)
        if hooks is None:
            raise RefusedError(404, "no webhook comes in here")
        if scope["method"] != "POST":
            raise RefusedError(405, f"{scope['method']} cannot be asked of this path, but POST", Allow="POST")
        headers = Headers(scope["headers"])
        with self._room.share() as take:
            body = await read_body(headers, receive, self._body_bytes, self._body_within, take)
            return await self._answer(path, hooks, body, headers)

    async def _answer(self, path: str, hooks: list[Hook], body: bytes, headers: Headers) -> str:
        """Start what a request asks for, if it is from whom it should be; return the text of the answer."""
        received = _verified(hooks[0], body, headers)
        if received.reply is not None:
            return received.reply
        try:
            async with asyncio.timeout(self._answer_within):
                await self._start(hooks, received)
        except (StoreError, TimeoutError) as error:
            told = str(error) or f"the store has not answered within {self._answer_within:g} seconds"
            _log.warning("webhook %s: nothing may be started yet: %s", path, told)
            raise RefusedError(503, "the store does not take it; send it again", Retry_After=RETRY_AFTER) from error
        except PayloadTooLargeError as error:
            raise RefusedError(413, str(error)) from error
        except SerializationError as error:
            _log.warning("webhook %s: a request was verified, and does not fit", path)
            raise RefusedError(422, str(error)) from error
        except Exception as error:
            _log.exception("webhook %s failed", path)
            raise RefusedError(500, "something went wrong here; the log says more") from error
        return ""

    async def _start(self, hooks: list[Hook], received: Received) -> None:
        """Start every workflow that takes the event, and none where one cannot; return once all are durable."""
        client = self._through.client
        news = [new for hook in hooks if (new := self._new(hook, received)) is not None]
        for answer in await asyncio.gather(*(client.create(new) for new in news), return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            _, created = answer
            _log.info("%s run %s", "started" if created.is_new else "sent again, and known as", created.id)

    def _new(self, hook: Hook, received: Received) -> NewRun | None:
        """Return the run that an event is to start; None where the webhook does not take such events."""
        if hook.only is not None and received.type not in hook.only:
            return None
        settings, subscription = dataclasses.replace(self._app.settings, mode="client"), hook.subscription
        event = codec.encode(received.event, "the event", settings.limits.payload_bytes)
        if not subscription.takes(event):
            return None
        value = codec.decode_any(event) if subscription.shape is None else subscription.shape.decode(event)
        key: str | None = None
        if hook.key is not None:
            key = _key(hook.key(value), "key: it returned")
        elif received.id is not None:
            key = _key(received.id, "verify: as the id it returned")
        tags = {"webhook": hook.path}
        if received.type is not None and len(received.type) <= NAME_LENGTH and received.type.isprintable():
            tags["event"] = received.type
        options: dict[str, Any] = {"tags": tags}
        if key is not None:
            options["dedup"] = Dedup(_dedup_key(hook.path, key), hook.within)
        args = () if subscription.parameter is None else (value,)
        _, new = new_run(self._app.registry, settings, self._through.world, hook.workflow, args, options)
        return new

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open the application for as long as it is served by itself."""
        is_ours = False
        while True:
            message = await receive()
            try:
                if message["type"] == "lifespan.startup":
                    if self._app is self._through and not _is_open(self._app):
                        await self._app.open()
                        is_ours = True
                elif is_ours:
                    await self._app.close()
            except Exception as error:
                await send({"type": f"{message['type']}.failed", "message": str(error)})
                return
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _path(scope: Scope) -> str:
    """Return the path of a request below where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _verified(hook: Hook, body: bytes, headers: Headers) -> Received:
    """Return what a verifier finds in a request.

    Raises:
        RefusedError: it is not from whom it should be (401), cannot be read (400), or is not verified at all (500).
    """
    try:
        found = hook.verify(body, headers)
    except WebhookVerificationError as error:
        raise RefusedError(401, str(error)) from error
    except (ValueError, RecursionError, SerializationError) as error:
        raise RefusedError(400, f"body: {error}") from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]  # its text may hold what must not be logged
        what = (type(error).__name__, place.filename, place.lineno)
        _log.warning("webhook %s: its verifier raised %s in %s, line %s", hook.path, *what)
        raise RefusedError(401, "it cannot be verified") from error
    if isinstance(found, bool):
        _log.error("webhook %s: its verifier returned %r; it has to return the event, or to raise", hook.path, found)
        raise RefusedError(500, "something went wrong here; the log says more")
    return found if isinstance(found, Received) else Received(found)


def _key(key: object, who: str) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        told = "an empty text" if key == "" else f"an object of type {type(key).__qualname__}"
        raise UsageError(f"{who} {told}, and has to return a text or a whole number")
    return str(key)


def _dedup_key(path: str, key: str) -> str:
    readable = f"{path} {key}"
    if len(readable) <= NAME_LENGTH and readable.isprintable():
        return readable
    return f"#{hashlib.blake2b(readable.encode(errors='surrogatepass'), digest_size=20).hexdigest()}"


def _is_open(app: Perdure) -> bool:
    try:
        return app.client is not None
    except StoreError:
        return False
