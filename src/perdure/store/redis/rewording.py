"""Texts that become others which say the same."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.model.decision import StoredDefinition
from perdure.model.rewording import Rewording
from perdure.store.redis.keys import Shard, home_of_name
from perdure.store.redis.shards import Shards, are_too_long, in_halves

_definition_of = msgspec.json.Decoder(StoredDefinition).decode


async def reword(shards: Shards, rewordings: Sequence[Rewording]) -> int:
    """Replace texts that are still what they were, and return how many."""
    count = 0
    for rewording in rewordings:
        if rewording.of == "document":
            count += await _reword_document(shards, rewording)
        elif rewording.of == "definition":
            count += await _reword_definition(shards, rewording)

    async def ask(shard: Shard, some: Sequence[Rewording]) -> list[int | None]:
        texts = [text for each in some for text in _texts(each)]
        if are_too_long(texts, some):
            return await in_halves(shard, some, ask)
        asked = [(each.name, len(each.texts)) for each in some]
        done: list[int | None] = await shards.calls.run(shard, "reword", asked, texts, writes=True)
        return done

    runs = [rewording for rewording in rewordings if rewording.of == "run"]
    done = await shards.each(runs, lambda each: each.name, ask, lambda told: told is None)
    return count + sum(told or 0 for told in done)


async def _reword_document(shards: Shards, rewording: Rewording) -> int:
    home = shards.all[home_of_name(rewording.name, len(shards.all))]
    begin = f"{rewording.name}\0{rewording.part}\0"
    done: int = await shards.calls.run(home, "reword_document", begin, _texts(rewording), writes=True)
    return done


async def _reword_definition(shards: Shards, rewording: Rewording) -> int:
    """Replace a definition's text: nothing else changes one, so that nobody can come in between."""
    first, field = shards.all[0], f"{rewording.name}\0{rewording.part}"
    kept = await shards.calls.command(first, "HGET", first.definitions, field)
    definition = None if kept is None else _definition_of(kept)
    if definition is None or definition.text not in rewording.texts:
        return 0
    new = msgspec.structs.replace(definition, text=rewording.texts[definition.text])
    await shards.calls.command(first, "HSET", first.definitions, field, msgspec.json.encode(new), writes=True)
    return 1


def _texts(rewording: Rewording) -> list[bytes]:
    return [text.encode() for pair in rewording.texts.items() for text in pair]
