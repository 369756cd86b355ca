"""What goes between a server and those who serve workflows over HTTP. Both sides read and write it by these types."""

from __future__ import annotations

import hashlib

import jwt
import msgspec

from perdure.dispatch.signing import ALGORITHM
from perdure.model.decision import Claim, Committed, Decision, Extended, Lease, Message
from perdure.model.errors import PerdureError
from perdure.model.run import Run

PROTOCOL = 1
"""The version of all this."""

SIGNATURE = "Perdure-Signature"
"""The header that carries the signature of what a server sends."""

DELIVERY = "Perdure-Delivery-Id"
"""The header that carries the id of one push."""

NON_RETRYABLE = "Upstash-NonRetryable-Error"
"""The header by which an endpoint says that there is no use in asking again."""

NON_RETRYABLE_STATUS = 489
"""The status by which it says so."""

TURN_MS = 86_400_000
"""For how many milliseconds the token of a turn holds: longer than any turn that makes no decision in between."""


class ServedWorkflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A workflow as an endpoint says that it serves it; see `perdure.model.decision.CatalogEntry`."""

    name: str
    version: str
    queue: str
    input_schema: str = "{}"
    details: str = "{}"


class Manifest(msgspec.Struct, frozen=True):
    """What an endpoint serves."""

    protocol: int
    workflows: tuple[ServedWorkflow, ...]


class Push(msgspec.Struct, frozen=True):
    """A claim, handed to an endpoint.

    Attributes:
        protocol: see `PROTOCOL`.
        namespace: where the run is.
        claim: the run, its journal and its inbox.
        answer_within: after how many seconds at the latest an answer is to begin: 202, if the turn takes longer.
        token: what a decision of this turn is committed with, where it does not go into the answer.
    """

    protocol: int
    namespace: str
    claim: Claim
    answer_within: float
    token: str


class Pushed(msgspec.Struct, frozen=True):
    """The answer to a push: the decision that gives the lease up."""

    decision: Decision


class CommitTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks to commit a decision of a turn."""

    decision: Decision


class TurnCommitted(msgspec.Struct, frozen=True):
    """The answer: what became of the decision, and the token of the next one."""

    committed: Committed
    token: str


class ExtendTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks to extend the lease of a turn."""

    lease: Lease


class TurnExtended(msgspec.Struct, frozen=True):
    """The answer: what became of the lease."""

    extended: Extended


class TurnInbox(msgspec.Struct, frozen=True):
    """The unread messages of a turn's run."""

    messages: tuple[Message, ...]


class TokenError(PerdureError):
    """The token of a turn is none, or is for something else."""


class TurnToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token lets one do: commit this decision of this turn, once, and keep its lease.

    Attributes:
        ns: the namespace.
        run, epoch: the turn.
        seq: the number of the decision.
        until: when it holds no longer, in milliseconds since the epoch.
    """

    ns: str
    run: str
    epoch: int
    seq: int
    until: int

    @classmethod
    def of(cls, namespace: str, run: Run, now: int) -> TurnToken:
        """Return that of the next decision of a claimed run."""
        return cls(namespace, run.id, run.epoch, run.seq + 1, now + TURN_MS)

    def sealed(self, secret: str) -> str:
        """Return it as text that only who has the secret can make."""
        return jwt.encode(msgspec.to_builtins(self), secret, ALGORITHM)


def opened(token: str, secrets: tuple[str, ...], now: int) -> TurnToken:
    """Return what a token lets one do.

    Raises:
        TokenError: it was made with none of the secrets, or holds no longer.
    """
    for secret in secrets:
        try:
            found = msgspec.convert(jwt.decode(token, secret, [ALGORITHM]), TurnToken)
        except (jwt.InvalidTokenError, msgspec.ValidationError):
            continue
        if found.until <= now:
            raise TokenError("the token holds no longer")
        return found
    raise TokenError("the token is none of this server's")


def delivery_id(run: Run, seq: int) -> str:
    """Return what one push is called, so that one that comes twice can be told: the same for the same decision."""
    return hashlib.blake2b(f"{run.id}\0{run.incarnation}\0{run.epoch}\0{seq}".encode(), digest_size=16).hexdigest()
