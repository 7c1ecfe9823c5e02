-- The simulation that an experiment has tested is found by its name, or by the campaign and filters of both.
CREATE INDEX simulation_runs_experiment ON simulation_runs ((request ->> 'experiment_id'), completed_at) WHERE status = 'completed';
CREATE INDEX simulation_runs_tested ON simulation_runs
    (line, jsonb_hash_extended(intervention_config, 0), jsonb_hash_extended(filters, 0), completed_at) WHERE status = 'completed';
