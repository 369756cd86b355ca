"""Servers that cannot be used, as a command says it; each is a real one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.cli.conftest import ask
from tests.cli.refusing import COMMANDS, QUOTED, SECRET, Bad, check
from tests.servers import ValkeyServer, label, postgres, valkey, valkey_sentinel
from tests.serving.cluster import ClusterNode
from tests.serving.process import HOST

SHORT = {"patience": "200ms"}

Making = Callable[[Path, pytest.MonkeyPatch, contextlib.ExitStack], str]


def closed_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def behind(url: str, user: str = "", **options: str) -> str:
    """The URL with another user, whose password is the secret, and with options."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    place = rest.rpartition("@")[2]
    return f"{scheme}://{user}:{QUOTED}@{place}?{urlencode({**SHORT, **options})}"


def sql(*statements: str, database: str = "postgres") -> None:
    for statement in statements:
        postgres().sql(statement, database=database)


# PostgreSQL.


def user_of_postgres(name: str, rights: str = "") -> None:
    if not postgres().sql("SELECT 1 FROM pg_roles WHERE rolname = %s", name):
        sql(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}' {rights}")


def postgres_nobody_there(folder, monkeypatch, stack):
    return f"postgresql://ada:{QUOTED}@{HOST}:{closed_port()}/orders?{urlencode(SHORT)}"


def postgres_no_such_host(folder, monkeypatch, stack):
    return f"postgresql://ada:{QUOTED}@db.invalid/orders?{urlencode(SHORT)}"


def postgres_wrong_password(folder, monkeypatch, stack):
    return behind(postgres().url(), "perdure")


def postgres_no_such_database(folder, monkeypatch, stack):
    user_of_postgres("cli_ada")
    return behind(postgres().url(), "cli_ada").replace("/postgres?", "/nowhere?")


def postgres_no_right(folder, monkeypatch, stack):
    user_of_postgres("cli_ada")
    return behind(postgres().url(), "cli_ada", schema=label(folder))


def postgres_no_right_to_the_tables(folder, monkeypatch, stack):
    schema = label(folder)
    ask(postgres().url(schema=schema), lambda app: app.stats())
    user_of_postgres("cli_ada")
    return behind(postgres().url(), "cli_ada", schema=schema)


def postgres_read_only(folder, monkeypatch, stack):
    user_of_postgres("cli_reader")
    sql("ALTER ROLE cli_reader SET default_transaction_read_only = on")
    return behind(postgres().url(), "cli_reader", schema=label(folder))


def postgres_older(folder, monkeypatch, stack):
    monkeypatch.setattr("perdure.store.postgres.schema.OLDEST_SERVER", 99)
    return postgres().url(schema=label(folder))


def postgres_newer_tables(folder, monkeypatch, stack):
    schema = label(folder)
    url = postgres().url(schema=schema)
    ask(url, lambda app: app.stats())
    sql(f'UPDATE "{schema}".meta SET perdure_version = 999')
    return url


def postgres_of_another_program(folder, monkeypatch, stack):
    schema = label(folder)
    sql(f'CREATE SCHEMA "{schema}"', f'CREATE TABLE "{schema}".runs (id int)')
    return postgres().url(schema=schema)


def postgres_half_there(folder, monkeypatch, stack):
    schema = label(folder)
    url = postgres().url(schema=schema)
    ask(url, lambda app: app.stats())
    sql(f'DROP TABLE "{schema}".runs CASCADE')
    return url


def postgres_is_no_postgres(folder, monkeypatch, stack):
    return f"postgresql://ada:{QUOTED}@{HOST}:{valkey().port}/orders?{urlencode({**SHORT, 'connect_timeout': '1s'})}"


POSTGRES = {
    "postgres: nobody there": Bad(4, "StoreUnavailableError", "cannot be reached", postgres_nobody_there),
    "postgres: no such host": Bad(4, "StoreUnavailableError", "db.invalid", postgres_no_such_host),
    "postgres: wrong password": Bad(
        4, "StoreUnavailableError", "check the user and the password", postgres_wrong_password
    ),
    "postgres: no such database": Bad(4, "StoreUnavailableError", "create it first", postgres_no_such_database),
    "postgres: no right": Bad(4, "StoreReadOnlyError", "GRANT CREATE ON DATABASE", postgres_no_right),
    "postgres: no right to the tables": Bad(4, "StoreReadOnlyError", "GRANT", postgres_no_right_to_the_tables),
    "postgres: read-only": Bad(4, "StoreReadOnlyError", "is read-only", postgres_read_only),
    "postgres: older": Bad(4, "StoreUnavailableError", "upgrade it", postgres_older),
    "postgres: newer tables": Bad(4, "SchemaTooNewError", "upgrade this program", postgres_newer_tables),
    "postgres: of another program": Bad(4, "StoreCorruptError", "of its own", postgres_of_another_program),
    "postgres: half there": Bad(4, "StoreCorruptError", "restore a backup", postgres_half_there),
    "postgres: is no PostgreSQL": Bad(4, "StoreUnavailableError", "did not answer in time", postgres_is_no_postgres),
}


# Valkey and Redis.


def own(stack: contextlib.ExitStack, **config: str) -> ValkeyServer:
    server = ValkeyServer(**config)
    stack.callback(server.remove)
    return server.start()


def redis_nobody_there(folder, monkeypatch, stack):
    return f"redis://:{QUOTED}@{HOST}:{closed_port()}/0?{urlencode(SHORT)}"


