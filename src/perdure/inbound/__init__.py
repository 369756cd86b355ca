"""Webhooks that come in: what services send to a path starts a workflow, once, if it is really from them.

`app.webhook(path, verify=...)` declares them; `asgi` serves them, in any ASGI application or by `perdure server --app`.
"""

from perdure.authoring.hooks import Verifier
from perdure.inbound.asgi import asgi
from perdure.inbound.verifiers import Received, github, slack, standard, stripe

__all__ = ["Received", "Verifier", "asgi", "github", "slack", "standard", "stripe"]
