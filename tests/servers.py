"""Real servers for the tests, from wheels: nothing is installed on the machine, and nothing is left behind on it.

    postgres().url("orders", schema="a")      # the run's own PostgreSQL; started on first use
    valkey().url(prefix="a")                  # the run's own Valkey
    with PostgresServer() as server:          # one for a test that stops, kills or overloads it
        server.kill()
        server.start()

Each process of a test run has its own servers, so that workers of xdist are apart. What separates tests that share one
is the schema, the database or the prefix. A server that does not start fails the test, with its log.
"""

from __future__ import annotations

import functools
import hashlib
import os

from tests.serving.cluster import ClusterNode, ValkeyCluster
from tests.serving.cut import Line, cut
from tests.serving.postgres import PostgresServer
from tests.serving.valkey import ValkeySentinel, ValkeyServer

__all__ = [
    "ClusterNode",
    "Line",
    "PostgresServer",
    "ValkeyCluster",
    "ValkeySentinel",
    "ValkeyServer",
    "cut",
    "label",
    "postgres",
    "valkey",
    "valkey_cluster",
    "valkey_sentinel",
]


@functools.cache
def postgres(version: int | None = None, *, fsync: bool = False) -> PostgresServer:
    """The PostgreSQL that the tests of this process share; not for those that stop or kill it."""
    chosen = version or int(os.environ.get("PERDURE_TEST_POSTGRES", "18"))
    return PostgresServer(chosen, fsync=fsync).start()


@functools.cache
def valkey(**config: str) -> ValkeyServer:
    """The Valkey of this configuration that the tests of this process share; not for those that stop or kill it."""
    return ValkeyServer(**config).start()


@functools.cache
def valkey_cluster(masters: int = 3, replicas: int = 0, **config: str) -> ValkeyCluster:
    """The cluster that the tests of this process share; not for those that move slots or kill nodes."""
    return ValkeyCluster(masters, replicas, **config).start()


@functools.cache
def valkey_sentinel(**config: str) -> ValkeySentinel:
    """The watched pair that the tests of this process share; not for those that kill the master."""
    return ValkeySentinel(**config).start()


def label(place: object) -> str:
    """A short plain name, always the same for the same place: a schema or prefix for the test of this folder."""
    return f"t{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"
