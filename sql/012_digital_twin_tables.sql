-- The seven tables of the digital twin, and what the stream adds to them.

CREATE TYPE twin_type AS ENUM ('hcp', 'patient', 'territory');
CREATE TYPE brand AS ENUM ('remibrutinib', 'fabhalta', 'kisqali');
CREATE TYPE simulation_status AS ENUM ('pending', 'running', 'completed', 'failed', 'rejected');
CREATE TYPE simulation_recommendation AS ENUM ('deploy', 'do_not_deploy', 'test_further');
CREATE TYPE outcome_fate AS ENUM ('counted', 'duplicate', 'superseded', 'too_late');

CREATE TABLE digital_twin_models (
    model_id          uuid PRIMARY KEY,
    twin_type         twin_type NOT NULL,
    brand             brand NOT NULL,
    model_type        text NOT NULL,
    training_samples  integer NOT NULL,
    target_variable   text NOT NULL,
    features          text[] NOT NULL,
    hyperparameters   jsonb NOT NULL,
    metrics           jsonb NOT NULL,
    mlflow_run_id     text,
    trained_at        timestamptz NOT NULL DEFAULT now(),
    deprecated_at     timestamptz,
    line              text NOT NULL,
    baseline          jsonb NOT NULL,
    artifact_sha256   text
);
CREATE INDEX digital_twin_models_line ON digital_twin_models (line, trained_at);

