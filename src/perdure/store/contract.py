"""The promises of a store, operation by operation. The memory store is their shortest form.

Every operation is one transaction: it happens whole or not at all, and once its coroutine returns it is durable to the
class that `describe` states. A long list may be cut into several transactions; what is asked about one run stays whole.

Operations are safe to repeat: an answer that was lost costs a second call, never a second effect. Only a restart that
is repeated begins the run anew once more, so no store repeats one by itself; and a `create` whose input another run
took over, repeated once that one was claimed and its dedup key has passed to a third, counts as a new one.

Operations take lists and work on them as one. `now` and every other time is milliseconds since the epoch, UTC, and
comes from the caller. No rule lives in a store: stores fence, append and enqueue.

A store may be used from any event loop of the process, and from several at once: the engine keeps its leases on a
thread of its own.

A tree of runs, from the one that was started to its last descendant, may be all that one transaction reaches: a store
that is spread over several servers keeps each tree in one place. There an operation on many trees is one transaction
for each place, `claim` keeps its order within each, and the `children` and `posts` of a decision belong to the tree of
its run.

Words: a run is *due* when it has neither ended nor is paused and its `due_at` is not later than now. It is *leased*
while it has a worker, which only `running` and `compensating` runs have. A leased run's `due_at` is the end of its
lease, so that a crashed worker's runs become due by themselves; a lease *holds* as long as `due_at` is later than now.
It was *never claimed* while its epoch is 0. Whatever ends a lease ends that the run is admitted, unless that gives it
back: a run that is queued again, by `extend` or by a decision that does not renew it, stays admitted. The limit key of
a run never changes. A queue is *gated* while it is paused or has limits (`QueueState.is_gated`); a queue without a
state is not.

Whatever changes a run sets its `updated_at` to the operation's time. Where order is not given otherwise, runs come in
the order of their creation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from perdure.model.archive import Archive, ArchivePage
from perdure.model.decision import (
    CatalogEntry,
    Claim,
    Committed,
    Control,
    Controlled,
    Decision,
    Extended,
    Lease,
    Message,
    Posted,
    RunFilter,
    RunPage,
    Stats,
    StoredDefinition,
    StoreInfo,
)
from perdure.model.document import Document
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.handing import Handing


class Transaction(Protocol):
    """One transaction of the store's database that is open for somebody's own SQL; see `Store.begin`.

    Attributes:
        connection: the driver's own, inside the transaction: an `asyncpg.Connection`, an `apsw.Connection`.
    """

    connection: Any

    async def commit(self, decision: Decision) -> Committed:
        """Carry the decision out in this transaction and commit it; a lost lease rolls everything back.

        Raises:
            UsageError: it cannot be committed, and what was left to undo is undone: somebody else ended the
                transaction, what was written in it is not allowed (a deferred constraint), or the decision is none.
            StoreConflictError: it was certainly undone, and may be tried again: another transaction was in its way.
            StoreError: it is not known whether it was committed; what the journal says then is the truth.
        """

    async def roll_back(self) -> None:
        """Undo everything; nothing after a commit. A body that still has the connection can change nothing with it."""


class Store(Protocol):
    """See the module's text for what holds for every operation.

    Attributes:
        writes_at_once: how many batches of a kind are worth having under way at the same time: 1 where there is one
            writer in any case.
    """

    writes_at_once: int

    @property
    def handing(self) -> Handing | None:
        """What hands new runs over to workers, so that `create` leases some; None where a worker has to claim each."""

    async def open(self) -> None:
        """Connect; create the schema, or bring an older one up to date.

        Raises:
            SchemaTooNewError: a newer Perdure wrote this store. StoreCorruptError: it is damaged, or something else.
            StoreReadOnlyError, StoreLockedError, StoreUnavailableError: it cannot be opened for writing.
        """

    async def close(self) -> None:
        """Finish what is under way and let go of the store; closing twice is nothing."""

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """Create each run with its records, or, where its id is taken, leave that run and say so; in the given order.

        A new run is `queued` and due at `due_at`; with a `worker` it is `running`, leased to it until `due_at`, with
        epoch 1, seq 0 and `started_at` set to `created_at`; if its queue is gated it is queued all the same, due at
        `created_at`. A repeated `create` of a run with a worker says `is_new` is False. Two of one id in one call: the
        first is created.

        Where the id is free and the run has a `dedup`, the last run created with that key stands for it if it is in
        the store and the key is in force. What counts is the dedup as that run had it: if it is replacing, the key is
        in force while that run is `queued` and was never claimed; else, with an `until`, while the new `created_at` is
        earlier than that, whatever became of that run; else as long as that run has not ended. For a *new* dedup that
        is replacing it is in force, beside that, whatever became of that run, if its journal begins with the new run's
        first record, time and all: this is the call whose input it took over, repeated. Then nothing is created,
        and that run is named, `is_new` False, with its fingerprint, and keeps the key as it was. If the *new*
        dedup is replacing, and the run that stands is `queued` and was never claimed, that run gets the new one's
        records (they replace its journal), fingerprint, `updated_at` (from `created_at`) and `due_at` (`created_at` if
        the new one has a worker), this not later than the `latest_due_at` that it was first created with. Where no run
        stands, the run is created and has the key from then on. A key whose run was removed is not in force.
        """

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """Put each message into its run's inbox, once by its id, and make that run due no later than now.

        A leased run's `due_at` is left alone: its worker learns of the message by `commit` or `extend`. An id seen
        before, read or not, is a `duplicate`, even if the run has ended since: a repeated post gets the answer that
        was lost. `no_run`, `finished` and `full` (`capacity` unread messages are there already) leave nothing behind.
        A paused run takes messages and stays paused.
        """

    async def claim(
        self,
        queues: Sequence[str],
        limit: int,
        worker: str,
        now: int,
        until: int,
        workflows: Sequence[str] | None = None,
    ) -> list[Claim]:
        """Lease up to `limit` due runs of these queues, and of these workflows unless None, to `worker` until `until`.

        Highest priority first, then longest due; nothing of a gated queue. Each becomes `running`, or `compensating`
        if it was that or its compensation had failed, under its epoch plus one, with seq 0 and a first `started_at`;
        `crashes` goes up by one if it was leased, and a pausing run stays pausing; it is not admitted. Comes with the
        whole journal and the unread messages by `seq`; a store that cannot read some of this says so in the claim.
        Where nothing is due it writes nothing.
        """

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """Carry each decision out whole, or, if its lease is lost, not at all.

        The fence holds if the run is leased, under this epoch, and its seq is the decision's less one; then its
        seq becomes the decision's and `crashes` zero. A decision whose seq the run has reached under this epoch was
        carried out before: it is acknowledged, and nothing changes. Anything else is lost. The decisions of one call
        are carried out in order.

        First the run: records are appended (`renew` replaces the whole journal and raises `incarnation`; `records`
        then follow it); consumed messages are read; status, `wait` and `state` are set, and `due_at`, unless the lease
        is kept: then its end stays what it is. `renew` and a finished status clear `progress`, and `renew` forgets the
        messages from children. A lease given up (see `Decision.keeps_lease`) leaves the run due at once while unread
        messages above `seen` wait, ends the pausing, which makes `queued`, `waiting` and `compensating` into `paused`,
        and the run is not admitted any more, unless it is given back. A finished status sets `finished_at`, and
        `expires_at` by the run's retention, and the run is never due.

        Then the others: `unclaimed` children that were never claimed are ended as by `control`, with no notice.
        Children are created as by `create`; where the id of one is taken, this run is posted the child's `refusal` as
        a `child` message (see `perdure.store.journal.refusal`). Posts are delivered as by `post`, without a bound, and
        dropped where they cannot be. Children to `terminate` are ended as by `control`, with no notice. A run that has
        another parent, or none, is no child: it is left alone. At the end every unread message above `seen` is
        returned, so that nobody forgets it, and whether the run was found pausing; a repeated decision is answered
        alike.

        Raises:
            UsageError: the positions of a decision's records do not continue the journal.
        """

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """Move the end of each lease to `until`; one of a run that is not leased under this epoch is lost.

        An `until` not later than now gives the run back: `queued`, or `compensating` if it was that (`paused` if it was
        pausing), and due now, not counted as a crash. `progress` is kept where it is given. Whether the run is pausing
        is told as it was found.
        """

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """Do each action where the run's status allows it; else change nothing (before equals after).

        `pause`: a leased run is marked as pausing, and goes on until its worker commits; `queued` and `waiting` runs,
        and `compensating` ones that are not leased, are paused and keep their `due_at`. `resume`: a paused run is
        queued, due as before, or now if it had no `due_at`; a pausing run goes on.

        `terminate`: the run, if it has not ended, and every unfinished descendant that is not detached (nor below a
        detached one) ends `terminated`, unleased, its epoch plus one, with `finished_at` and `expires_at`; `due_at`,
        `wait`, `progress` and pausing are cleared, journal and `state` stay. If the run has a parent and a
        `parent_key`, the parent is posted the notice as a `child` message, state `error`: its id and its ref are the
        run's id, its type is `parent_key`. The descendants' parents are told nothing: they end too.

        `restart`: any run begins anew: epoch and incarnation plus one, seq and `crashes` zero, the journal cut back to
        the input record, read messages and messages from children forgotten, unread events kept, `queued` and due now,
        `started_at`, `finished_at`, `expires_at`, `wait`, `state`, `progress`, `worker` and pausing cleared;
        unfinished descendants end as by `terminate`, and nobody is told. No dedup key stands for it any more.

        With `told`, `terminate` and `restart` are done only if every run that they would end is named there; else
        nothing is done, and those that are not named are `untold`. For each run that they end, those given with it are
        created as by `create`, and belong to the tree of the run; where an id is taken, that one is left as it is.

        `discard`: an ended run's `expires_at` becomes now, so that `prune` removes it.

        `ended` names the run first, if it ended, then the descendants.
        """

    async def prune(self, before: int, limit: int) -> int:
        """Remove up to `limit` whole runs whose `expires_at` is not later than `before`; say how many.

        Longest expired first; their children stay. What is kept of dedup keys that are not in force goes with them.
        """

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """Return each run, with its output if it has ended; None where there is no such run."""

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """Return the records behind position `after`, in order; an unknown run has none."""

    async def inbox(self, run_id: str) -> list[Message]:
        """Return the unread messages by `seq`."""

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """Return up to `limit` runs, by `created_at`, latest first, without output, from `cursor` on.

        Runs of one moment come latest created first. Runs created between two pages are in neither, or in their place.
        Where few of many runs are meant, a page may have fewer than `limit`, even none, though more follow: a store
        may look at so many at once and no more. Then, as ever, only the last page comes without a cursor.

        Raises:
            UsageError: the cursor is none that a page came with.
        """

    async def stats(self, now: int) -> Stats:
        """Count runs per status and queue; statuses and queues without runs are left out, queues sorted by name.

        A queue's runs are those that can become due: `due` ones, a lease that has run out among them, `leased` ones
        whose lease still holds, and the rest, which is `later`. A gated queue's are counted alike.
        """

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """Put workflows into the catalog; an entry of the same workflow and version is replaced."""

    async def catalog(self) -> list[CatalogEntry]:
        """Return the catalog, sorted by workflow and version."""

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """Keep each definition, unless its name and version are taken; return what is kept under them, in order."""

    async def definitions(self) -> list[StoredDefinition]:
        """Return every definition, sorted by `created_at`, then name and version."""

    # Documents.

    async def put(self, documents: Sequence[Document]) -> list[bool]:
        """Write each document, in the given order, if what is kept has its revision (0: nothing is kept); say whether.

        It gets the next revision; one without a text removes what is kept, and the next put there begins anew at
        revision 1. The first that is refused refuses all behind it in the call, and those before it stay written: each
        is a transaction of its own. One whose answer was lost may be put again: it is taken for written if what is kept
        has its text, its `at` and the next revision, or, for one without a text, if nothing is kept.

        Raises:
            UsageError: see `perdure.model.document.require_puttable`; nothing of the call was written.
        """

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """Return each document of a collection as it is kept, in the given order; None where there is none."""

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """Return up to `limit` documents of a collection by key, in code point order, from behind `after` on.

        With `newest_first` from the greatest key down: a collection whose keys begin with the time is a log.
        """

    async def collections(self) -> list[str]:
        """Return the collections that have documents, in code point order."""

    # Queues with limits.

    async def queues(self) -> list[QueueState]:
        """Return the state of every queue that has one, sorted by name."""

    async def set_queue(self, state: QueueState) -> bool:
        """Keep a queue's state if its version is one more than the kept one's, or 1 and there is none; say whether.

        `turns` is 0 at first, and goes up by one with each later state, so that nobody is admitted by what was seen of
        an earlier one. A repeated call, whose state is kept already, says True and changes nothing.
        """

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """Return what to choose from in a queue, of these workflows unless None; None for a queue without a state.

        Candidates are due runs of up to `keys` limit keys that have some, in the order of the keys as UTF-8 bytes, from
        behind `after` on (None for the first, which the empty key is), and of each key the first `each`, highest
        priority first, then longest due. A store may stop sooner, if it says so by `last_key`, and has looked at one
        key at least. `admitted` counts the runs of this queue, of every key and workflow, that are admitted and due
        later than now, as those under a lease that holds: a run whose lease has run out is a candidate like any other.
        `begun` are the first `each` due runs that are admitted all the same, of any key: their lease ran out, or they
        were given back. A queue that is paused, or not gated any more, is looked into alike.
        """

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """Lease runs of a gated queue as `claim` would, admitted, if nobody else has admitted any since they were seen.

        The fence holds if the queue's `turns` is the admission's; then it goes up by one, and the paces are kept; paces
        of keys that are not later than `now` may be forgotten. Those of the runs that are due and of this queue are
        leased and returned, once each, in the admission's order; the others are left out. None, with nothing changed,
        if the fence does not hold, or the queue is paused or has no state.
        """

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """Return the earliest `due_at` among the runs that `claim` could take with these arguments; None for none.

        Whether a queue is gated makes no difference here.
        """

    async def wait(self, timeout: float) -> bool:
        """Return True as soon as something may have become due or ended, False after `timeout` seconds.

        Only a hint, for changes that other processes made: it may be wrong both ways.
        """

    async def describe(self) -> StoreInfo:
        """Return what the store is and what its acknowledgement means under its present settings."""

    async def clock(self) -> int | None:
        """Return the time of the store's server, in milliseconds since the epoch; None where it is this machine's."""

    # A user's own SQL in the store's database.

    async def begin(self) -> Transaction:
        """Begin a transaction in which a step's own SQL and its record are committed together.

        Raises:
            UsageError: this store has no transactions for others.
        """

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """Create runs as `create` does, but in the open transaction of somebody's own connection to this database.

        They exist once that transaction is committed, and are due then.

        Raises:
            UsageError: the connection is of no driver that this store knows, or is not in a transaction; or this store
                has no transactions for others.
        """

    # Moving to another store.

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """Return up to `limit` runs whole, first created first, from `cursor` on.

        A page of one moment; what is created afterwards comes on a later one.

        Raises:
            UsageError: the cursor is none that a page came with.
        """

    async def load(self, archives: Sequence[Archive]) -> int:
        """Keep runs as they were dumped, in this order, leaving those whose ids are here; say how many were new."""

    # Another key for what is encrypted.

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """Replace texts by others that say the same, wherever what is kept is still the old text; say how many were.

        Of a run these are its fingerprint, `wait`, `state` and `progress`, the payloads and refs of its records, and
        the payloads of unread messages; of a definition and of a document, the text. Nothing else about them changes,
        not even when: nobody is told, leases hold, and whoever knows a document's revision still knows it. Each
        rewording is a transaction of its own.

        Raises:
            UsageError: this store encrypts what it keeps, or is behind a server.
        """
