"""The engines of a server: one for each namespace, each on a store of its own, so that none can see another's runs."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.engine.app import Perdure
from perdure.engine.keys import encryption_here
from perdure.model.errors import UsageError
from perdure.server.settings import DEFAULT, ServerSettings
from perdure.store import namespaced


class Namespaces:
    """The namespaces of a server, with their engines, which are clients.

    Args:
        settings: which there are, and where.
        engines: engines by namespace that somebody else opens and closes; those that are not among them are our own.

    Raises:
        UsageError: two namespaces have one store.
    """

    def __init__(self, settings: ServerSettings, engines: Mapping[str, Perdure] | None = None) -> None:
        given = dict(engines or {})
        urls = {DEFAULT: settings.store}
        for name, url in settings.namespaces.items():
            urls[name] = url or namespaced(settings.store, name)
        if len(set(urls.values())) < len(urls):
            raise UsageError("namespace: two of them have one store, so each would see the other's runs")
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
            StoreError: a store cannot be used.
        """
        try:
            for app in self._own.values():
                await app.open()
                self._opened.append(app)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the engines that `open` opened."""
        while self._opened:
            await self._opened.pop().close()
