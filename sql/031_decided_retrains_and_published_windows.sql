-- What the fidelity role has decided and published, so that it is neither forged nor repeated.

-- Retrain events that fidelity workers have sent, by the SHA-256 of their content. The trainer stores no other event: anyone who may
-- write to the topic can state any model and attempt. Several workers can decide the same retrain, each with evidence of its own.
CREATE TABLE retrain_decisions (
    retrain_id  uuid NOT NULL,
    digest      bytea NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (retrain_id, digest)
);

-- A retrain that was requested and is not stored yet has no decision: it is decided again.
UPDATE drift_states d SET attempt = NULL
WHERE attempt IS NOT NULL
  AND NOT EXISTS (SELECT FROM retrain_requests r WHERE r.model_id = d.model_id AND r.attempt = d.attempt);

-- Version in which each window without a snapshot was published last: a worker that takes a line over publishes only the others.
-- The row is deleted when the window gets its snapshot, which holds the version from then on. Starts in seconds since the epoch.
CREATE TABLE published_windows (
    line      text NOT NULL,
    model_id  uuid NOT NULL,
    segment   text NOT NULL,
    start     float8 NOT NULL,
    version   bigint NOT NULL,
    PRIMARY KEY (line, model_id, segment, start)
);

CREATE OR REPLACE FUNCTION age_retrains(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted  bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM retrain_requests WHERE retrain_id = ANY(ARRAY(
        SELECT r.retrain_id FROM retrain_requests r
        WHERE r.finished_at < before AND r.status NOT IN ('queued', 'running')
          AND NOT EXISTS (SELECT FROM model_lines l WHERE l.champion = r.model_id)
          AND NOT EXISTS (SELECT FROM training_leases t WHERE t.retrain_id = r.retrain_id)
        LIMIT chunk));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    DELETE FROM retrain_decisions d
    WHERE d.decided_at < before AND NOT EXISTS (SELECT FROM retrain_requests r WHERE r.retrain_id = d.retrain_id);
    RETURN deleted;
END $$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION age_retrains(timestamptz, integer) SET search_path = %I, pg_temp', current_schema());
END $$;
