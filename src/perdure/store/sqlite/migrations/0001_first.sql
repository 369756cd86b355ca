-- Everything stands in the order in which a reader meets it. Times are milliseconds since the epoch, UTC; payloads, tags,
-- wait, state and progress are JSON text. `n` numbers the runs in the order of their creation and is what rows refer to
-- each other by, because ids are long.

CREATE TABLE runs (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    version TEXT NOT NULL,
    queue TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    due_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    expires_at INTEGER,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    journal_length INTEGER NOT NULL,
    inbox_seq INTEGER NOT NULL,
    unread INTEGER NOT NULL, -- how many messages are, so that `post` need not count them against its capacity
    worker TEXT,
    is_pausing INTEGER NOT NULL,
    parent_id TEXT,
    parent_key TEXT,
    is_detached INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    tags TEXT NOT NULL,
    keep_complete INTEGER, -- the retention, per outcome; null for ever
    keep_errored INTEGER,
    keep_terminated INTEGER,
    wait TEXT,
    state TEXT,
    progress TEXT
) STRICT;

-- Holds only runs that can become due, so that a claim costs the same beside a million ended, paused or waiting ones.
CREATE INDEX runs_due ON runs (queue, priority DESC, due_at, workflow)
WHERE status IN ('queued', 'waiting', 'running') AND due_at IS NOT NULL;

CREATE INDEX runs_created ON runs (created_at);
CREATE INDEX runs_parent ON runs (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX runs_expires ON runs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE records (
    n INTEGER NOT NULL,
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    payload TEXT,
    attempt INTEGER NOT NULL,
    started_at INTEGER,
    due_at INTEGER,
    ref TEXT,
    before INTEGER,
    PRIMARY KEY (n, position)
) STRICT, WITHOUT ROWID;

-- A read message stays, without its payload, so that a repeated one is known.
CREATE TABLE inbox (
    n INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    payload TEXT,
    at INTEGER NOT NULL,
    state TEXT NOT NULL,
    ref TEXT,
    is_read INTEGER NOT NULL,
    PRIMARY KEY (n, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX inbox_id ON inbox (n, id);
CREATE INDEX inbox_unread ON inbox (n, seq) WHERE NOT is_read;

CREATE TABLE catalog (
    workflow TEXT NOT NULL,
    version TEXT NOT NULL,
    queue TEXT NOT NULL,
    input_schema TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    worker TEXT NOT NULL,
    PRIMARY KEY (workflow, version)
) STRICT, WITHOUT ROWID;
