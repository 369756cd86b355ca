"""Documents: what no store keeps is refused by the name of its field."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.model.document import Document, require_puttable
from perdure.model.errors import DocumentTooLargeError, LimitError, UsageError
from perdure.model.limits import DOCUMENT_BYTES

ONE = Document("views", "late orders", "{}")


@pytest.mark.parametrize(
    "document",
    [
        ONE,
        Document("é", "🎉" * 200, None, revision=3, at=1),
        replace(ONE, text=""),
        replace(ONE, text="x" * DOCUMENT_BYTES),
        replace(ONE, text="é" * (DOCUMENT_BYTES // 2)),
    ],
)
def test_what_fits_is_not_refused(document: Document) -> None:
    document.require_fitting()


@pytest.mark.parametrize("field", ["collection", "key"])
@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0b", "\ud800"])
def test_a_name_is_printable_and_not_too_long(field: str, name: str) -> None:
    with pytest.raises(UsageError, match=rf"^document\.{field}: .* must be 1 to 200 printable characters$"):
        replace(ONE, **{field: name}).require_fitting()


def test_a_revision_is_not_negative() -> None:
    with pytest.raises(UsageError, match=r"^document\.revision: -1 must be 0 for a new one, or that of the one"):
        replace(ONE, revision=-1).require_fitting()


@pytest.mark.parametrize("text", ["a\0b", "\udc80"])
def test_a_text_is_what_every_store_can_keep(text: str) -> None:
    with pytest.raises(UsageError, match=r"^document\.text: 'late orders' of 'views' holds U\+0000 or half a"):
        replace(ONE, text=text).require_fitting()


@pytest.mark.parametrize("text", ["x" * (DOCUMENT_BYTES + 1), "é" * (DOCUMENT_BYTES // 2) + "x"])
def test_a_text_is_bounded(text: str) -> None:
    with pytest.raises(DocumentTooLargeError, match=r"has 262,145 bytes, and at most 262,144 are kept") as caught:
        replace(ONE, text=text).require_fitting()
    assert isinstance(caught.value, LimitError)


def test_what_is_kept_has_the_next_revision() -> None:
    assert replace(ONE, revision=3, at=5).kept == replace(ONE, revision=4, at=5)
    assert replace(ONE, text=None, revision=3).kept is None


def test_documents_are_put_together_if_each_fits_and_none_is_there_twice() -> None:
    require_puttable([])
    require_puttable([ONE, replace(ONE, key="b"), replace(ONE, collection="b")])
    with pytest.raises(UsageError, match=r"^document\.key: "):
        require_puttable([ONE, replace(ONE, key="")])
    with pytest.raises(UsageError, match=r"^documents: 'late orders' of 'views' is there twice: put one after the"):
        require_puttable([ONE, replace(ONE, text=None, revision=1)])