def redis_no_such_host(folder, monkeypatch, stack):
    return f"redis://:{QUOTED}@db.invalid/0?{urlencode(SHORT)}"


def redis_wrong_password(folder, monkeypatch, stack):
    return behind(valkey(requirepass="another").url())


def redis_no_password(folder, monkeypatch, stack):
    return f"redis://{HOST}:{valkey(requirepass='another').port}/0?{urlencode(SHORT)}"


def redis_no_right(folder, monkeypatch, stack):
    server = own(stack)
    server.call("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "+@read", "+info", "+hello", "+client")
    return behind(server.url(), "ada")


def redis_evicting(folder, monkeypatch, stack):
    return behind(own(stack, maxmemory="100mb", maxmemory_policy="allkeys-lru", requirepass=SECRET).url())


def redis_replica(folder, monkeypatch, stack):
    return own(stack, replicaof=f"{HOST} {valkey().port}").url(**SHORT)


def redis_full(folder, monkeypatch, stack):
    server = own(stack)
    ask(server.url(), lambda app: app.stats())
    server.call("CONFIG", "SET", "maxmemory", "1")
    return server.url(**SHORT)


def redis_cluster_down(folder, monkeypatch, stack):
    node = ClusterNode()
    stack.callback(node.remove)
    return node.start().url(**SHORT)


def redis_database_out_of_range(folder, monkeypatch, stack):
    return valkey().url(99, **SHORT)


def redis_older(folder, monkeypatch, stack):
    monkeypatch.setattr("perdure.store.redis.server.OLDEST", (99, 0))
    return valkey().url(prefix=label(folder))


def redis_no_log_where_one_is_asked_for(folder, monkeypatch, stack):
    return own(stack, appendonly="no").url(durability="fsync")


def redis_newer_schema(folder, monkeypatch, stack):
    prefix = label(folder)
    url = valkey().url(prefix=prefix)
    ask(url, lambda app: app.stats())
    (meta,) = valkey().call("KEYS", f"*{prefix}*meta")
    valkey().call("HSET", meta, "schema", "999")
    return url


def redis_something_else(folder, monkeypatch, stack):
    prefix = label(folder)
    url = valkey().url(prefix=prefix)
    ask(url, lambda app: app.stats())
    (meta,) = valkey().call("KEYS", f"*{prefix}*meta")
    valkey().call("DEL", meta)
    valkey().call("SET", meta, "a cache's")
    return url


def redis_is_no_redis(folder, monkeypatch, stack):
    return f"redis://:{QUOTED}@{HOST}:{postgres().port}/0?{urlencode(SHORT)}"


def redis_no_sentinel(folder, monkeypatch, stack):
    return f"redis+sentinel://:{QUOTED}@{HOST}:{closed_port()}/orders/0?{urlencode(SHORT)}"


def redis_no_such_service(folder, monkeypatch, stack):
    return valkey_sentinel().url(**SHORT).replace("/perdure/", "/nowhere/")


def redis_is_no_sentinel(folder, monkeypatch, stack):
    return f"redis+sentinel://{HOST}:{valkey().port}/orders/0?{urlencode(SHORT)}"


REDIS = {
    "redis: nobody there": Bad(4, "StoreUnavailableError", "cannot be reached", redis_nobody_there),
    "redis: no such host": Bad(4, "StoreUnavailableError", "db.invalid", redis_no_such_host),
    "redis: wrong password": Bad(4, "StoreUnavailableError", "correct the store's URL", redis_wrong_password),
    "redis: no password": Bad(4, "StoreUnavailableError", "correct the store's URL", redis_no_password),
    "redis: no right": Bad(4, "StoreReadOnlyError", "does not allow this user", redis_no_right),
    "redis: evicting": Bad(4, "StoreUnavailableError", "set maxmemory-policy noeviction", redis_evicting),
    "redis: replica": Bad(4, "StoreReadOnlyError", "give that one's address", redis_replica),
    "redis: cluster down": Bad(4, "StoreUnavailableError", "it needs a master for every slot", redis_cluster_down),
    "redis: database out of range": Bad(2, "UsageError", "no such database", redis_database_out_of_range),
    "redis: older": Bad(4, "StoreUnavailableError", "upgrade it", redis_older),
    "redis: no log": Bad(4, "StoreUnavailableError", "set appendonly yes", redis_no_log_where_one_is_asked_for),
    "redis: newer schema": Bad(4, "SchemaTooNewError", "upgrade this program", redis_newer_schema),
    "redis: something else": Bad(4, "StoreCorruptError", "give another one with ?prefix=", redis_something_else),
    "redis: is no Redis": Bad(4, "StoreUnavailableError", "", redis_is_no_redis),
    "redis: no sentinel": Bad(4, "StoreUnavailableError", "cannot be reached", redis_no_sentinel),
    "redis: no such service": Bad(4, "StoreUnavailableError", "nowhere", redis_no_such_service),
    "redis: is no sentinel": Bad(4, "StoreError", "SENTINEL", redis_is_no_sentinel),
}
BAD = POSTGRES | REDIS


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.usefixtures("_quiet_logs")
@pytest.mark.parametrize("case", BAD)
def test_it_is_one_line_and_no_password(shell, tmp_path, monkeypatch, stack, case):
    bad = BAD[case]
    url = bad.make(tmp_path, monkeypatch, stack)
    for command in ("stats", "worker"):
        check(shell(command, *COMMANDS[command], "--store", url), bad)
    said = shell("doctor", "--store", url, "--json")
    assert said.code == bad.code
    assert said.json["error"]["type"] == bad.kind
