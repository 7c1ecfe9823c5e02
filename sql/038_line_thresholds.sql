-- Thresholds of recommendations and drift rules by line: each change is a version, and none is ever changed or removed.
CREATE TABLE line_thresholds (
    line                  text NOT NULL REFERENCES model_lines,
    version               integer NOT NULL CHECK (version > 0),
    min_effect_threshold  double precision NOT NULL,
    confidence_threshold  double precision NOT NULL,
    drift_limits          jsonb NOT NULL DEFAULT '{}',
    changed_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by            text NOT NULL,
    reason                text NOT NULL DEFAULT '',
    PRIMARY KEY (line, version)
);

-- A run is repeated with the thresholds that its line had; 0 or null are those of the catalogue.
ALTER TABLE simulation_runs ADD COLUMN thresholds_version integer;