-- What a twin is: its features, expected outcome with interval, and the outcome that was drawn for it.
CREATE TABLE digital_twins (
    twin_id            uuid PRIMARY KEY,
    model_id           uuid NOT NULL REFERENCES digital_twin_models,
    twin_type          twin_type NOT NULL,
    features           jsonb NOT NULL,
    baseline_behavior  double precision NOT NULL,
    baseline_lower     double precision,
    baseline_upper     double precision,
    outcome            double precision,
    metadata           jsonb NOT NULL DEFAULT '{}',
    created_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX digital_twins_model ON digital_twins (model_id);

-- A population is first of all a recipe: model, filters, count and seed give the same twins again. Its twins are rows
-- only where `columns` is set: the names and dtypes of its frame.
CREATE TABLE twin_populations (
    population_id    uuid PRIMARY KEY,
    model_id         uuid NOT NULL REFERENCES digital_twin_models,
    name             text NOT NULL,
    description      text NOT NULL DEFAULT '',
    twin_count       integer NOT NULL CHECK (twin_count > 0),
    filters_applied  jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz,
    seed             bigint NOT NULL,
    real_rows        integer,
    realism          jsonb,
    columns          jsonb
);
CREATE INDEX twin_populations_model ON twin_populations (model_id);
CREATE INDEX twin_populations_expiry ON twin_populations (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE twin_population_members (
    population_id  uuid NOT NULL REFERENCES twin_populations ON DELETE CASCADE,
    twin_id        uuid NOT NULL REFERENCES digital_twins,
    row_number     integer NOT NULL,
    PRIMARY KEY (population_id, twin_id)
);
CREATE INDEX twin_population_members_twin ON twin_population_members (twin_id);

-- The first write of a run pins what it will be computed from: body, model, effects version and population.
CREATE TABLE simulation_runs (
    simulation_id          uuid PRIMARY KEY,
    population_id          uuid REFERENCES twin_populations,
    intervention_config    jsonb,
    filters                jsonb NOT NULL DEFAULT '{}',
    status                 simulation_status NOT NULL DEFAULT 'pending',
    results                jsonb,
    recommendation         simulation_recommendation,
    recommendation_reason  text,
    started_at             timestamptz NOT NULL DEFAULT now(),
    completed_at           timestamptz,
    error_message          text,
    line                   text,
    model_id               uuid REFERENCES digital_twin_models,
    effects_version        integer,
    body_hash              bytea NOT NULL,
    request                jsonb
);
CREATE INDEX simulation_runs_line ON simulation_runs (line, started_at);
CREATE INDEX simulation_runs_population ON simulation_runs (population_id);

-- Every element of every outcome record leaves one row here, or one among the refused. tracking_id is uuid5 of source, offset and
-- element, and tracked_at is Kafka's time of the record, so a replay meets its own row. model_id has no foreign key: the
-- scorer takes it from the ledger, and a check a row would cost a tenth of the throughput.
CREATE TABLE fidelity_tracking (
    tracking_id      uuid NOT NULL,
    twin_id          uuid REFERENCES digital_twins,
    population_id    uuid REFERENCES twin_populations,
    predicted_value  double precision,
    actual_value     double precision,
    error            double precision GENERATED ALWAYS AS (abs(predicted_value - actual_value)) STORED,
    metric_type      text NOT NULL,
    tracked_at       timestamptz NOT NULL,
    event_id         uuid NOT NULL,
    revision         integer NOT NULL,
    digest           bytea NOT NULL,
    fate             outcome_fate NOT NULL,
    line             text NOT NULL,
    model_id         uuid,
    segments         text[] NOT NULL DEFAULT '{}',
    observed_at      timestamptz NOT NULL,
    predicted_lower  double precision,
    predicted_upper  double precision,
    source           text NOT NULL,
    source_offset    bigint NOT NULL,
    element          integer NOT NULL,
    simulation_id    uuid REFERENCES simulation_runs,
    entity_id        text,
    features         jsonb,
    treated          boolean,
    PRIMARY KEY (tracking_id, tracked_at)
) PARTITION BY RANGE (tracked_at);
CREATE INDEX fidelity_tracking_source ON fidelity_tracking (source, source_offset);
CREATE INDEX fidelity_tracking_event ON fidelity_tracking (event_id);
CREATE INDEX fidelity_tracking_twin ON fidelity_tracking (twin_id) WHERE twin_id IS NOT NULL;
CREATE INDEX fidelity_tracking_population ON fidelity_tracking (population_id) WHERE population_id IS NOT NULL;
CREATE INDEX fidelity_tracking_training ON fidelity_tracking (line, observed_at) WHERE features IS NOT NULL;

CREATE TABLE fidelity_tracking_default PARTITION OF fidelity_tracking DEFAULT;

-- Makes the monthly partitions (UTC) from the last month to `months_ahead`, and moves rows that had to wait in the default one.
-- Returns how many were made. Safe to call at any time, by anyone, again.
CREATE FUNCTION make_fidelity_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month      timestamp;
    name       text;
    bounds     text;
    written    text := (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                        WHERE attrelid = 'fidelity_tracking'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '');
    made       integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('make_fidelity_partitions'));
    FOR month IN SELECT generate_series(this_month - interval '1 month', this_month + make_interval(months => months_ahead),
                                        interval '1 month') LOOP
        name := 'fidelity_tracking_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        bounds := format('tracked_at >= %L AND tracked_at < %L', month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        EXECUTE format('CREATE TABLE %I (LIKE fidelity_tracking INCLUDING DEFAULTS INCLUDING GENERATED)', name);
        EXECUTE 'LOCK TABLE fidelity_tracking_default IN ACCESS EXCLUSIVE MODE';
        EXECUTE format('WITH moved AS (DELETE FROM fidelity_tracking_default WHERE %s RETURNING *) INSERT INTO %I (%s) SELECT %s FROM moved',
                       bounds, name, written, written);
        EXECUTE format('ALTER TABLE fidelity_tracking ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- One row a closed or restated window of a series; only a higher version replaces it.
CREATE TABLE fidelity_snapshots (
    snapshot_id      uuid PRIMARY KEY,
    model_id         uuid NOT NULL REFERENCES digital_twin_models,
    population_id    uuid REFERENCES twin_populations,
    mae              double precision,
    rmse             double precision,
    correlation      double precision,
    coverage_95pct   double precision,
    sample_size      integer NOT NULL,
    snapshot_date    date NOT NULL,
    line             text NOT NULL,
    metric_type      text NOT NULL,
    segment          text NOT NULL,
    window_start     timestamptz NOT NULL,
    window_end       timestamptz NOT NULL,
    status           text NOT NULL CHECK (status IN ('open', 'final', 'restated')),
    version          bigint NOT NULL,
    state            text NOT NULL,
    bias             double precision,
    n_interval       integer NOT NULL DEFAULT 0,
    n_skipped        integer NOT NULL DEFAULT 0,
    n_outliers       integer NOT NULL DEFAULT 0,
    standard_errors  jsonb NOT NULL DEFAULT '{}',
    missing          jsonb NOT NULL DEFAULT '{}',
    evidence_ratio   double precision,
    UNIQUE (model_id, metric_type, segment, window_start)
);
CREATE INDEX fidelity_snapshots_line ON fidelity_snapshots (line, window_start);
CREATE INDEX fidelity_snapshots_population ON fidelity_snapshots (population_id) WHERE population_id IS NOT NULL;
