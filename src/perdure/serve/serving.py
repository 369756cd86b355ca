"""What a served application does with a request, whatever framework it came through."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from perdure.authoring.announcing import entry_of
from perdure.dispatch.protocol import PROTOCOL, SIGNATURE, Manifest, Push, Pushed, ServedWorkflow
from perdure.dispatch.signing import PUSHER, Signature, SignatureError, SigningKeys, verify
from perdure.engine.app import Perdure
from perdure.engine.ending import Endings
from perdure.model.decision import Decision
from perdure.model.duration import Duration, seconds
from perdure.model.errors import PerdureError, UsageError
from perdure.serve.turns import PushedTurn, Turns
from perdure.serve.worker import ServedWorker

CURRENT, NEXT = "PERDURE_SIGNING_KEY", "PERDURE_NEXT_SIGNING_KEY"
"""The variables of the environment that have the signing keys."""

PUSH_BYTES = 67_108_864
"""How long a push may be: a run with its whole journal."""

SEEN = 100_000
"""How many signatures are remembered at most, so that none is taken twice."""

_log = logging.getLogger("perdure.serve")


class Reply(NamedTuple):
    """What a request is answered with; the body is JSON."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Serving:
    """A served application.

    Args:
        app: with `mode="serve"`, on the server's URL.
        keys: the current signing key and the next one; those of `PERDURE_SIGNING_KEY` and `PERDURE_NEXT_SIGNING_KEY`
            by default.
        url: where the server asks it, if requests for any other URL are to be refused.
        stay: for how long (a duration) one request goes on with further steps; by default it does those that can be
            done at once, and where the journal is long already, further ones for five seconds.

    Raises:
        UsageError: there are no keys, or the application serves nothing.
    """

    def __init__(
        self, app: Perdure, *, keys: tuple[str, str] | None = None, url: str | None = None, stay: Duration | None = None
    ) -> None:
        if app.settings.mode != "serve":
            raise UsageError(f"mode: an application that is served has mode='serve', not {app.settings.mode!r}")
        self.app = app
        self.url = url
        self._keys = _keys_of(keys)
        self._stay = None if stay is None else seconds(stay, field="stay")
        self._worker: ServedWorker | None = None
        self._seen: dict[str, int] = {}
        self._opening = asyncio.Lock()
        self._opened_app = False
        self._is_closed = False

    async def open(self) -> ServedWorker:
        """Connect to the server, if that is not done yet; the first push does it, too, unless this was closed."""
        async with self._opening:
            self._is_closed = False
            if self._worker is None:
                if not self.app.is_open:
                    await self.app.open()
                    self._opened_app = True
                app, client = self.app, self.app.client
                turns = Turns(app.store)
                worker = ServedWorker(turns, app.registry, app.settings, app.world, Endings(), self._stay)
                worker.client = client
                if client.watchers is not None:
                    worker.watch(client.watchers)
                await worker.start()
                await app._declare_schedules(client)
                self._worker = worker
            return self._worker

    async def close(self) -> None:
        """Let steps that run finish, up to `drain`, give the rest back, and close what `open` opened."""
        self._is_closed = True
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()
        if self._opened_app:
            self._opened_app = False
            await self.app.close()

    async def answer(
        self, method: str, headers: Mapping[str, str], body: bytes, gone: asyncio.Future[object] | None = None
    ) -> Reply | None:
        """Return what to answer a request; None if nobody waits for it any more.

        Args:
            method: of the request.
            headers: by their names in lower case.
            body: as it came.
            gone: done when whoever asked has gone; None where that cannot be known.
        """
        if method not in ("GET", "POST"):
            return _problem(405, "ask with GET what is served, and push with POST", ("Allow", "GET, POST"))
        now = self.app.world.now()
        try:
            sent = headers.get(SIGNATURE.lower(), "")
            signature = verify(self._keys, sent, body, now=now, url=self.url, issuer=PUSHER)
        except SignatureError as error:
            return _problem(401, str(error))
        if method == "GET":
            return Reply(200, msgspec.json.encode(self.manifest()))
        try:
            push = msgspec.json.decode(body, type=Push)
        except (msgspec.MsgspecError, UnicodeError) as error:
            return _problem(400, f"body: {error}")
        if push.protocol != PROTOCOL:
            return _problem(400, f"this is version {PROTOCOL} of the protocol, and that a push of {push.protocol}")
        if self._is_closed:
            return _stopping()
        try:
            worker = await self.open()
        except PerdureError as error:
            _log.error("the application cannot be opened: %s", error)
            return _problem(503, "the application cannot reach its server", ("Retry-After", "5"))
        turn = self._begun(worker, push, signature, now)
        if isinstance(turn, Reply):
            return turn
        reply = await _outcome(turn, gone)
        return _stopping() if reply is not None and reply.status == 409 and self._is_closed else reply

    def manifest(self) -> Manifest:
        """Return what is served."""
        registry = self.app.registry
        entries = [
            entry_of(workflow, 0, "", registry.triggers.announced(workflow.name))
            for workflow in registry.workflows.values()
        ]
        return Manifest(
            PROTOCOL,
            tuple(
                ServedWorkflow(each.workflow, each.version, each.queue, each.input_schema, each.details)
                for each in entries
            ),
        )

    def _begun(self, worker: ServedWorker, push: Push, signature: Signature, now: int) -> PushedTurn | Reply:
        """Begin a turn, or find the one that the same push has begun; else say why not."""
        run = push.claim.run
        known = worker.pushed.under_way.get(run.id)
        if known is not None and known.is_of(push):
            return known
        if known is not None and known.push.claim.run.epoch >= run.epoch:
            return _problem(409, f"run {run.id!r} is under way here in another turn")
        if not self._is_new(signature, now):
            return _problem(409, "this push was taken before")
        if worker.registry.program(run.workflow, run.version) is None:
            return _problem(404, f"workflow {run.workflow!r} is not served here")
        if worker.claiming.places.room() <= 0:
            return _problem(503, "no run is taken now: it has as many in hand as it may", ("Retry-After", "1"))
        turn = worker.pushed.under_way[run.id] = PushedTurn(push)
        worker.claiming.hand_over([push.claim])
        return turn

    def _is_new(self, signature: Signature, now: int) -> bool:
        """Return whether a signature comes for the first time, and remember it for as long as it holds."""
        if signature.id in self._seen:
            return False
        if len(self._seen) >= SEEN:
            self._seen = {known: until for known, until in self._seen.items() if until > now}
            while len(self._seen) >= SEEN:
                del self._seen[next(iter(self._seen))]
        self._seen[signature.id] = signature.until
        return True


