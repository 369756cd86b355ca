-- Everything stands in the order in which a reader meets it. Times are milliseconds since the epoch, UTC; payloads, wait,
-- state and progress are JSON text, kept letter by letter. `n` numbers the runs in the order of their creation and is
-- what rows refer to each other by, because ids are long. Names are ordered and compared as Python does ("C").

CREATE TABLE perdure.meta (
    perdure_version bigint NOT NULL -- of these tables; the one row of this table
);

CREATE SEQUENCE perdure.run_numbers AS bigint;

CREATE TABLE perdure.runs (
    n bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    workflow text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    priority bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    due_at bigint,
    started_at bigint,
    finished_at bigint,
    expires_at bigint,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    incarnation bigint NOT NULL,
    crashes bigint NOT NULL,
    journal_length bigint NOT NULL,
    inbox_seq bigint NOT NULL,
    worker text COLLATE "C",
    is_pausing boolean NOT NULL,
    parent_id text COLLATE "C",
    parent_key text COLLATE "C",
    is_detached boolean NOT NULL,
    depth bigint NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    tags jsonb NOT NULL,
    keep_complete bigint, -- the retention, per outcome; null for ever
    keep_errored bigint,
    keep_terminated bigint,
    wait text,
    state text,
    progress text
)
-- Room in each page for the next version of its rows, and vacuum long before a fifth of a large table is dead.
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);

-- Holds only runs that can become due, so that a claim costs the same beside a million ended, paused or waiting ones.
-- What stands behind `n` is there so that runs are chosen and counted without their rows.
CREATE INDEX runs_due ON perdure.runs (queue, priority DESC, due_at, n, workflow, status)
WHERE status IN ('queued', 'waiting', 'running') AND due_at IS NOT NULL;

-- The status stands in it so that runs are counted and searched by it without their rows.
CREATE INDEX runs_created ON perdure.runs (created_at, n, status);
CREATE INDEX runs_parent ON perdure.runs (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX runs_expires ON perdure.runs (expires_at, n) WHERE expires_at IS NOT NULL;

CREATE TABLE perdure.records (
    n bigint NOT NULL,
    position bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    payload text,
    attempt bigint NOT NULL,
    started_at bigint,
    due_at bigint,
    ref text,
    before bigint,
    PRIMARY KEY (n, position)
)
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_limit = 2000);

-- A read message stays, without its payload, so that a repeated one is known.
CREATE TABLE perdure.inbox (
    n bigint NOT NULL,
    seq bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    payload text,
    at bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    ref text COLLATE "C",
    is_read boolean NOT NULL,
    PRIMARY KEY (n, seq)
)
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_limit = 2000);

CREATE UNIQUE INDEX inbox_id ON perdure.inbox (n, id);
CREATE INDEX inbox_unread ON perdure.inbox (n, seq) WHERE NOT is_read;

CREATE TABLE perdure.catalog (
    workflow text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    input_schema text NOT NULL,
    seen_at bigint NOT NULL,
    worker text COLLATE "C" NOT NULL,
    PRIMARY KEY (workflow, version)
);
