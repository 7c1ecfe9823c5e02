-- For pages of all simulations, newest first.
CREATE INDEX simulation_runs_newest ON simulation_runs (started_at, simulation_id);