async def _outcome(turn: PushedTurn, gone: asyncio.Future[object] | None) -> Reply | None:
    """Wait for the last decision of a turn, for as long as it is waited for."""
    waited: list[asyncio.Future[object]] = [turn.answer]  # type: ignore[list-item]
    if gone is not None:
        waited.append(gone)
    await asyncio.wait(waited, timeout=turn.push.answer_within, return_when=asyncio.FIRST_COMPLETED)
    if turn.answer.done():
        decision: Decision | None = turn.answer.result()
        if decision is None:
            return _problem(409, "the run is somebody else's by now")
        return Reply(200, msgspec.json.encode(Pushed(decision)))
    turn.is_awaited = False
    return None if gone is not None and gone.done() else Reply(202, b"{}")


def _stopping() -> Reply:
    return _problem(503, "no run is taken now: it stops", ("Retry-After", "1"))


def _problem(status: int, detail: str, *headers: tuple[str, str]) -> Reply:
    return Reply(status, msgspec.json.encode({"status": status, "detail": detail}), headers)


def _keys_of(keys: tuple[str, str] | None) -> SigningKeys:
    if keys is None:
        current, following = os.environ.get(CURRENT, ""), os.environ.get(NEXT, "")
        if not current:
            raise UsageError(
                f"keys: what the server sends is signed, and nothing says with which keys: set {CURRENT} and {NEXT}, "
                "which `perdure endpoints keys` shows, or give keys=(current, next)"
            )
        keys = (current, following or current)
    found = SigningKeys(*keys)
    found.require_usable()
    return found
