"""Signed tokens: those of an issuer that is trusted, and more than forty that only look alike."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from perdure.model.errors import UsageError
from perdure.server.security.issuers import Issuer, read_issuers
from perdure.server.settings import ServerSettings

ISSUER = "https://id.example"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"0123456789abcdef0123456789abcdef"


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}.get(
        next((kind for kind in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey) if isinstance(key, kind)), object)
    )
    made = jwt.get_algorithm_by_name(algorithm or "EdDSA").to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig", **more}


class KeyServer:
    """Answers with keys, and counts how often it is asked; `answer` may be anything."""

    def __init__(self) -> None:
        self.keys = [
            jwk(RSA, "rsa", alg="RS256"),
            jwk(EC, "ec", alg="ES256"),
            jwk(ED, "ed", alg="EdDSA"),
            jwk(RSA, "any-rsa"),
            jwk(RSA, "for-encryption", use="enc"),
            {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(SECRET).decode(), "alg": "HS256"},
        ]
        self.asked = 0
        self.is_up = True
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self.is_up:
            body = json.dumps({"keys": self.keys}).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()


@pytest_asyncio.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    listening = await asyncio.start_server(keys.answer, "127.0.0.1", 0)
    keys.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/keys"
    async with listening:
        yield keys


@pytest.fixture
def trusting(serve, key_server):
    """`await trusting(**issuer)`: a server that trusts the issuer."""

    async def trusting(**issuer: Any) -> Any:
        algorithms = ("RS256", "ES256", "EdDSA")
        given = {"audience": "perdure", "algorithms": algorithms, "allow": ("127.0.0.1",), **issuer}
        return await serve(issuers=(Issuer(ISSUER, jwks=key_server.url, **given),), namespaces={"acme": None})

    return trusting


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {
        "iss": ISSUER,
        "aud": "perdure",
        "sub": "ada",
        "nbf": now - 5,
        "exp": now + 300,
        "perdure_role": "operator",
        "perdure_namespaces": ["default"],
    }
    return {name: value for name, value in {**made, **changed}.items() if value is not None}


def signed(
    key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", headers: Any = None, **changed: Any
) -> str:
    head = {**({} if kid is None else {"kid": kid}), **(headers or {})}
    return jwt.encode(claims(**changed), key, algorithm, head)


def raw(header: Any, payload: Any, signature: bytes = b"x") -> str:
    def part(value: Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return ".".join((part(header), part(payload), part(signature)))


def with_hmac(secret: bytes, header: dict[str, Any]) -> str:
    import hashlib
    import hmac

    head, _, _ = raw(header, claims(), b"").rpartition(".")
    digest = hmac.new(secret, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def public(form: serialization.PublicFormat, encoding: serialization.Encoding) -> bytes:
    return RSA.public_key().public_bytes(encoding, form)


def flipped(token: str, part: int) -> str:
    parts = token.split(".")
    text = parts[part]
    parts[part] = text[:10] + ("A" if text[10] != "A" else "B") + text[11:]
    return ".".join(parts)


def with_claims(token: str, **changed: Any) -> str:
    head, _, signature = token.split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims(**changed)).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}.{signature}"


PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
SPKI, PKCS1 = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1
NOW = int(time.time())

FORGED: dict[str, Any] = {
    "nothing": lambda: "nothing",
    "two parts": lambda: "a.b",
    "four parts": lambda: signed() + ".x",
    "dots": lambda: "..",
    "no JSON": lambda: raw(b"{", b"{"),
    "a list as claims": lambda: raw({"alg": "RS256", "kid": "rsa"}, [1]),
    "a list as header": lambda: raw(["RS256"], claims()),
    "deep JSON": lambda: raw({"alg": "RS256", "kid": "rsa"}, b"[" * 5_000),
    "none": lambda: jwt.encode(claims(), None, "none", {"kid": "rsa"}),
    "None": lambda: raw({"alg": "None", "kid": "rsa"}, claims(), b""),
    "nOnE with a signature": lambda: raw({"alg": "nOnE", "kid": "rsa"}, claims()),
    "no algorithm": lambda: raw({"kid": "rsa"}, claims()),
    "an algorithm that is a list": lambda: raw({"alg": ["RS256"], "kid": "rsa"}, claims()),
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "a changed header": lambda: flipped(signed(), 0),
    "changed claims": lambda: with_claims(signed(), perdure_role="admin"),
    "a changed signature": lambda: flipped(signed(), 2),
    "another's key": lambda: signed(OTHER_RSA),
    "another's key under an id of its own": lambda: signed(OTHER_RSA, kid="other"),
    "HMAC with the public key as PEM": lambda: with_hmac(public(SPKI, PEM), {"alg": "HS256", "kid": "rsa"}),
    "HMAC with the public key as PKCS1": lambda: with_hmac(public(PKCS1, PEM), {"alg": "HS256", "kid": "rsa"}),
    "HMAC with the public key as DER": lambda: with_hmac(public(SPKI, DER), {"alg": "HS256", "kid": "rsa"}),
    "HMAC said to be RS256": lambda: with_hmac(public(SPKI, PEM), {"alg": "RS256", "kid": "rsa"}),
    "HMAC with a secret that is among the keys": lambda: with_hmac(SECRET, {"alg": "HS256", "kid": "oct"}),
    "a secret said to be RS256": lambda: with_hmac(SECRET, {"alg": "RS256", "kid": "oct"}),
    "an algorithm that is not trusted": lambda: signed(RSA, "PS256"),
    "a longer hash of the same key": lambda: signed(RSA, "RS512"),
    "a curve for RSA": lambda: signed(EC, "ES256", "rsa"),
    "RSA for a curve": lambda: signed(RSA, "RS256", "ec"),
    "another curve's key": lambda: signed(ED, "EdDSA", "ec"),
    "a key for encryption": lambda: signed(kid="for-encryption"),
    "no key id": lambda: signed(kid=None),
    "a key id that is a number": lambda: raw({"alg": "RS256", "kid": 7}, claims()),
    "a key id that is a path": lambda: signed(kid="../../../dev/null"),
    "a key id that is SQL": lambda: signed(kid="x' UNION SELECT 'key"),
    "a long key id": lambda: signed(kid="k" * 5_000),
    "its own key": lambda: signed(OTHER_RSA, headers={"jwk": jwk(OTHER_RSA, "rsa")}),
    "its own key's URL": lambda: signed(OTHER_RSA, headers={"jku": "https://evil.example/keys"}),
    "its own certificate": lambda: signed(OTHER_RSA, headers={"x5u": "https://evil.example/cert", "x5c": ["MIIB"]}),
    "something critical": lambda: signed(headers={"crit": ["exp"]}),
    "something critical and unknown": lambda: signed(headers={"crit": ["x-forget-it"], "x-forget-it": True}),
    "an unencoded payload": lambda: signed(headers={"b64": True, "crit": ["b64"]}),
    "another type": lambda: signed(headers={"typ": "dpop+jwt"}),
    "an encrypted one": lambda: raw({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "rsa"}, claims()) + ".x.y",
    "expired": lambda: signed(exp=NOW - 60),
    "without an end": lambda: signed(exp=None),
    "an end that is none": lambda: signed(exp="soon"),
    "not yet": lambda: signed(nbf=NOW + 3_600),
    "without a beginning": lambda: signed(nbf=None),
    "another issuer": lambda: signed(iss="https://evil.example"),
    "an issuer that begins alike": lambda: signed(iss=f"{ISSUER}.evil.example"),
    "an issuer with a slash more": lambda: signed(iss=f"{ISSUER}/"),
    "issuers": lambda: raw({"alg": "RS256", "kid": "rsa"}, claims(iss=[ISSUER])),
    "no issuer": lambda: signed(iss=None),
    "for somebody else": lambda: signed(aud="billing"),
    "for nobody": lambda: signed(aud=None),
    "for an empty list": lambda: signed(aud=[]),
    "about nobody": lambda: signed(sub=None),
    "about an empty name": lambda: signed(sub=""),
    "a name with control characters": lambda: signed(sub="ada\x1b[2J"),
    "no role": lambda: signed(perdure_role=None),
    "a role that is none": lambda: signed(perdure_role="root"),
    "a role that is an object": lambda: signed(perdure_role={"operator": True}),
    "no namespace": lambda: signed(perdure_namespaces=None),
    "a namespace that the issuer may not give": lambda: signed(perdure_namespaces=["acme"]),
}


def test_there_are_forty():
    assert len(FORGED) >= 40


@pytest.mark.parametrize("forgery", FORGED)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_what_only_looks_alike_is_refused(trusting, forgery):
    served = await trusting()
    token = FORGED[forgery]()
    answer = await served.http.get("/api/v1/session", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert token not in answer.text


@pytest.mark.parametrize(
    "token",
    [
        lambda: signed(),
        lambda: signed(EC, "ES256", "ec"),
        lambda: signed(ED, "EdDSA", "ed"),
        lambda: signed(kid="any-rsa"),
        lambda: signed(aud=["billing", "perdure"], perdure_role=["viewer", "operator"]),
        lambda: signed(headers={"typ": "at+JWT"}),
        lambda: signed(perdure_namespaces=["acme", "default", "beta"]),
    ],
)
async def test_what_is_right_is_believed(trusting, token):
    served = await trusting()
    answer = await served.http.get("/api/v1/session", headers={"Authorization": f"Bearer {token()}"})
    assert answer.json() == {
        "name": "ada",
        "kind": "token",
        "role": "operator",
        "namespaces": ["default"],
        "namespace": "default",
    }


async def test_roles_and_namespaces_come_from_the_claims_that_are_named(trusting):
    served = await trusting(
        since="iat",
        name="email",
        role="realm_access.roles",
        roles={"workflow-admins": "admin", "workflow-users": "viewer"},
        namespace="tenant",
        namespaces=("*",),
    )
    given = {"nbf": None, "iat": NOW, "email": "ada@id.example", "tenant": "acme", "perdure_role": "admin"}
    for roles, role in (
        (["workflow-users"], "viewer"),
        (["x", "workflow-admins", "workflow-users"], "admin"),
        (["admin"], None),
    ):
        token = signed(**given, realm_access={"roles": roles})
        answer = await served.http.get("/api/v1/session", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == (200 if role else 401)
        if role:
            assert answer.json()["role"] == role
            assert answer.json()["name"] == "ada@id.example"
            assert answer.json()["namespaces"] == ["acme"]
            assert answer.json()["namespace"] == "acme"


async def test_the_keys_are_asked_for_once_and_known_ones_outlast_an_outage(trusting, key_server):
    served = await trusting()
    headers = {"Authorization": f"Bearer {signed()}"}
    for _ in range(3):
        assert (await served.http.get("/api/v1/session", headers=headers)).status_code == 200
    assert key_server.asked == 1
    key_server.is_up = False
    for minutes in (6, 60, 600):
        served.app.world.ahead += minutes * 60_000
        assert (await served.http.get("/api/v1/session", headers=headers)).status_code == 200
        keys = next(iter(served.server.authenticator._tokens._issuers.values()))[1]
        if keys._asking is not None:
            await asyncio.wait([keys._asking])
    assert key_server.asked == 4
    served.app.world.ahead += 24 * 3_600_000
    assert (await served.http.get("/api/v1/session", headers=headers)).status_code == 401


async def test_a_new_key_is_found_soon_and_an_unknown_one_asks_seldom(trusting, key_server):
    served = await trusting()
    unknown = {"Authorization": f"Bearer {signed(OTHER_RSA, kid='new')}"}
    for _ in range(10):
        assert (await served.http.get("/api/v1/session", headers=unknown)).status_code == 401
    assert key_server.asked == 1
    key_server.keys.append(jwk(OTHER_RSA, "new"))
    served.app.world.ahead += 30_000
    assert (await served.http.get("/api/v1/session", headers=unknown)).status_code == 200
    assert key_server.asked == 2


async def test_keys_are_fetched_from_public_addresses_alone(trusting, key_server):
    served = await trusting(allow=())
    answer = await served.http.get("/api/v1/session", headers={"Authorization": f"Bearer {signed()}"})
    assert answer.status_code == 401
    assert key_server.asked == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "issuers: {}: No such file"),
        ("[", "no JSON"),
        ("[{}]", "missing required field `issuer`"),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","x":1}]', "unknown field `x`"),
        ('[{"issuer":"a","audience":"b","jwks":"http://c"}]', "must begin with https://"),
        ('[{"issuer":"","audience":"b","jwks":"https://c"}]', "issuer must not be empty"),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","algorithms":["HS256"]}]', "algorithms: "),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","algorithms":["none"]}]', "algorithms: "),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","algorithms":[]}]', "algorithms: "),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","since":"exp"}]', "since: "),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","roles":{"x":"root"}}]', "roles: root"),
        ('[{"issuer":"a","audience":"b","jwks":"https://c","namespaces":[]}]', "namespaces: "),
        (
            '[{"issuer":"a","audience":"b","jwks":"https://c"},{"issuer":"a","audience":"b","jwks":"https://c"}]',
            "twice",
        ),
    ],
)
def test_what_is_wrong_with_an_issuer_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        read_issuers(text)


def test_issuers_come_from_the_environment_or_a_file(tmp_path):
    text = '[{"issuer":"a","audience":"b","jwks":"https://c/keys"}]'
    (tmp_path / "issuers.json").write_text(text)
    for given in (text, str(tmp_path / "issuers.json")):
        settings = ServerSettings.read({"PERDURE_ISSUERS": given})
        assert settings.issuers == (Issuer("a", "b", "https://c/keys"),)
