-- What a window said of its figures' 95 % intervals, and how many independent outcomes its own are worth.

ALTER TABLE fidelity_snapshots
    ADD COLUMN intervals    jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN n_effective  double precision;
