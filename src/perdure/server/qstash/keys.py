"""The keys that messages are signed with."""

from __future__ import annotations

from starlette.responses import Response

from perdure.dispatch.endpoints import Keys
from perdure.server.access import Admin
from perdure.server.qstash.routes import dispatcher_of
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


@router.get("/v2/keys", operation_id="qstash_get_keys")
async def get_keys(access: Admin) -> Response:
    """Return the keys that receivers check signatures with."""
    return _told(await dispatcher_of(access).kept_keys())


@router.post("/v2/keys/rotate", operation_id="qstash_rotate_keys")
async def rotate_keys(access: Admin) -> Response:
    """Have the next key take the place of the current one, and make another next one."""
    await access.audit("signing-keys.rotate", "")
    return _told(await dispatcher_of(access).rotate_keys())


def _told(keys: Keys) -> Response:
    return reply({"current": keys.signing.current, "next": keys.signing.next})
