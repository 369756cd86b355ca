from __future__ import annotations

import base64

import pytest

from perdure import Perdure
from perdure.model.errors import DecryptionError, StoreFullError, UsageError
from perdure.server import ServerSettings
from perdure.server.namespaces import Namespaces
from perdure.server.settings import is_loopback, read_namespaces
from tests.servers import label, postgres, valkey


def test_the_environment_says_what_was_not_given():
    said = {
        "PERDURE_STORE": "memory://a",
        "PERDURE_PORT": "81",
        "PERDURE_CORS": "https://a.example, https://b.example,",
    }
    said |= {"PERDURE_NAMESPACES": "acme beta=memory://b\n", "PERDURE_LOG_JSON": "yes"}
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
        ({"PERDURE_NAMESPACES": "a a"}, "'a' is there twice"),
        ({"PERDURE_NAMESPACES": "a,b"}, "PERDURE_NAMESPACES: put spaces between namespaces"),
        ({"PERDURE_NAMESPACES": "x a,b=memory://b"}, "put spaces between namespaces, not commas"),
        ({"PERDURE_NAMESPACES": "a=memory://a,b=redis+sentinel://b"}, "put spaces between namespaces"),
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


def test_a_store_of_several_servers_keeps_its_commas():
    said = {"PERDURE_NAMESPACES": "acme=redis://a:1,b:2/0?prefix=p\n  beta=valkeys://c:3,d:4  gamma"}
    assert ServerSettings.read(said).namespaces == {
        "acme": "redis://a:1,b:2/0?prefix=p",
        "beta": "valkeys://c:3,d:4",
        "gamma": None,
    }


@pytest.mark.parametrize("kind", ["the same", "another way", "a link", "postgres", "valkey"])
async def test_two_namespaces_never_have_one_store(kind, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    here = f"sqlite:///{tmp_path}"
    urls = {
        "the same": lambda: (f"{here}/a.db", f"{here}/a.db"),
        "another way": lambda: (f"{here}/a.db", f"{here}/../{tmp_path.name}/a.db?busy_timeout=5s"),
        "a link": lambda: (f"{here}/a.db", f"{here}/link/a.db"),
        "postgres": lambda: twice(postgres().url(schema=label(tmp_path)), "pool_size=3"),
        "valkey": lambda: twice(valkey().url(prefix=label(tmp_path)), "pool_size=3"),
    }
    one, other = urls[kind]()
    spaces = Namespaces(ServerSettings(store=one, namespaces={"acme": None, "beta": other}))
    with pytest.raises(UsageError, match="the store of 'beta' is that of default, acme"):
        await spaces.open()
    async with Perdure(one, mode="client") as app:
        assert await app.store.collections() == []


def twice(url, option):
    return url, f"{url}{'&' if '?' in url else '?'}{option}"


async def test_nor_do_they_where_each_encrypts_it_for_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", "k1:" + base64.b64encode(bytes(32)).decode())
    url = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(DecryptionError):
        await Namespaces(ServerSettings(store=url, namespaces={"acme": f"{url}?busy_timeout=5s"})).open()


async def test_where_it_cannot_be_found_out_the_log_says_so(tmp_path, caplog, monkeypatch):
    spaces = Namespaces(ServerSettings(store=f"sqlite:///{tmp_path}/a.db", namespaces={"acme": None}))

    async def full(documents):
        raise StoreFullError("no room")

    monkeypatch.setattr(spaces.default.store, "put", full)
    await spaces.open()
    assert "a store of its own could not be found out: no room" in caplog.text
    await spaces.close()


async def test_namespaces_that_are_apart_leave_nothing_behind(tmp_path):
    spaces = Namespaces(ServerSettings(store=f"sqlite:///{tmp_path}/a.db", namespaces={"acme": None, "beta": None}))
    await spaces.open()
    for name in spaces.names:
        app = spaces.engine(name)
        assert app is not None
        assert await app.store.collections() == []
    await spaces.close()


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
