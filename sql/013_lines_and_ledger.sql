-- Who is champion and since when, what was retrained and why, what is believed of each intervention, and what models learn from.

-- The champion is this row: slices and simulations read it FOR SHARE, a promotion or rollback changes it FOR UPDATE.
CREATE TABLE model_lines (
    line                  text PRIMARY KEY,
    twin_type             twin_type NOT NULL,
    brand                 brand NOT NULL,
    target                text NOT NULL,
    champion              uuid REFERENCES digital_twin_models,
    generation            integer NOT NULL DEFAULT 0,
    policy                text NOT NULL DEFAULT 'auto' CHECK (policy IN ('auto', 'approve', 'off')),
    floor                 timestamptz,
    pane_s                double precision NOT NULL DEFAULT 300 CHECK (pane_s > 0),
    window_s              double precision NOT NULL DEFAULT 3600 CHECK (window_s > 0),
    first_effective_from  timestamptz
);

-- Append-only: one row for everything that ever happened to a line.
CREATE TABLE model_ledger (
    line            text NOT NULL REFERENCES model_lines,
    generation      integer NOT NULL,
    happened        text NOT NULL CHECK (happened IN ('trained', 'promoted', 'rejected', 'rolled_back', 'failed')),
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    model_id        uuid NOT NULL REFERENCES digital_twin_models,
    champion        uuid REFERENCES digital_twin_models,
    effective_from  timestamptz,
    retrain_id      uuid,
    reason          text NOT NULL DEFAULT '',
    comparison      jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (line, generation)
);
CREATE INDEX model_ledger_model ON model_ledger (model_id);
CREATE UNIQUE INDEX model_ledger_retrain ON model_ledger (retrain_id, happened, model_id) WHERE retrain_id IS NOT NULL;

-- One row a cause, whatever the number of alarms.
CREATE TABLE retrain_requests (
    retrain_id    uuid PRIMARY KEY,
    line          text NOT NULL REFERENCES model_lines,
    model_id      uuid NOT NULL REFERENCES digital_twin_models,
    attempt       integer NOT NULL,
    cause         text NOT NULL CHECK (cause IN ('drift', 'request')),
    reason        text NOT NULL,
    evidence      jsonb NOT NULL DEFAULT '{}',
    requested_at  timestamptz NOT NULL,
    queued_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    approved_at   timestamptz,
    status        text NOT NULL DEFAULT 'queued'
                  CHECK (status IN ('queued', 'running', 'promoted', 'rejected', 'failed', 'stale')),
    tries         integer NOT NULL DEFAULT 0,
    started_at    timestamptz,
    finished_at   timestamptz,
    outcome       text NOT NULL DEFAULT ''
);
CREATE INDEX retrain_requests_line ON retrain_requests (line, status, queued_at);
CREATE INDEX retrain_requests_model ON retrain_requests (model_id);

-- One lease a line, so one training in flight a line. The fence rises with every holder: who comes with an older one has lost it.
CREATE TABLE training_leases (
    line          text PRIMARY KEY REFERENCES model_lines,
    fence         bigint NOT NULL DEFAULT 0,
    retrain_id    uuid REFERENCES retrain_requests,
    holder        text,
    heartbeat_at  timestamptz
);

CREATE TABLE experiments (
    experiment_id  text PRIMARY KEY,
    line           text NOT NULL,
    intervention   text NOT NULL,
    observed_at    timestamptz NOT NULL,
    body           jsonb NOT NULL,
    digest         bytea NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX experiments_line ON experiments (line, intervention, observed_at);

-- A version stands for a set of experiments: the same set is the same version, whatever the order in which it came together.
CREATE TABLE effect_versions (
    line         text NOT NULL,
    version      integer NOT NULL CHECK (version > 0),
    experiments  text[] NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (line, version),
    UNIQUE (line, experiments)
);

CREATE TABLE effect_priors (
    line          text NOT NULL,
    version       integer NOT NULL,
    intervention  text NOT NULL,
    prior         jsonb NOT NULL,
    experiments   text[] NOT NULL,
    PRIMARY KEY (line, version, intervention),
    FOREIGN KEY (line, version) REFERENCES effect_versions
);

-- What models learn from: the features of an entity as they were known, and the outcome that followed.
CREATE TABLE entity_history (
    line         text NOT NULL,
    entity_id    text NOT NULL,
    observed_at  timestamptz NOT NULL,
    features     jsonb NOT NULL,
    target       double precision NOT NULL,
    source       text NOT NULL,
    PRIMARY KEY (line, entity_id, observed_at)
);
CREATE INDEX entity_history_time ON entity_history (line, observed_at);
