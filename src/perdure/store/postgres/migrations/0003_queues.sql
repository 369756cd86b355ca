-- The new columns change no row. The runs are locked until all of this is done, and each index is made in one reading of
-- them: a store of a million of them stands still for a second or two.

ALTER TABLE perdure.runs
    ADD COLUMN limit_key text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN is_admitted boolean NOT NULL DEFAULT false;

ALTER TABLE perdure.catalog ADD COLUMN details text NOT NULL DEFAULT '{}';

CREATE TABLE perdure.definitions (
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    text text NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (name, version)
);

-- Queues that were ever paused or limited. What they bound, now and as code declared it last, is JSON text.
CREATE TABLE perdure.queues (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    version bigint NOT NULL,
    is_paused boolean NOT NULL,
    is_gated boolean NOT NULL,
    limits text NOT NULL,
    declared text NOT NULL,
    turns bigint NOT NULL
)
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

CREATE INDEX queues_gated ON perdure.queues (name) WHERE is_gated;

-- When the rate of a limit key allows one more of its runs.
CREATE TABLE perdure.paces (
    queue text COLLATE "C" NOT NULL,
    limit_key text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (queue, limit_key)
)
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

CREATE INDEX paces_at ON perdure.paces (queue, at);

-- The run that was created last with a dedup key, and what it asked for then. It is in `runs`, or null: a key is put here
-- to be locked before anybody looks what it stands for.
CREATE TABLE perdure.dedups (
    key text COLLATE "C" NOT NULL PRIMARY KEY,
    run_id text COLLATE "C",
    until bigint,
    is_replacing boolean NOT NULL DEFAULT false,
    latest_due_at bigint
)
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

CREATE INDEX dedups_run ON perdure.dedups (run_id);

-- In its place comes one that holds runs that are undone too, and keeps those with a limit key apart from the others.
ALTER INDEX perdure.runs_due RENAME TO runs_due_1;
CREATE INDEX runs_due ON perdure.runs (queue, priority DESC, (limit_key <> ''), due_at, n, workflow, status, limit_key)
WHERE status IN ('queued', 'waiting', 'running', 'compensating', 'compensation_failed') AND due_at IS NOT NULL;
DROP INDEX perdure.runs_due_1;

-- Runs without a limit key, and those that nobody admitted, are in neither of these.
CREATE INDEX runs_keyed ON perdure.runs (queue, limit_key, priority DESC, due_at, n, workflow)
WHERE limit_key <> ''
    AND status IN ('queued', 'waiting', 'running', 'compensating', 'compensation_failed') AND due_at IS NOT NULL;
CREATE INDEX runs_admitted ON perdure.runs (queue, limit_key, due_at) WHERE is_admitted;
