-- A line may demand a real experiment before a deployment is recommended.
ALTER TABLE line_thresholds ADD COLUMN require_test boolean NOT NULL DEFAULT false;

-- The method of effects that a run is computed by, pinned with its effects version; null for runs from before this column: method 1.
ALTER TABLE simulation_runs ADD COLUMN effects_method integer;
