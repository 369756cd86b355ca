"""Serves an application's workflows over HTTP: a Perdure server pushes runs to it, and it works them.

app = Perdure("https://perdure.example.com", mode="serve")
...
served = serve.asgi(app)          # an ASGI application, or mounted: api.mount("/workflows", served)
"""

from __future__ import annotations

from perdure.engine.app import Perdure
from perdure.model.duration import Duration
from perdure.serve.over_asgi import AsgiServing
from perdure.serve.over_wsgi import WsgiServing
from perdure.serve.serving import Serving

__all__ = ["asgi", "wsgi"]


def asgi(
    app: Perdure, *, keys: tuple[str, str] | None = None, url: str | None = None, stay: Duration | None = None
) -> AsgiServing:
    """Return an application as an ASGI application, to run or to mount.

    Args:
        app: with `mode="serve"`, on the server's URL.
        keys: the current signing key and the next one; those of `PERDURE_SIGNING_KEY` and `PERDURE_NEXT_SIGNING_KEY`
            by default.
        url: where the server asks it, if requests for any other URL are to be refused.
        stay: for how long (a duration) one request goes on with further steps; by default it does those that can be
            done at once, and where the journal is long already, further ones for five seconds.

    Raises:
        UsageError: there are no keys, or the application has another mode.
    """
    return AsgiServing(Serving(app, keys=keys, url=url, stay=stay))


def wsgi(
    app: Perdure, *, keys: tuple[str, str] | None = None, url: str | None = None, stay: Duration | None = None
) -> WsgiServing:
    """Return an application as a WSGI application; see `asgi`."""
    return WsgiServing(Serving(app, keys=keys, url=url, stay=stay))
