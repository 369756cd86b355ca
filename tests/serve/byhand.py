"""Pushes that a test sends, in the place of a server."""

from __future__ import annotations

import msgspec

from perdure.dispatch.endpoints import key_of
from perdure.dispatch.protocol import PROTOCOL, SIGNATURE, Push, TurnToken
from perdure.dispatch.signing import PUSHER, sign


async def keys_of(made):
    return (await made.dispatcher.keys()).signing


async def claimed(made, workflow, **given):
    """A push of a run that the dispatcher does not know of, as it would be."""
    app = made.served.app
    await made.dispatcher.remove(key_of(made.url))
    run = await made.app.start(workflow, **given)
    now = app.world.now()
    (claim,) = await app.store.claim(["default"], 1, "w", now, now + 60_000)
    assert claim.run.id == run.id
    keys = await made.dispatcher.keys()
    token = TurnToken.of("default", claim.run, now).sealed(keys.tokens[0])
    return run, Push(PROTOCOL, "default", claim, 5, token)


async def pushed(http, url, push, keys, *, id="jwt_1", now=None, body=None, issuer=PUSHER):
    body = msgspec.json.encode(push) if body is None else body
    signature = sign(keys, url, body, id=id, now=now or push.claim.run.updated_at, issuer=issuer)
    return await http.post(url, content=body, headers={SIGNATURE: signature})
