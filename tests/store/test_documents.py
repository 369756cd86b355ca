"""Documents: changed by whoever knows their revision, in order up to the first that is refused, and listed by key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.model.document import Document
from perdure.model.errors import DocumentTooLargeError, UsageError
from perdure.model.limits import DOCUMENT_BYTES
from perdure.store import Store
from tests.store.making import NOW, new, one

TEXT = '{"a": ["é\\n🎉", 1e400]}\n\r\t\'"\\u0000'
ONE = Document("views", "late orders", TEXT, at=NOW)


def doc(key: str, text: str | None = "{}", revision: int = 0, collection: str = "log") -> Document:
    return Document(collection, key, text, revision, NOW)


async def keys(store: Store, collection: str = "log", limit: int = 100, **more: Any) -> list[str]:
    return [found.key for found in await store.documents(collection, limit, **more)]


class TestPut:
    async def test_there_is_nothing_at_first(self, store: Store) -> None:
        assert await store.put([]) == []
        assert await store.read("views", []) == []
        assert await store.read("views", ["a", "b"]) == [None, None]
        assert await store.documents("views", 10) == []

    async def test_a_new_one_is_kept_letter_by_letter_with_revision_1(self, store: Store) -> None:
        assert await store.put([ONE]) == [True]
        assert await store.read("views", ["none", "late orders", "late orders"]) == [None, ONE.kept, ONE.kept]
        assert await store.documents("views", 10) == [ONE.kept]

    async def test_a_change_needs_the_revision_and_raises_it(self, store: Store) -> None:
        await store.put([ONE])
        second = replace(ONE, text="2", revision=1, at=NOW + 5)
        for refused in (replace(second, revision=0), replace(second, revision=2), replace(second, revision=9)):
            assert await store.put([refused]) == [False]
        assert await store.read("views", ["late orders"]) == [ONE.kept]
        assert await store.put([second]) == [True]
        assert await store.read("views", ["late orders"]) == [replace(second, revision=2)]

    async def test_a_change_of_what_is_not_there_is_refused(self, store: Store) -> None:
        assert await store.put([replace(ONE, revision=1)]) == [False]
        assert await store.read("views", ["late orders"]) == [None]

    async def test_one_without_a_text_removes_and_then_it_begins_anew(self, store: Store) -> None:
        await store.put([ONE])
        await store.put([replace(ONE, revision=1)])
        gone = replace(ONE, text=None)
        assert await store.put([replace(gone, revision=0)]) == [False]
        assert await store.put([replace(gone, revision=1)]) == [False]
        assert await store.put([replace(gone, revision=2)]) == [True]
        assert await store.read("views", ["late orders"]) == [None]
        assert await store.documents("views", 10) == []
        assert await store.put([replace(ONE, text="")]) == [True]
        assert await store.read("views", ["late orders"]) == [replace(ONE, text="", revision=1)]

    async def test_a_repeated_put_is_taken_for_written_and_changes_nothing(self, store: Store) -> None:
        changed, gone = replace(ONE, text="2", revision=1), replace(ONE, text=None, revision=2)
        for put in (ONE, changed, gone):
            assert await store.put([put]) == [True]
            kept = await store.read("views", ["late orders"])
            assert await store.put([put]) == [True]
            assert await store.read("views", ["late orders"]) == kept
        assert await store.put([changed]) == [False]

    async def test_another_one_of_the_same_revision_is_no_repetition(self, store: Store) -> None:
        await store.put([ONE])
        assert await store.put([replace(ONE, text="2")]) == [False]
        assert await store.put([replace(ONE, at=NOW + 1)]) == [False]

    async def test_the_first_refused_one_refuses_all_behind_it_and_what_was_before_stays(self, store: Store) -> None:
        await store.put([doc("3", "there")])
        asked = [doc("1"), doc("2", collection="other"), doc("3"), doc("4"), doc("5", collection="other")]
        assert await store.put(asked) == [True, True, False, False, False]
        assert await keys(store) == ["1", "3"]
        assert await keys(store, "other") == ["2"]
        assert await store.read("log", ["3"]) == [doc("3", "there").kept]

    async def test_many_at_once(self, store: Store) -> None:
        many = [doc(f"{number:05}", str(number)) for number in range(600)]
        assert await store.put(many) == [True] * 600
        assert await store.put(many) == [True] * 600
        assert await store.read("log", [each.key for each in many]) == [each.kept for each in many]
        assert await store.documents("log", 1000) == [each.kept for each in many]

    async def test_the_longest_text_is_kept_and_a_longer_one_refused_with_all_of_its_call(self, store: Store) -> None:
        longest = replace(ONE, text="é" * (DOCUMENT_BYTES // 2))
        with pytest.raises(DocumentTooLargeError, match="262,145 bytes"):
            await store.put([longest, doc("a", "x" * (DOCUMENT_BYTES + 1))])
        assert await store.read("views", ["late orders"]) == [None]
        assert await store.put([longest]) == [True]
        assert await store.read("views", ["late orders"]) == [longest.kept]

    @pytest.mark.parametrize("wrong", [doc(""), doc("a\n"), doc("a", collection="x" * 201), doc("a", "\0"), doc("b")])
    async def test_what_cannot_be_put_is_refused_before_anything_is_written(
        self, store: Store, wrong: Document
    ) -> None:
        with pytest.raises(UsageError, match="^document"):
            await store.put([doc("b"), wrong])
        assert await keys(store) == []

    async def test_of_many_that_change_one_at_once_one_does(self, stores: list[Store]) -> None:
        await stores[0].put([doc("a", "0")])
        asked = [doc("a", str(number), revision=1) for number in range(16)]
        answers = await asyncio.gather(*[stores[number % 4].put([put]) for number, put in enumerate(asked)])
        assert sorted(answers, reverse=True) == [[True]] + [[False]] * 15
        assert await stores[1].read("log", ["a"]) == [asked[answers.index([True])].kept]

    async def test_a_chain_that_many_append_to_has_no_gap_and_no_fork(self, stores: list[Store]) -> None:
        async def append(store: Store, name: str) -> None:
            for number in range(5):
                while True:
                    last = await store.documents("log", 1, newest_first=True)
                    length = int(last[0].key) if last else 0
                    ours = [doc(f"{length + 1 + step:04}", f"{name}{number}") for step in range(2)]
                    answers = await store.put(ours)
                    if answers[0]:
                        break
                if not answers[1]:
                    return

        await asyncio.gather(*[append(store, f"w{number}") for number, store in enumerate(stores)])
        found = await keys(stores[0])
        assert found == [f"{number:04}" for number in range(1, len(found) + 1)]
        assert len(found) >= 10

    async def test_runs_know_nothing_of_it(self, store: Store) -> None:
        await store.create([new("late orders")])
        before = await one(store, "late orders")
        await store.put([ONE])
        assert await one(store, "late orders") == before
        assert await store.prune(NOW * 2, 10) == 0


class TestDocuments:
    NAMES = ("", "A", "B", "a", "a b", "a!", "aa", "a~", "b", "~", "é", "\uffee", "🎉")

    @pytest.fixture
    async def shelf(self, store: Store) -> Store:
        names = self.NAMES[1:]
        await store.put([doc(key, f'"{key}"') for key in reversed(names)])
        await store.put([doc(key, collection=other) for other in ("lo", "logs", "Log", "log a") for key in ("a", "z")])
        return store

    async def test_they_come_by_key_in_code_point_order(self, shelf: Store) -> None:
        assert await keys(shelf) == sorted(self.NAMES[1:])
        assert [found.text for found in await shelf.documents("log", 3)] == ['"A"', '"B"', '"a"']

    async def test_they_come_the_other_way_round(self, shelf: Store) -> None:
        assert await keys(shelf, newest_first=True) == sorted(self.NAMES[1:], reverse=True)

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_they_come_in_pages_from_behind_a_key(self, shelf: Store, newest_first: bool) -> None:
        found: list[str] = []
        after = None
        while page := await keys(shelf, limit=5, after=after, newest_first=newest_first):
            assert len(page) <= 5
            found += page
            after = page[-1]
        assert found == sorted(self.NAMES[1:], reverse=newest_first)

    async def test_they_come_from_behind_a_key_that_is_not_there(self, shelf: Store) -> None:
        assert await keys(shelf, limit=2, after="a  ") == ["a b", "a!"]
        assert await keys(shelf, limit=2, after="a  ", newest_first=True) == ["a", "B"]
        assert await keys(shelf, after="🎉🎉") == []
        assert await keys(shelf, after="A", newest_first=True) == []
        assert await keys(shelf, after="", limit=1) == ["A"]

    async def test_a_page_of_long_texts_is_whole(self, store: Store) -> None:
        long = [doc(f"{number:02}", str(number % 10) * DOCUMENT_BYTES) for number in range(48)]
        assert all(await store.put(long))
        assert await store.documents("log", 100) == [each.kept for each in long]
        assert await store.read("log", [each.key for each in long]) == [each.kept for each in long]
        assert await keys(store, limit=40, newest_first=True) == [each.key for each in reversed(long)][:40]

    async def test_collections_that_have_some_are_told(self, shelf: Store) -> None:
        own = {"perdure"}  # where an encrypted store has its mark
        found = await shelf.collections()
        assert [name for name in found if name not in own] == ["Log", "lo", "log", "log a", "logs"]
        for key in "az":
            await shelf.put([doc(key, None, 1, collection="lo")])
        assert "lo" not in await shelf.collections()

    async def test_others_see_them(self, stores: list[Store]) -> None:
        await stores[0].put([ONE])
        assert await stores[1].documents("views", 1) == await stores[2].read("views", ["late orders"]) == [ONE.kept]
