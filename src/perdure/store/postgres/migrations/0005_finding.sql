-- A page of runs is found by going through one of these, latest first. What is asked of a run is answered by their entries
-- as far as it never changes; the row is read for the rest, and of what the page shows. The runs are locked while each is
-- made in one reading of them: a store of a million stands still for some seconds.

ALTER INDEX perdure.runs_created RENAME TO runs_created_1;
CREATE INDEX runs_created ON perdure.runs (created_at, n, workflow, queue);
DROP INDEX perdure.runs_created_1;

ALTER INDEX perdure.runs_parent RENAME TO runs_parent_1;
CREATE INDEX runs_parent ON perdure.runs (parent_id, created_at, n) WHERE parent_id IS NOT NULL;
DROP INDEX perdure.runs_parent_1;

-- Not those that every run passes through, which would make each of them dearer. Of these, `runs_due` knows the live ones.
CREATE INDEX runs_status ON perdure.runs (status, created_at, n, workflow, queue)
WHERE status IN (
    'waiting', 'paused', 'errored', 'terminated', 'compensating', 'compensated', 'compensation_failed');
