"""The engines of a server: one for each namespace, each on a store of its own, so that none can see another's runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from perdure.engine.app import Perdure
from perdure.engine.env import new_id
from perdure.engine.keys import encryption_here
from perdure.model.document import Document
from perdure.model.errors import StoreError, UsageError
from perdure.server.settings import DEFAULT, ServerSettings
from perdure.store import namespaced

PROBE = "namespaces.probe"
"""Where each store has a document for a moment, by which one that has two namespaces is found out."""

_log = logging.getLogger("perdure.server")


class Namespaces:
    """The namespaces of a server, with their engines, which are clients.

    Args:
        settings: which there are, and where.
        engines: engines by namespace that somebody else opens and closes; those that are not among them are our own.
    """

    def __init__(self, settings: ServerSettings, engines: Mapping[str, Perdure] | None = None) -> None:
        given = dict(engines or {})
        urls = {DEFAULT: settings.store}
        for name, url in settings.namespaces.items():
            urls[name] = url or namespaced(settings.store, name)
        self._own = {
            name: Perdure(url, mode="client", encryption=encryption_here(name))
            for name, url in urls.items()
            if name not in given
        }
        self._engines = {name: given.get(name) or self._own[name] for name in {**urls, **given}}
        self._opened: list[Perdure] = []

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called, `default` first."""
        return tuple(self._engines)

    @property
    def default(self) -> Perdure:
        """The engine of the default namespace, whose store holds what belongs to no namespace."""
        return self._engines[DEFAULT]

    def engine(self, name: str) -> Perdure | None:
        """Return the engine of a namespace; None where there is none of that name."""
        return self._engines.get(name)

    async def open(self) -> None:
        """Open our own engines; where one cannot be, none is left open.

        Raises:
            UsageError: two namespaces have one store, however its URL is written.
            StoreError: a store cannot be used.
        """
        try:
            for app in self._own.values():
                await app.open()
                self._opened.append(app)
            await self._require_apart()
        except BaseException:
            await self.close()
            raise

    async def _require_apart(self) -> None:
        """Put a document of one name into each store: where it is there already, that store has been asked before."""
        if len(self._engines) == 1:
            return
        world = self.default.world
        key, asked = new_id(world), list[tuple[str, Perdure]]()
        try:
            for name, app in self._engines.items():
                (is_new,) = await app.store.put([Document(PROBE, key, name, 0, world.now())])
                if not is_new:
                    before = ", ".join(each for each, _ in asked)
                    raise UsageError(
                        f"namespace: the store of {name!r} is that of {before}, so they would share their runs"
                    )
                asked.append((name, app))
        except StoreError as error:
            _log.warning("whether each namespace has a store of its own could not be found out: %s", error)
        finally:
            for _, app in asked:
                await app.store.put([Document(PROBE, key, None, 1, world.now())])

    async def close(self) -> None:
        """Close the engines that `open` opened."""
        while self._opened:
            await self._opened.pop().close()
