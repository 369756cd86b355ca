"""Where the runs of a namespace are: in a store of its own, at a URL that follows from the server's and the name."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from perdure.model.errors import UsageError

DEFAULT = "default"
"""The namespace that is the store itself."""

_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_LONGEST = 40


def namespaced(url: str, name: str) -> str:
    """Return the URL of the store that a namespace of this store has for itself.

    That is another schema (PostgreSQL: `perdure_acme`), prefix (Valkey and Redis: `perdure.acme`), file (SQLite:
    `shop.acme.db`) or name (memory), with the same options; of a server it is the option `namespace`. What the options
    `schema` and `prefix` say in the URL is kept in front. The namespace `default` is the store itself, and an unnamed
    memory store is another one each time.

    Args:
        url: of the store, as for `open_store`; `schema` and `prefix` must stand in it, not beside it.
        name: of the namespace: up to 40 small letters and digits, in words with `-` or `_` between them.

    Raises:
        UsageError: the name is none.
    """
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise UsageError(
            f"namespace: {name!r} must be up to {_LONGEST} small letters and digits, with single - or _ between them"
        )
    scheme, separator, rest = url.partition("://")
    if name == DEFAULT or not separator:
        return url
    place, mark, query = rest.partition("?")
    kind = scheme.partition("+")[0]
    if kind in _BY_OPTION:
        option, named = _BY_OPTION[kind]
        options = dict(parse_qsl(query, keep_blank_values=True))
        options[option] = named(options.get(option, "perdure"), name)
        return f"{scheme}://{place}?{urlencode(options)}"
    return f"{scheme}://{_beside(place, name, has_suffix=kind == 'sqlite')}{mark}{query}"


def _beside(place: str, name: str, *, has_suffix: bool) -> str:
    """Return the place of another store beside one; a place that names nothing stays as it is."""
    folder, slash, last = place.rpartition("/")
    if not last:
        return place
    stem, dot, suffix = last.rpartition(".") if has_suffix else ("", "", "")
    return f"{folder}{slash}{stem}.{name}.{suffix}" if dot and stem else f"{place}.{name}"


def _schema(schema: str, name: str) -> str:
    """Return the schema of a namespace; `-` is none of its letters, and names have no `__`."""
    return f"{schema}_{name.replace('-', '__')}"


def _prefix(prefix: str, name: str) -> str:
    return f"{prefix}.{name}"


def _namespace(_: str, name: str) -> str:
    return name


_BY_OPTION: dict[str, tuple[str, Callable[[str, str], str]]] = {
    **dict.fromkeys(("postgresql", "postgres"), ("schema", _schema)),
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys"), ("prefix", _prefix)),
    **dict.fromkeys(("http", "https"), ("namespace", _namespace)),
}
