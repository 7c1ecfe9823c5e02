-- What the detector has found for good, and what is expected of a model before its outcomes arrive.

-- The latch of a detector: its alarm once raised stays until the model is replaced, whatever is restated.
CREATE TABLE detector_alarms (
    model_id   uuid NOT NULL,
    segment    text NOT NULL,
    line       text NOT NULL,
    raised_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model_id, segment)
);
CREATE INDEX detector_alarms_line ON detector_alarms (line);

-- The newest estimate of each line's fidelity, from the features it was asked about; nothing is ever decided by it unasked.
CREATE TABLE estimated_fidelity (
    line      text PRIMARY KEY REFERENCES model_lines,
    model_id  uuid NOT NULL,
    made_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    estimate  jsonb NOT NULL
);
