from __future__ import annotations

import pytest

from perdure.store.url import redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///orders.db?synchronous=off", "sqlite:///orders.db"),
        ("sqlite:////var/lib/orders.db", "sqlite:////var/lib/orders.db"),
        ("memory://", "memory://"),
        ("memory://name", "memory://name"),
        ("postgresql://ada:secret@db:5432/orders?password=secret", "postgresql://ada@db:5432/orders"),
        ("redis://:secret@one:6379/0#secret", "redis://one:6379/0"),
        ("redis+sentinel://:s%40crt@one:26379,two:26379/main/0", "redis+sentinel://one:26379,two:26379/main/0"),
        ("foo:///orders.db", "foo:///orders.db"),
        ("orders.db", "orders.db"),
        ("sqlite:///ada:1@home.db", "sqlite:///ada:1@home.db"),
        ("ada:secret@orders", "ada@orders"),
        ("postgresql//ada:secret@db/orders", "postgresql//ada@db/orders"),
        ("postgresql://ada:se/cr@et@db/orders", "postgresql://ada@db/orders"),
        ("postgresql://ada:sec?ret@db/orders", "postgresql://…"),
        ("postgresql://ada:sec@r#et@db/orders", "postgresql://…"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown
