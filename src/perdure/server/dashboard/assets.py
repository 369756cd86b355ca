"""The pages' style and scripts: read once, served under an address that changes when they do, and so kept for ever."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from perdure.server.access import PUBLIC

_HERE = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {path.name: path.read_bytes() for path in sorted(_HERE.iterdir()) if path.suffix in _TYPES}

DIGEST = hashlib.sha256(b"".join(_FILES.values())).hexdigest()[:12]

FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}


def address(name: str) -> str:
    """Return the address of a file."""
    return f"/static/{DIGEST}/{name}"


async def _file(name: str) -> Response:
    return Response(_FILES[name], headers=FOR_EVER, media_type=_TYPES[Path(name).suffix])


def router() -> APIRouter:
    """Return the routes of the files, which are the same for everybody, and so served to anybody."""
    made = APIRouter(redirect_slashes=False)
    for name in _FILES:
        PUBLIC.add(address(name))
        made.add_api_route(address(name), partial(_file, name), include_in_schema=False, response_class=Response)
    return made
