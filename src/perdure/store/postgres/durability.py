"""What an acknowledgement means under the server's present settings."""

from __future__ import annotations

from perdure.model.decision import StoreInfo
from perdure.store.postgres.connections import Session
from perdure.store.postgres.schema import version
from perdure.store.postgres.settings import Settings

_LOCAL = "The end of the programs and of the server's machine: it is on the server's disk before it is acknowledged."
_SURVIVES = {
    "on": "The loss of the server's machine or of a standby: it is on the disks of both before it is acknowledged.",
    "remote_apply": "The loss of the server's machine or of a standby: it is on the disks of both, and seen on the "
    "standby, before it is acknowledged.",
    "remote_write": "The end of the server's machine, and its loss unless the standby's machine fails with it: the "
    "standby has it, though maybe not yet on its disk, before it is acknowledged.",
}
_RELAXED = "The end of the programs; when the server fails, the last moments may be lost."
_UNSAFE = "The end of the programs and of the server's processes; when its machine fails, the database may be damaged."

_SETTINGS = """
SELECT current_setting('server_version'), current_setting('synchronous_commit'), current_setting('fsync'),
    current_setting('full_page_writes'), current_setting('synchronous_standby_names')
"""


async def described(session: Session, settings: Settings) -> StoreInfo:
    """Return what the store is."""
    ((server, synchronous_commit, fsync, full_page_writes, standbys),) = await session.fetch(_SETTINGS)
    warnings = [
        f"{name} is off on the server: when its machine fails, the database may be damaged; set it to on"
        for name, value in (("fsync", fsync), ("full_page_writes", full_page_writes))
        if value == "off"
    ]
    if warnings:
        durability, survives = "D1 relaxed", _UNSAFE
    elif synchronous_commit == "off":
        durability, survives = "D1 relaxed", _RELAXED
    elif standbys and synchronous_commit in _SURVIVES:
        durability, survives = "D3 replicated", _SURVIVES[synchronous_commit]
    else:
        durability, survives = "D2 local", _LOCAL
    return StoreInfo(
        url=settings.shown,
        engine=f"PostgreSQL {server.split()[0]}",
        schema_version=await version(session, settings),
        durability=durability,
        survives=survives,
        settings={
            "schema": settings.schema,
            "synchronous_commit": synchronous_commit,
            "fsync": fsync,
            "full_page_writes": full_page_writes,
            "synchronous_standby_names": standbys,
            "pool_size": str(settings.pool_size),
            "listen": "on" if settings.listen else "off",
        },
        warnings=tuple(warnings),
    )
