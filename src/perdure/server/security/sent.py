"""What a request's headers say of who sends it, and from where; and which of that a browser may be believed."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import Scope

from perdure.server.errors import Problem
from perdure.server.settings import is_loopback

CSRF = "Perdure-CSRF"
"""The header that proves that a page of ours sends a request: it holds what the page was given."""

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

NO_PAGES = ("/api/", "/tasks/")
"""What no link of another origin may lead to, as it is for programs; some of it starts runs by GET."""

_PROXIED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_OURS = ("authorization", "cookie", "host", "origin", "content-type", "perdure-csrf")
_FETCH = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
_READ = {name.encode(): name for name in (*_OURS, *_FETCH, *_PROXIED)}
_PORTS = {"http": 80, "https": 443}


def sent(scope: Scope) -> dict[str, str]:
    """Return the headers that matter here; one that is there twice is empty, and so believed in nothing."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if (key := _READ.get(name)) is not None:
            found[key] = "" if key in found else value.decode("latin-1")
    return found


def host_of(headers: Mapping[str, str]) -> str:
    """Return the name of the host that is asked, without its port; empty where it is none."""
    host = headers.get("host", "")
    try:
        return urlsplit(f"//{host}").hostname or "" if not set("/?#@\\ ") & set(host) else ""
    except ValueError:
        return ""


def is_proxied(headers: Mapping[str, str]) -> bool:
    """Return whether a request says that it came through a proxy, so that it may be anybody's."""
    return any(name in headers for name in _PROXIED)


def is_from_here(scope: Scope) -> bool:
    """Return whether a request comes from this machine, as far as the connection goes."""
    client = scope.get("client")
    return client is None or is_loopback(client[0])


def require_our_page(scope: Scope, headers: Mapping[str, str], token: str, *, is_cookie: bool) -> None:
    """Refuse what a page of somebody else's could have a browser send in its user's name.

    Args:
        scope: of the request.
        headers: of the request, as `sent` returns them.
        token: what our pages were given.
        is_cookie: whether it is a cookie that says who sends it. Programs without one need not look like our page, as
            long as they do not look like a browser.

    Raises:
        Problem: it is refused (403).
    """
    is_browser = "origin" in headers or "sec-fetch-site" in headers
    if scope["method"] in SAFE:
        is_visit = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        is_visit = is_visit and not scope["path"].startswith(NO_PAGES)
        if is_browser and not is_visit and not _is_same_origin(headers):
            raise _refused("a page of another origin may not ask in your name")
        return
    if not is_browser and not is_cookie:
        return
    require_our_origin(headers)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _refused("send it as application/json")
    if not hmac.compare_digest(headers.get(CSRF.lower(), "").encode(), token.encode()):
        raise _refused(f"the header {CSRF} is not what this page was given; load the page again")


def require_our_origin(headers: Mapping[str, str]) -> None:
    """Refuse what no page of this very origin sends.

    Raises:
        Problem: it is refused (403).
    """
    if not _is_same_origin(headers):
        raise _refused("only pages of this server may ask in your name; use an API key elsewhere")


def _is_same_origin(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that a page of this very origin asks; one of the two headers has to be there."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return False
    if site not in (None, "same-origin", "none"):
        return False
    return origin is None or _is_origin_of(origin, headers.get("host", ""))


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether an origin is that of a host, whichever scheme a proxy speaks to us in its place."""
    try:
        there = urlsplit(origin)
        port = _PORTS.get(there.scheme)
        here = urlsplit(f"{there.scheme}://{host}")
        return (
            port is not None
            and bool(there.hostname)
            and there.hostname == here.hostname
            and (there.port or port) == (here.port or port)
            and not there.path
            and there.username is None
        )
    except ValueError:
        return False


def _refused(detail: str) -> Problem:
    return Problem(403, "Cross-site request refused", detail)
