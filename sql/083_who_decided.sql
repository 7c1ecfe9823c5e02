-- Who decided about a line, and that a person has approved or refused a retrain.

ALTER TABLE model_ledger
    ADD COLUMN decided_by text NOT NULL DEFAULT '',  -- empty for what the service does by itself
    DROP CONSTRAINT model_ledger_happened_check,
    ADD CONSTRAINT model_ledger_happened_check
        CHECK (happened IN ('trained', 'promoted', 'suggested', 'rejected', 'rolled_back', 'failed', 'policy', 'stopped', 'approved',
                            'refused'));

-- A retrain that was refused can be approved later, and refused again.
DROP INDEX model_ledger_retrain;
CREATE UNIQUE INDEX model_ledger_retrain ON model_ledger (retrain_id, happened, model_id)
    WHERE retrain_id IS NOT NULL AND happened NOT IN ('approved', 'refused');
CREATE INDEX model_ledger_retrain_decisions ON model_ledger (retrain_id) WHERE happened IN ('approved', 'refused');

ALTER TABLE retrain_requests
    DROP CONSTRAINT retrain_requests_status_check,
    ADD CONSTRAINT retrain_requests_status_check
        CHECK (status IN ('queued', 'running', 'promoted', 'suggested', 'rejected', 'failed', 'stale', 'refused'));
