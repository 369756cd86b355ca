"""What one server consists of, whichever way it is asked: its engines, who may do what, and what is written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.signing import SigningKeys
from perdure.engine.app import Perdure
from perdure.model.errors import StoreError, StoreUnavailableError, UsageError
from perdure.model.redaction import Redaction
from perdure.server.hearing import Hearing
from perdure.server.live import Live
from perdure.server.namespaces import Namespaces
from perdure.server.sampling import Sampler
from perdure.server.security.audit import Auditor
from perdure.server.security.authentication import Authenticator
from perdure.server.security.remembered import Remembered
from perdure.server.security.streams import Streams
from perdure.server.settings import ServerSettings
from perdure.tasks.addresses import Guard

READY_WITHIN = 2.0
"""Seconds within which every store has to answer for the server to be ready."""

TRACEBACK = "traceback"
"""The field of errors that says where in the code they come from, which is not for viewers."""

_log = logging.getLogger("perdure.server")

QSTASH_DEV = SigningKeys("sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs")
"""The keys that QStash's clients take for those of a server for development; a client for which they are not asks for
another server."""


class Server:
    """The parts of a server.

    Args:
        settings: see there.
        engines: see `Namespaces`.

    Attributes:
        settings, namespaces: see there.
        authenticator: who finds out who asks.
        auditor: who writes down what operators do.
        redaction: what viewers do not see.
        answering: which namespaces' stores do; who asks may be anybody, so it is not looked up each time.
        streams: who has how many streams open.
        dispatchers: by namespace, what hands runs to those who serve workflows over HTTP.
        stopping: set when it stops: whatever waits or streams ends then.
    """

    def __init__(self, settings: ServerSettings, engines: Mapping[str, Perdure] | None = None) -> None:
        self.settings = settings
        self.namespaces = Namespaces(settings, engines)
        self.authenticator = Authenticator(settings, self.namespaces)
        self.auditor = Auditor(self.namespaces)
        self.redaction = Redaction((*settings.redact, TRACEBACK), in_prose=True)
        self.streams = Streams(settings.streams_per_key)
        guard = None if settings.is_loopback else Guard(settings.deliver_to)
        signing = QSTASH_DEV if settings.qstash_dev else None
        self.dispatchers = {
            name: Dispatcher(engine, name, is_on=settings.dispatch, guard=guard, signing=signing)
            for name in self.namespaces.names
            if (engine := self.namespaces.engine(name)) is not None
        }
        self.answering = Remembered(self._answers, self.namespaces.default.world)
        self.stopping = asyncio.Event()
        self._hearings: dict[str, Hearing] = {}
        self._live: dict[str, Live] = {}
        self._samplers: dict[str, Sampler] = {}
        self._is_open = False

    def hearing(self, namespace: str) -> Hearing:
        """Return what tells clients of a namespace, which is there, that something has changed."""
        if namespace not in self._hearings:
            app = self.namespaces.engine(namespace)
            assert app is not None
            self._hearings[namespace] = Hearing(app, self.stopping)
        return self._hearings[namespace]

    def live(self, namespace: str) -> Live:
        """Return what tells the watchers of a namespace, which is there, what changes."""
        if namespace not in self._live:
            app = self.namespaces.engine(namespace)
            assert app is not None
            self._live[namespace] = Live(app, self.hearing(namespace), self.settings.watchers, self.redaction)
        return self._live[namespace]

    def sampler(self, namespace: str) -> Sampler:
        """Return what takes the counts of a namespace, which is there, now and then."""
        if namespace not in self._samplers:
            app = self.namespaces.engine(namespace)
            assert app is not None
            self._samplers[namespace] = Sampler(app)
        return self._samplers[namespace]

    async def _answers(self, namespace: str) -> bool:
        app = self.namespaces.engine(namespace)
        assert app is not None
        try:
            async with asyncio.timeout(READY_WITHIN):
                await app.store.get(["-"])
        except StoreError as error:
            _log.warning("not ready: the store of namespace %r does not answer: %s", namespace, error)
            raise
        except TimeoutError:
            message = f"the store of namespace {namespace!r} has not answered within {READY_WITHIN:g} s"
            _log.warning("not ready: %s", message)
            raise StoreUnavailableError(message) from None
        return True

    async def stop(self) -> None:
        """Let everybody go who waits or watches, so that what is left can end."""
        self.stopping.set()
        for sampler in self._samplers.values():
            await sampler.close()
        for live in self._live.values():
            await live.close()
        for hearing in self._hearings.values():
            await hearing.close()

    async def open(self) -> None:
        """Open the stores; a second call is nothing.

        Raises:
            UsageError: others than this machine could reach it, and nothing says who may do what.
            StoreError: a store cannot be used.
        """
        if self._is_open:
            return
        await self.namespaces.open()
        try:
            if not self.settings.is_loopback and not await self.authenticator.is_configured():
                raise UsageError(
                    f"host: {self.settings.host} can be reached from elsewhere, and no key says who may do what; make "
                    "one with `perdure keys create`, or listen on 127.0.0.1"
                )
        except BaseException:
            await self.namespaces.close()
            raise
        for dispatcher in self.dispatchers.values():
            await dispatcher.open()
        self._is_open = True

    async def close(self) -> None:
        """Close what `open` opened; closing twice is nothing."""
        await self.stop()
        if self._is_open:
            self._is_open = False
            for dispatcher in self.dispatchers.values():
                await dispatcher.close()
            await self.authenticator.close()
            await self.auditor.close()
            await self.namespaces.close()
