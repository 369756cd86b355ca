"""The one thread of this process that writes: whatever was asked while it was busy shares its next transaction.

One transaction costs one fsync, however many operations are in it.
"""

from __future__ import annotations

from typing import Any

import apsw

from perdure.model.errors import SchemaTooNewError
from perdure.store.sqlite.connection import Settings
from perdure.store.sqlite.schema import require_known
from perdure.store.sqlite.threads import ConnectionThread, Request

CHECKPOINT_PAGES = 1000
"""The length of the write-ahead log (16 MiB) from which it is copied into the file."""


class Writer(ConnectionThread):
    """See the module; the arguments are those of `ConnectionThread`."""

    def __init__(self, settings: Settings) -> None:
        self._wal_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        super().__init__(settings, is_reader=False)

    def _connected(self, connection: apsw.Connection) -> None:
        connection.set_wal_hook(self._note_wal)

    def _note_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _serve(self, group: list[Request[Any]]) -> None:
        self._answer_without_writing(group)
        open_requests = [request for request in group if request.transacts]
        if open_requests:
            self._write(open_requests)
            self._deliver(open_requests)
            self._checkpoint()

    def _answer_without_writing(self, group: list[Request[Any]]) -> None:
        """Answer what needs no transaction; an idle claim must not cost an fsync, unless others pay for it anyway."""
        is_idle = all(request.peek is not None or not request.transacts for request in group)
        answered = []
        for request in group:
            if request.transacts and is_idle and request.peek is not None:
                self._do(request, request.peek)
                request.transacts = request.answer is None and request.error is None
            elif not request.transacts:
                self._do(request, request.work)
            if not request.transacts:
                answered.append(request)
        self._deliver(answered)

    def _write(self, requests: list[Request[Any]]) -> None:
        """Do all requests in one transaction; where one fails, each in its own, so that it fails alone."""
        try:
            connection = self.connection()
            connection.execute("BEGIN IMMEDIATE")
        except Exception as error:  # nothing began
            self.fail(requests, error)
            return
        try:
            require_known(connection, self._settings.path)
            for request in requests:
                request.answer = request.work(connection)
            connection.execute("COMMIT")
        except Exception as error:  # whatever it is, it is an answer
            _roll_back(connection)
            if len(requests) == 1 or isinstance(error, apsw.IOError | SchemaTooNewError):
                # After a failure of the disk nobody knows what was kept: all are told so.
                self.fail(requests, error)
                return
            for request in requests:
                self._write([request])

    def _checkpoint(self) -> None:
        """Copy a long write-ahead log into the file, without waiting for anybody."""
        if self._wal_pages < self._checkpoint_at or self._connection is None:
            return
        try:
            pages, copied = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:  # another process does it, or the disk is full; the next commit will tell
            return
        # A reader that looks at an old state holds the rest back; ask again only when there is more to copy.
        self._checkpoint_at = CHECKPOINT_PAGES + (pages if pages > copied else 0)


def _roll_back(connection: apsw.Connection) -> None:
    """Undo, unless SQLite has done so itself, as after a full disk."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except apsw.Error:  # the connection is closed by whoever sees the first error
        return
