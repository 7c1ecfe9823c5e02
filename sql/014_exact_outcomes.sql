-- What keeps counts true: where each source stands, the newest revision of each event, and the sums of each pane.

-- A revision that was said twice with different content, and the cell of event time that an outcome was counted in.
ALTER TABLE fidelity_tracking
    ADD COLUMN conflict  boolean NOT NULL DEFAULT false,
    ADD COLUMN pane      double precision,
    ADD COLUMN width_s   double precision;

-- A source is a partition of one incarnation of a topic, written topic:partition:incarnation. `elements` is the number of its rows
-- among outcomes and refused records; last_time and last_digest tell whether the topic is still the one that was read.
CREATE TABLE source_positions (
    source          text PRIMARY KEY,
    topic           text NOT NULL,
    partition       integer NOT NULL,
    incarnation     integer NOT NULL,
    last_offset     bigint NOT NULL DEFAULT -1,
    last_time       timestamptz,
    last_digest     bytea,
    elements        bigint NOT NULL DEFAULT 0,
    watermark       timestamptz,
    read_to_end_at  timestamptz,
    UNIQUE (topic, partition, incarnation)
);

-- Offsets that a source never gave: lost to retention, or no record at all.
CREATE TABLE source_gaps (
    source        text NOT NULL REFERENCES source_positions,
    first_offset  bigint NOT NULL,
    last_offset   bigint NOT NULL,
    noticed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, first_offset),
    CHECK (first_offset <= last_offset)
);

-- Records and single elements that were refused, as they came. refusal_id is uuid5 of source, offset and element.
CREATE TABLE refused_records (
    refusal_id     uuid PRIMARY KEY,
    source         text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    source_offset  bigint NOT NULL,
    element        integer NOT NULL,
    tracked_at     timestamptz NOT NULL,
    key            bytea,
    value          bytea,
    headers        jsonb NOT NULL DEFAULT '[]',
    kind           text NOT NULL,
    reason         text NOT NULL,
    refused_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at        timestamptz,
    UNIQUE (source, source_offset, element)
);
CREATE INDEX refused_records_unsent ON refused_records (refused_at) WHERE sent_at IS NULL;

-- The highest revision of an event that was not too late, and what it adds to which series; nothing where it is no number.
CREATE TABLE event_heads (
    event_id      uuid PRIMARY KEY,
    revision      integer NOT NULL,
    digest        bytea NOT NULL,
    line          text NOT NULL,
    model_id      uuid,
    segments      text[] NOT NULL,
    pane          double precision,
    width_s       double precision,
    contribution  bigint[]
);

-- Sums of a series in a cell of event time, as one source brought them; integers, in the quanta of the engine. The row is
-- the message: the highest version is the true one. Cells of a series are a whole pane, or an equal part of one.
CREATE TABLE fidelity_panes (
    model_id           uuid NOT NULL,
    segment            text NOT NULL,
    pane               double precision NOT NULL,
    width_s            double precision NOT NULL CHECK (width_s > 0),
    source             text NOT NULL REFERENCES source_positions,
    line               text NOT NULL,
    version            bigint NOT NULL DEFAULT 1,
    last_offset        bigint NOT NULL,
    n                  numeric NOT NULL,
    n_interval         numeric NOT NULL,
    n_inside           numeric NOT NULL,
    predicted          numeric NOT NULL,
    actual             numeric NOT NULL,
    predicted_squared  numeric NOT NULL,
    actual_squared     numeric NOT NULL,
    product            numeric NOT NULL,
    absolute_error     numeric NOT NULL,
    n_outliers         numeric NOT NULL,
    log_bet_0          numeric NOT NULL,
    log_bet_1          numeric NOT NULL,
    log_bet_2          numeric NOT NULL,
    log_bet_3          numeric NOT NULL,
    log_bet_4          numeric NOT NULL,
    changed_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model_id, segment, pane, width_s, source)
);
CREATE INDEX fidelity_panes_source ON fidelity_panes (source, last_offset);
CREATE INDEX fidelity_panes_line ON fidelity_panes (line, pane);

-- Into how many cells a pane of a line is split for the detector.
CREATE TABLE detector_cells (
    line    text PRIMARY KEY,
    splits  integer NOT NULL CHECK (splits BETWEEN 1 AND 64)
);

-- Where the detector of a series stood at the floor of its line: what lies below is no longer folded.
CREATE TABLE detector_floors (
    model_id    uuid NOT NULL,
    segment     text NOT NULL,
    line        text NOT NULL,
    floor       double precision NOT NULL,
    log_values  double precision[] NOT NULL,
    last_count  bigint NOT NULL,
    log_peak    double precision NOT NULL,
    PRIMARY KEY (model_id, segment)
);

-- The state of a series, and the latch of its alarm: once raised it stays. The event that tells of the last change is kept until
-- it was said; `attempt` is the number of the last retrain that was asked for.
CREATE TABLE drift_states (
    model_id        uuid NOT NULL,
    segment         text NOT NULL,
    line            text NOT NULL,
    state           text NOT NULL,
    evidence_ratio  double precision,
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    alarmed_at      timestamptz,
    attempt         integer,
    event           jsonb NOT NULL,
    said            boolean NOT NULL DEFAULT false,
    PRIMARY KEY (model_id, segment)
);
CREATE INDEX drift_states_line ON drift_states (line);
