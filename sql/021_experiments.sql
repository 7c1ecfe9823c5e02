-- Experiments that can be withdrawn, and what each reached of its base effect when it was told.

ALTER TABLE experiments
    ADD COLUMN reach         jsonb,        -- share of the base effect on whom it was made; null: only its dose counts
    ADD COLUMN withdrawn_at  timestamptz;

-- Taking an experiment back makes a new version of a set that was believed before.
ALTER TABLE effect_versions DROP CONSTRAINT effect_versions_line_experiments_key;

CREATE INDEX simulation_runs_answers ON simulation_runs (line, completed_at) WHERE status = 'completed';
