"""The store on Valkey or Redis: one server, one that sentinels watch, or a cluster."""

from perdure.store.redis.store import RedisStore

__all__ = ["RedisStore"]
