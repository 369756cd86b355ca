ALTER TABLE runs ADD COLUMN limit_key TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN is_admitted INTEGER NOT NULL DEFAULT 0;

-- Holds only runs that can become due, so that a claim costs the same beside a million ended, paused or waiting ones; an
-- ended run has no `due_at`. Those without a limit key stand apart, so that they are found beside any number with one.
-- `n` is in it so that of many that are due since the same moment, only as many are read as are claimed.
DROP INDEX runs_due;
CREATE INDEX runs_due ON runs (queue, (limit_key <> ''), priority DESC, due_at, n, workflow)
WHERE status <> 'paused' AND due_at IS NOT NULL;

-- What is looked into in a queue with limits. A run without a limit key, or not admitted, is in neither.
CREATE INDEX runs_keyed ON runs (queue, limit_key, priority DESC, due_at, n, workflow)
WHERE limit_key <> '' AND status <> 'paused' AND due_at IS NOT NULL;
CREATE INDEX runs_admitted ON runs (queue, limit_key, due_at) WHERE is_admitted;

CREATE TABLE queues (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    is_paused INTEGER NOT NULL,
    limits TEXT NOT NULL, -- as JSON text, like `declared`
    declared TEXT NOT NULL,
    turns INTEGER NOT NULL,
    is_gated INTEGER NOT NULL -- follows from the rest, so that a claim need not read it
) STRICT, WITHOUT ROWID;

CREATE TABLE paces (
    queue TEXT NOT NULL,
    limit_key TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (queue, limit_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX paces_at ON paces (queue, at);

-- The last run that was created with each key, and how; both are removed together.
CREATE TABLE dedups (
    key TEXT PRIMARY KEY,
    n INTEGER NOT NULL,
    until INTEGER,
    is_replacing INTEGER NOT NULL,
    latest_due_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX dedups_run ON dedups (n);

CREATE TABLE definitions (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

ALTER TABLE catalog ADD COLUMN details TEXT NOT NULL DEFAULT '{}';
