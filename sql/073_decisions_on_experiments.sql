-- Who has withdrawn an experiment, or taken that back, and why; and which choice of an effects version was published last.

CREATE TABLE experiment_decisions (
    experiment_id    text NOT NULL,
    revision         integer NOT NULL,
    withdrawn        boolean NOT NULL,
    decided_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_by       text NOT NULL DEFAULT '',
    reason           text NOT NULL DEFAULT '',
    effects_version  integer,  -- that follows from it; null where the experiment never counted
    PRIMARY KEY (experiment_id, revision, withdrawn)
);

CREATE TABLE effect_pin_tellings (
    line    text PRIMARY KEY,
    number  integer NOT NULL DEFAULT 0
);

CREATE OR REPLACE FUNCTION erasable_columns() RETURNS TABLE (table_name text, column_name text)
LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    VALUES ('fidelity_tracking', 'features'),
           ('entity_history', 'features'), ('entity_history', 'source'),
           ('digital_twins', 'features'), ('digital_twins', 'metadata'),
           ('twin_populations', 'name'), ('twin_populations', 'description'), ('twin_populations', 'filters_applied'),
           ('twin_populations', 'realism'), ('twin_populations', 'columns'), ('twin_populations', 'spread'),
           ('simulation_runs', 'intervention_config'), ('simulation_runs', 'filters'), ('simulation_runs', 'results'),
           ('simulation_runs', 'recommendation_reason'), ('simulation_runs', 'error_message'), ('simulation_runs', 'request'),
           ('simulation_queue', 'flow'),
           ('experiments', 'reach'),
           ('experiment_decisions', 'decided_by'), ('experiment_decisions', 'reason'),
           ('effect_versions', 'experiments'), ('effect_priors', 'experiments'), ('effect_priors', 'prior'),
           ('retrain_requests', 'reason'), ('retrain_requests', 'evidence'), ('retrain_requests', 'learned'),
           ('retrain_requests', 'outcome'),
           ('promotion_effects', 'comparison'), ('estimated_fidelity', 'estimate'),
           ('refused_replays', 'change'), ('refused_replays', 'replayed_by'), ('replays', 'replayed_by'),
           ('park_requests', 'why'), ('park_requests', 'requested_by'),
           ('line_thresholds', 'changed_by'), ('line_thresholds', 'reason'),
           ('publications', 'name'), ('publications', 'published_by'),
           ('maintenance_runs', 'run_by'), ('maintenance_runs', 'error'), ('maintenance_runs', 'deleted'),
           ('erasures', 'requested_by'), ('erasures', 'report')
$$;

CREATE OR REPLACE FUNCTION redact_experiment(old_id text, is_renamed boolean, new_body jsonb, new_digest bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    new_id  text := CASE WHEN is_renamed THEN erased_name(old_id) ELSE old_id END;
    stored  record;
BEGIN
    SELECT line, body INTO stored FROM experiments WHERE experiment_id = old_id FOR UPDATE;
    IF new_body ->> 'experiment_id' IS DISTINCT FROM new_id
       OR NOT is_redaction(stored.body - 'experiment_id', new_body - 'experiment_id') THEN
        RAISE EXCEPTION 'experiment: the new body is no redaction of the stored one' USING ERRCODE = 'check_violation';
    END IF;
    UPDATE experiments SET experiment_id = new_id, body = new_body, digest = new_digest WHERE experiment_id = old_id;
    UPDATE experiment_decisions SET experiment_id = new_id WHERE experiment_id = old_id;
    UPDATE effect_versions SET experiments = array_replace(experiments, old_id, new_id)
    WHERE line = stored.line AND old_id = ANY(experiments);
    UPDATE effect_priors SET experiments = array_replace(experiments, old_id, new_id)
    WHERE line = stored.line AND old_id = ANY(experiments);
    UPDATE simulation_runs SET request = jsonb_set(request, '{experiment_id}', to_jsonb(new_id)) WHERE request ->> 'experiment_id' = old_id;
END $$;
