-- The first pane that counts for the detector of a series, where a segment of another dimension has carried its evidence: in a stream
-- that is sorted by that segment, what its rows show is not what rows in general show.
CREATE TABLE detector_restarts (
    model_id      uuid NOT NULL,
    segment       text NOT NULL,
    line          text NOT NULL,
    pane          double precision NOT NULL,
    carried_by    text NOT NULL,
    restarted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model_id, segment)
);
CREATE INDEX detector_restarts_line ON detector_restarts (line);

-- Drift states, alarms, restarts and detector values of series that have no panes left, of models that are champion nowhere.
CREATE OR REPLACE FUNCTION age_drift_states(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    models    uuid[];
    segments  text[];
BEGIN
    before := least(before, now() - least_retention());
    SELECT array_agg(model_id), array_agg(segment) INTO models, segments FROM (
        SELECT model_id, segment FROM (
            SELECT model_id, segment FROM drift_states UNION SELECT model_id, segment FROM detector_alarms
            UNION SELECT model_id, segment FROM detector_floors) s
        WHERE NOT EXISTS (SELECT FROM fidelity_panes p WHERE p.model_id = s.model_id AND p.segment = s.segment)
          AND NOT EXISTS (SELECT FROM model_lines l WHERE l.champion = s.model_id)
          AND NOT EXISTS (SELECT FROM drift_states d WHERE d.model_id = s.model_id AND d.segment = s.segment
                          AND (d.changed_at >= before OR NOT d.said))
          AND NOT EXISTS (SELECT FROM detector_alarms a WHERE a.model_id = s.model_id AND a.segment = s.segment
                          AND a.raised_at >= before)
        LIMIT chunk) ended;
    DELETE FROM detector_floors WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    DELETE FROM detector_restarts WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    DELETE FROM detector_alarms WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    DELETE FROM drift_states WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    RETURN coalesce(array_length(models, 1), 0);
END $$;
