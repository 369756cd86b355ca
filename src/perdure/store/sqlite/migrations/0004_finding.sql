-- A page of runs is found by going through one of these, latest first. What is asked of a run is answered by their entries
-- as far as it never changes; the row is read for the rest, and of what the page shows.
DROP INDEX runs_created;
CREATE INDEX runs_created ON runs (created_at, n, workflow, queue);
DROP INDEX runs_parent;
CREATE INDEX runs_parent ON runs (parent_id, created_at, n) WHERE parent_id IS NOT NULL;

-- Not those that every run passes through, which would make each of them dearer. Of these, `runs_due` knows the live ones.
CREATE INDEX runs_status ON runs (status, created_at, n, workflow, queue)
WHERE status IN (
    'waiting', 'paused', 'errored', 'terminated', 'compensating', 'compensated', 'compensation_failed');

DROP INDEX runs_due;
CREATE INDEX runs_due ON runs (queue, (limit_key <> ''), priority DESC, due_at, n, workflow, status)
WHERE status <> 'paused' AND due_at IS NOT NULL;
