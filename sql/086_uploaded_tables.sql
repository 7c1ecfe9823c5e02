-- Tables that were uploaded for a training, with their bytes in blocks, and the trainings on them.

CREATE TABLE uploaded_tables (
    table_id     uuid PRIMARY KEY,
    name         text NOT NULL,
    twin_type    text NOT NULL,
    ending       text NOT NULL CHECK (ending IN ('.csv', '.parquet')),
    options      jsonb NOT NULL,  -- answers to what the file leaves open
    n_rows       bigint NOT NULL,
    size         bigint NOT NULL,
    sha256       bytea NOT NULL,
    uploaded_by  text NOT NULL,
    uploaded_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX uploaded_tables_uploaded_at ON uploaded_tables (uploaded_at, table_id);

CREATE TABLE uploaded_blocks (
    table_id  uuid NOT NULL REFERENCES uploaded_tables ON DELETE CASCADE,
    place     integer NOT NULL,
    bytes     bytea NOT NULL,
    PRIMARY KEY (table_id, place)
);

-- A training outlives its table. tries: workers that have started it. fence: rises with each of them, and the newest holds the lease.
CREATE TABLE trainings (
    training_id   uuid PRIMARY KEY,
    table_id      uuid NOT NULL,
    table_name    text NOT NULL,
    line          text NOT NULL,
    mapping       jsonb NOT NULL,
    requested_by  text NOT NULL,
    requested_at  timestamptz NOT NULL,
    queued_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    status        text NOT NULL CHECK (status IN ('queued', 'running', 'promoted', 'rejected', 'refused', 'failed')),
    reason        text NOT NULL DEFAULT '',
    model_id      uuid,
    notes         jsonb NOT NULL DEFAULT '[]',
    started_at    timestamptz,
    finished_at   timestamptz,
    tries         integer NOT NULL DEFAULT 0,
    fence         bigint NOT NULL DEFAULT 0,
    holder        text,
    heartbeat_at  timestamptz
);
CREATE INDEX trainings_open ON trainings (queued_at, training_id) WHERE status IN ('queued', 'running');
CREATE INDEX trainings_queued_at ON trainings (queued_at, training_id);

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
           ('uploaded_tables', 'name'), ('uploaded_tables', 'options'), ('uploaded_tables', 'uploaded_by'),
           ('trainings', 'table_name'), ('trainings', 'mapping'), ('trainings', 'requested_by'), ('trainings', 'reason'),
           ('trainings', 'notes'),
           ('erasures', 'requested_by'), ('erasures', 'report')
$$;
