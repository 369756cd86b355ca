"""One call of a command: where it reads from, and how it speaks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from perdure.cli.loading import load_app
from perdure.cli.style import QUIET, clean
from perdure.engine.app import Perdure
from perdure.engine.keys import store_here
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.model.name import check_name
from perdure.store import namespaced
from perdure.store.namespaces import DEFAULT

WIDE = 250
"""Columns of what is not printed on a terminal: the next program wants whole values, not a page that looks good."""

STORE = "PERDURE_STORE"
"""The variable that names the store."""

DEFAULT_STORE = "sqlite:///perdure.db"
"""What `Perdure()` opens without a URL; commands take it too where that file is in the current folder."""


class Session:
    """The common options of a command, and what follows from them.

    Args:
        store: the store's URL; before the app's own.
        app: an application to take the store and the workflows from, as `module:attribute`.
        as_json: standard output is one JSON document and nothing else.
        debug: errors come with their traceback.
    """

    def __init__(self, store: str | None, app: str | None, *, as_json: bool, debug: bool) -> None:
        self.store = store
        self.app = app
        self.as_json = as_json
        self.debug = debug
        self.out = console()
        self.err = console(stderr=True)

    # Speaking.

    def show(self, document: object, *pictures: RenderableType) -> None:
        """Print the document where JSON was asked for, else the pictures."""
        if self.as_json:
            self.out.file.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
            return
        for picture in pictures:
            self.out.print(picture)

    def tell(self, document: object) -> None:
        """Print the document now, where JSON was asked for, and go on."""
        if self.as_json:
            self.show(document)
            self.out.file.flush()

    def note(self, text: str) -> None:
        """Say something beside the result, on standard error."""
        if not self.as_json:
            self.err.print(Text(clean(text), QUIET), soft_wrap=True)

    # The engine.

    def load(self, *, creates: bool = False, namespace: str | None = None, **settings: Any) -> Perdure:
        """Return the engine that the options name, closed, with other settings.

        Args:
            creates: a store that is not there yet will do.
            namespace: whose store it is to be: another one, at a URL that follows; `name=URL` where it is elsewhere,
                and `name=` where the named one is its store already. None for the default one.
            settings: fields of `Settings`.

        Raises:
            UsageError: nothing is named, or it is wrong. StoreUnavailableError: the store is not there.
        """
        if self.app is not None:
            app = load_app(self.app)
            app.settings = dataclasses.replace(app.settings, **settings)
            if self.store is not None:
                app.store, app.url = store_here(self.store, app.encryption), self.store
        else:
            app = Perdure(self.store or _nearby(), **settings)
        if namespace is not None and namespace != DEFAULT:
            name, equals, url = namespace.partition("=")
            if equals and check_name(name, "namespace") == DEFAULT:
                raise UsageError(f"namespace: {DEFAULT!r} is the store's own; give its URL as --store")
            app.url = url or app.url if equals else namespaced(app.url, name)
            app.encryption = app.encryption and app.encryption.scoped(name)
            app.store = store_here(app.url, app.encryption)
        path = file_of(app.url)
        if not creates and path is not None and not path.exists():
            raise StoreUnavailableError(f"there is no store at {path}: no worker has made it yet")
        return app

    @asynccontextmanager
    async def client(self, *, creates: bool = False) -> AsyncIterator[Perdure]:
        """Open the engine as a client: it starts and asks, and works nothing."""
        async with self.load(creates=creates, mode="client") as app:
            yield app


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or on standard error."""
    made = Console(stderr=stderr, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDE
    return made


def file_of(url: str) -> Path | None:
    """Return the file behind a store's URL; None where it is none."""
    parts = urlsplit(url)
    place = unquote(parts.netloc + parts.path)
    return Path(place[1:]) if parts.scheme == "sqlite" and len(place) > 1 else None


def _nearby() -> str:
    path = file_of(DEFAULT_STORE)
    if path is None or not path.exists():
        raise UsageError(f"which store? give --store URL or --app module:app, or set {STORE}")
    return DEFAULT_STORE
