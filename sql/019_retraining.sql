-- How much a line may do by itself, what each challenger learned from, what each promotion bought, and what was told of it.

-- off: alarms start nothing. suggest: a challenger is trained and judged, a person promotes it. approve: a training waits for a
-- person's word. auto: everything by itself.
ALTER TABLE model_lines
    DROP CONSTRAINT model_lines_policy_check,
    ADD CONSTRAINT model_lines_policy_check CHECK (policy IN ('off', 'suggest', 'approve', 'auto'));

ALTER TABLE model_ledger
    DROP CONSTRAINT model_ledger_happened_check,
    ADD CONSTRAINT model_ledger_happened_check
        CHECK (happened IN ('trained', 'promoted', 'suggested', 'rejected', 'rolled_back', 'failed', 'policy', 'stopped'));

CREATE FUNCTION refuse_to_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: what happened stays written', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER model_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON model_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();

-- `learned` says which rows the challenger learned from.
ALTER TABLE retrain_requests
    DROP CONSTRAINT retrain_requests_status_check,
    ADD CONSTRAINT retrain_requests_status_check
        CHECK (status IN ('queued', 'running', 'promoted', 'suggested', 'rejected', 'failed', 'stale')),
    ADD COLUMN learned jsonb NOT NULL DEFAULT '{}';

-- What a promotion bought: the new champion and the one before it, on the same `n` outcomes that came after. `final` when it is
-- looked at no more.
CREATE TABLE promotion_effects (
    line         text NOT NULL,
    generation   integer NOT NULL,
    n            integer NOT NULL CHECK (n >= 0),
    verdict      text NOT NULL CHECK (verdict IN ('gain', 'nothing', 'harm', 'unknown')),
    final        boolean NOT NULL,
    comparison   jsonb NOT NULL DEFAULT '{}',
    measured_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (line, generation),
    FOREIGN KEY (line, generation) REFERENCES model_ledger
);

-- Up to which generation a line's ledger was said on its topic. Whoever says more holds the row.
CREATE TABLE ledger_tellings (
    line        text PRIMARY KEY REFERENCES model_lines,
    generation  integer NOT NULL DEFAULT 0
);
