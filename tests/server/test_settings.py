from __future__ import annotations

import base64

import pytest

from perdure.model.errors import UsageError
from perdure.server import ServerSettings
from perdure.server.namespaces import Namespaces
from perdure.server.settings import is_loopback, read_namespaces


def test_the_environment_says_what_was_not_given():
    said = {
        "PERDURE_STORE": "memory://a",
        "PERDURE_PORT": "81",
        "PERDURE_CORS": "https://a.example, https://b.example,",
    }
    said |= {"PERDURE_NAMESPACES": "acme,beta=memory://b", "PERDURE_LOG_JSON": "yes"}
    settings = ServerSettings.read(said, port=82, host=None)
    assert (settings.store, settings.port, settings.host, settings.log_json) == ("memory://a", 82, "127.0.0.1", True)
    assert settings.cors == ("https://a.example", "https://b.example")
    assert settings.namespaces == {"acme": None, "beta": "memory://b"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"port": 70_000}, "port: 70000"),
        ({"port": True}, "port: True"),
        ({"body_bytes": 1}, "body_bytes: 1 must be"),
        ({"tls_cert": "a"}, "give both files"),
        ({"cors": ("*",)}, "cors: '\\*' is no origin"),
        ({"cors": ("https://a.example/",)}, "is no origin"),
        ({"namespaces": {"default": None}}, "is the store's own"),
        ({"namespaces": {"a/b": None}}, "namespace: 'a/b'"),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(UsageError, match=message):
        ServerSettings(**wrong)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"PERDURE_PORT": "x"}, "PERDURE_PORT: 'x'"),
        ({"PERDURE_LOG_JSON": "maybe"}, "PERDURE_LOG_JSON: 'maybe'"),
        ({"PERDURE_NAMESPACES": "a,a"}, "'a' is there twice"),
    ],
)
def test_a_wrong_variable_is_named(said, message):
    with pytest.raises(UsageError, match=message):
        ServerSettings.read(said)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host, found):
    assert is_loopback(host) is found


def test_two_namespaces_never_have_one_store():
    with pytest.raises(UsageError, match="two of them have one store"):
        Namespaces(ServerSettings(store="memory://a", namespaces={"acme": "memory://a"}))


def test_namespaces_as_they_are_typed():
    assert read_namespaces(["acme", "beta=sqlite:///beta.db?synchronous=full"]) == {
        "acme": None,
        "beta": "sqlite:///beta.db?synchronous=full",
    }


async def test_where_one_store_cannot_be_opened_none_stays_open(tmp_path):
    (tmp_path / "bad.db").write_text("this is no store at all" * 100)
    spaces = Namespaces(ServerSettings(store="memory://a", namespaces={"bad": f"sqlite:///{tmp_path}/bad.db"}))
    with pytest.raises(Exception, match="bad.db"):
        await spaces.open()
    assert spaces.default._client is None


def test_what_is_encrypted_is_so_for_one_namespace(monkeypatch):
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", "k1:" + base64.b64encode(bytes(32)).decode())
    spaces = Namespaces(ServerSettings(store="memory://a", namespaces={"acme": None}))
    scopes = [app.encryption.scope for app in map(spaces.engine, spaces.names) if app is not None and app.encryption]
    assert scopes == ["", "acme"]
